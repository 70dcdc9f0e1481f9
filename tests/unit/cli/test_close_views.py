"""What `resmeter close` prints about the periods of accounts."""

import orjson
import pytest

from pipeline.billing.periods import Calendar
from pipeline.cli.views.close import print_nothing_to_close, print_progress, print_progress_as_json
from pipeline.events.times import parse_time
from pipeline.sink.progress import Progress
from tests.support.command import resmeter

OCTOBER = Calendar().period_at(parse_time("2026-10-10T00:00:00Z"))


def progress(state: str, amount: int | None, *texts: str) -> Progress:
    invoice = "in_1" if amount is not None else None
    return Progress("acme", OCTOBER, state, "usd", amount, invoice, texts)  # type: ignore[arg-type]


def test_each_period_has_a_line_and_what_is_missing_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for each in (
        progress("invoiced", 8217),
        progress("open", 3168, "undelivered: 3 units of acme are not at Stripe yet"),
        progress("waiting", None, "Stripe's sums count 0 resolution, and 1 were delivered"),
        progress("stopped", 99),
        progress("missed", -99),
        progress("without", None),
    ):
        print_progress(each)

    assert capsys.readouterr().out.splitlines() == [
        "acme, 2026-10-01: 82.17 USD, invoiced (in_1)",
        "acme, 2026-10-01: 31.68 USD, not closed (in_1)",
        "  undelivered: 3 units of acme are not at Stripe yet",
        "acme, 2026-10-01: waits",
        "  Stripe's sums count 0 resolution, and 1 were delivered",
        "acme, 2026-10-01: 0.99 USD, needs you (in_1)",
        "acme, 2026-10-01: -0.99 USD, lacking on its final invoice (in_1)",
        "acme, 2026-10-01: closed without an invoice",
    ]


def test_a_close_with_nothing_to_do_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_nothing_to_close(["acme", "bluejay"])

    printed = capsys.readouterr()
    assert printed.out == ""
    assert " ".join(printed.err.split()) == (
        "nothing to close: each period of acme, bluejay that has ended is closed, and its invoice is "
        "complete. `resmeter close --check` shows the next period"
    )


def test_as_json_a_period_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_progress_as_json(progress("open", 99, "unpriced: why"))

    assert orjson.loads(capsys.readouterr().out) == {
        "account": "acme",
        "period": "2026-10-01",
        "state": "open",
        "currency": "usd",
        "amount": "0.99",
        "invoice": "in_1",
        "missing": ["unpriced: why"],
    }


@pytest.mark.parametrize(
    "arguments", [["--own-invoice"], ["acme", "--own-invoice"], ["a", "b", "--own-invoice"]]
)
def test_an_invoice_of_its_own_needs_one_account_and_a_period(arguments: list[str]) -> None:
    result = resmeter("close", *arguments, env={})

    assert result.returncode == 2
    assert b"--own-invoice needs one account and --period" in result.stderr
