"""A month that a person decides about, and money that goes back before the next invoice, to the cent."""

from pathlib import Path

import pytest

from pipeline.billing.approvals import Blocked, Verdict
from pipeline.catalog.accounts import account_of
from pipeline.ledger import approving
from pipeline.ledger.carrying import Said, read_carried
from pipeline.ledger.statements import prepare_grant
from pipeline.sink.crediting import complete, plan_note
from pipeline.sink.stripe.credit_notes import StripeCreditNotes
from tests.support.bench import stripe_settings
from tests.support.months import AMOUNT_MAX, Months, open_months

LATE = [f"late{n}" for n in range(1_200)]  # above the limit of 1,000


def decide(months: Months, verdict: Verdict) -> None:
    account = account_of(months.tenants, "acme")
    waits = approving.waiting(months.ledger, account, months.tenants, months.now_ms, AMOUNT_MAX)
    (found,) = [each for each in waits.found if each.blocks]
    item = approving.prepare_approval("acme", found, verdict, "ann", "why", months.now_ms)
    assert months.journal().write([item])[0].why is None


async def october(months: Months) -> None:
    """Use two units in October and close it."""
    months.go("2026-10-05T10:00")
    months.use("c1", "c2", when="2026-10-05T09:00")
    await months.flush()
    await months.month("2026-11-01")


@pytest.mark.parametrize(
    "verdict, lines, total",
    [
        ("approved", [(None, 99), ("adjusted", 118_800)], 118_899),
        ("rejected", [(None, 99), ("adjusted", 118_800), ("waived", -118_800)], 99),
    ],
)
async def test_a_month_waits_for_a_person_and_is_invoiced_as_the_person_says(
    tmp_path: Path, verdict: Verdict, lines: list[tuple[str | None, int]], total: int
) -> None:
    async with open_months(tmp_path) as months:
        await october(months)
        months.go("2026-11-10T00:00")
        months.use(*LATE, when="2026-10-20T00:00")
        months.use("n1", when="2026-11-09T00:00")
        await months.flush()

        waiting = await months.month("2026-12-01")
        assert (waiting.state, waiting.corrections) == ("open", Blocked(1, 118_800))
        assert "resmeter corrections list --account acme" in " ".join(waiting.texts)
        assert months.invoices()[-1].status == "draft"

        decide(months, verdict)
        (done,) = await months.look()

        assert (done.state, done.amount, done.corrections) == ("invoiced", total, Blocked(0, 0))
        invoice = months.invoices()[-1]
        assert (months.lines(invoice), invoice.total) == (lines, total)
        assert months.balance() == 0


async def test_what_a_credit_note_gave_back_is_not_taken_off_the_next_invoice(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months)
        (october_invoice,) = (each for each in months.invoices() if each.total == 198)
        months.go("2026-11-10T00:00")
        months.take_back("c1", "c2")
        await months.month("2026-12-01")
        account = account_of(months.tenants, "acme")
        said = Said("ann", "wanted on October's invoice", months.now_ms)

        def write(line: bytes) -> str | None:
            item = prepare_grant(months.ledger, account, months.tenants, line)
            return months.journal().write([item])[0].why

        carried = read_carried(months.ledger, account, months.tenants, months.now_ms)
        biller = StripeCreditNotes(stripe_settings(months.base_url))
        invoices = await biller.invoices("cus_acme", "usd")
        (wanted,) = (each for each in invoices if each.id == october_invoice.id)
        assert write(plan_note(carried, wanted, 150, None, said)) is None
        carried = read_carried(months.ledger, account, months.tenants, months.now_ms)
        (made,) = await complete(carried, biller, write, said)
        await biller.close()
        months.go("2026-12-05T00:00")
        months.use("d1", "d2", when="2026-12-04T00:00")
        await months.flush()

        done = await months.month("2027-01-01")

        assert (made.state, carried.amount) == ("made", 48)
        assert (done.state, done.amount) == ("invoiced", 150)
        invoice = months.invoices()[-1]
        assert months.lines(invoice) == [(None, 198), ("carried", -198), ("credit_note", 150)]
        assert invoice.total == 150
        assert months.balance() == 0
