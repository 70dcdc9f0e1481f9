"""What surrounds the emulator's objects: accounts, faults, settings, a file that keeps them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe

from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.history import History
from pipeline.dev.emulator.server import Emulator, running
from pipeline.dev.process import running as running_process
from pipeline.errors import ConfigurationError, UnavailableError
from tests.support.stripe_account import (
    HOUR,
    NOVEMBER,
    OCTOBER,
    Account,
    client_of,
    error_of,
    new_account,
    open_account,
)

# --- a file that keeps the state -------------------------------------------------------------------


def month(account: Account) -> stripe.Invoice:
    """Let a month end with units and an item, and return its draft."""
    account.subscribe(
        account.price().id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )
    account.now("2026-10-15")
    account.use(3, "2026-10-14", "e1")
    account.now("2026-11-01T00:01")
    draft = account.invoices()[-1]
    account.item(-99, invoice=draft.id)
    return draft


@contextmanager
def kept(path: Path, clock: float | None = None) -> Iterator[tuple[Emulator, str]]:
    """Run an emulator on a file."""
    with History(path) as history:
        emulator = Emulator(clock=Clock(clock), history=history)
        with running(emulator) as base_url:
            yield emulator, base_url


def test_a_restarted_emulator_has_the_same_objects_and_the_same_time(tmp_path: Path) -> None:
    with kept(tmp_path / "state", OCTOBER) as (emulator, base_url):
        account = new_account(emulator, base_url)
        draft = month(account)
        account.use(1, "2026-10-31", "e2")
        before = account.v1.invoices.retrieve(draft.id).to_dict()
        now = emulator.clock.now()

    with kept(tmp_path / "state") as (emulator, base_url):
        client = client_of(base_url)
        assert client.v1.invoices.retrieve(draft.id).to_dict() == before
        assert 0 <= emulator.clock.now() - now < HOUR
        again = account._replace(emulator=emulator, base_url=base_url, client=client)
        assert "already exists" in str(error_of(lambda: again.use(1, "2026-10-31", "e2")))
        again.now("2026-11-01T01:01")
        assert client.v1.invoices.retrieve(draft.id).status == "open"


def test_an_idempotency_key_is_known_after_a_restart(tmp_path: Path) -> None:
    params: Any = {"name": "Acme"}
    options: Any = {"idempotency_key": "k1"}
    ids = []
    for _ in range(2):
        with kept(tmp_path / "state") as (_, base_url):
            ids.append(client_of(base_url).v1.customers.create(params, options).id)

    assert ids[0] == ids[1]


def test_a_file_without_its_last_bytes_loses_only_the_call_that_had_no_answer(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    with kept(path) as (_, base_url):
        first = client_of(base_url).v1.customers.create({"name": "kept"})
        client_of(base_url).v1.customers.create({"name": "lost"})
    path.write_bytes(path.read_bytes()[:-5])

    with kept(path) as (_, base_url):
        customers = client_of(base_url).v1.customers
        assert [each.id for each in customers.list().data] == [first.id]
        second = customers.create({"name": "new"})
    with kept(path) as (_, base_url):
        customers = client_of(base_url).v1.customers
        assert [each.id for each in customers.list().data] == [second.id, first.id]


def test_a_file_of_something_else_is_refused_by_its_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("[tenants.acme]\n")

    with (
        History(path) as history,
        pytest.raises(ConfigurationError, match="line 1 is not an emulator's") as caught,
    ):
        Emulator(history=history)

    assert str(path) in caught.value.problems[0]


def test_a_file_is_used_by_one_emulator(tmp_path: Path) -> None:
    with (
        History(tmp_path / "state"),
        pytest.raises(UnavailableError, match="another emulator uses"),
    ):
        History(tmp_path / "state")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--state"):
        History(tmp_path / "no folder" / "state")


def test_the_command_keeps_its_state_in_a_file(tmp_path: Path) -> None:
    tenants = tmp_path / "resmeter.toml"
    tenants.write_text('[tenants.acme]\nstripe_customer = "cus_acme"\n')
    arguments = ["emulator", "--port", "0", "--state", str(tmp_path / "state")]
    options = ["--tenants", str(tenants), "--clock", "2026-10-01", "--grace", "72", "--lag", "9"]
    created: list[str] = []
    for number, more in enumerate((options, ["--tenants", str(tenants)])):
        log = tmp_path / f"log.{number}"
        with running_process("emulator", [*arguments, *more], os.environ, log) as process:
            client = client_of(process.find(r"ready at (http://\S+)", 60))
            listed = [each.id for each in client.v1.customers.list().data]
            assert listed == [*created[::-1], "cus_acme"]
            created.append(client.v1.customers.create({}).id)
            invoice = client.v1.invoices.create({"customer": "cus_acme", "auto_advance": True})
            assert invoice.automatically_finalizes_at == invoice.created + 72 * HOUR
            assert invoice.created - OCTOBER < HOUR
            process.stop()


# --- accounts --------------------------------------------------------------------------------------


def test_a_connected_account_has_its_own_objects_and_keys() -> None:
    with running(Emulator(accounts=["acct_1"])) as base_url:
        ours, theirs = client_of(base_url), client_of(base_url, account="acct_1")
        options: Any = {"idempotency_key": "k1"}
        mine = ours.v1.customers.create({"name": "ours"}, options)
        other = theirs.v1.customers.create({"name": "theirs"}, options)

        assert [each.name for each in ours.v1.customers.list().data] == ["ours"]
        assert [each.name for each in theirs.v1.customers.list().data] == ["theirs"]
        assert (mine.name, other.name) == ("ours", "theirs")


def test_an_account_that_the_key_cannot_use_is_a_403() -> None:
    with running(Emulator(accounts=["acct_1"])) as base_url:
        error = error_of(client_of(base_url, account="acct_2").v1.customers.list)

    assert isinstance(error, stripe.PermissionError)
    assert "account_invalid" in str(error.http_body)


# --- faults, settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "items"),
    [("500_before", 0), ("cut_after", 1), ("foreign_before", 0), ("foreign_after", 1), ("429", 0)],
)
def test_a_fault_can_hit_any_path(kind: Any, items: int) -> None:
    with open_account() as account:
        account.emulator.state.faults.append(Fault(kind, path="/v1/invoiceitems", status=502))

        error_of(lambda: account.item(5))

        assert len(account.v1.invoice_items.list().data) == items
        account.item(6)
        assert len(account.v1.invoice_items.list().data) == items + 1


def test_a_fault_can_hit_reading_and_a_pattern_of_paths() -> None:
    with open_account() as account:
        invoice = account.v1.invoices.create({"customer": account.customer})
        faults = account.emulator.state.faults
        faults.append(Fault("500_before", method="GET", path="/v1/invoices/*"))
        faults.append(Fault("500_after", path="/v1/invoices/*/finalize"))

        assert error_of(lambda: account.v1.invoices.retrieve(invoice.id)).http_status == 500
        assert error_of(lambda: account.v1.invoices.finalize_invoice(invoice.id)).http_status == 500
        assert account.v1.invoices.retrieve(invoice.id).status == "paid"  # of nothing
        assert faults == []


async def test_control_sets_how_late_summaries_are_and_how_long_drafts_wait() -> None:
    async def call(base_url: str, body: dict[str, Any]) -> tuple[int, Any]:
        url = f"{base_url}/_emulator/settings"
        async with aiohttp.ClientSession() as session, session.put(url, json=body) as response:
            return response.status, await response.json()

    emulator = Emulator()
    with running(emulator) as base_url:
        status, content = await call(base_url, {"lag_seconds": 600, "grace_seconds": 259_200})
        kept = await call(base_url, {})
        wrong = [
            (await call(base_url, body))[0]
            for body in ({"grace_seconds": 259_201}, {"lag_seconds": -1}, {"lag": 1})
        ]

    assert (status, content) == (200, {"lag_seconds": 600, "grace_seconds": 259_200})
    assert kept == (200, content)
    assert wrong == [400, 400, 400]


def test_setting_the_clock_makes_what_falls_due_without_another_call() -> None:
    with open_account() as account:
        draft = month(account)

        account.emulator.backend.set_clock(NOVEMBER + 2 * HOUR)

        assert account.emulator.state.invoices.shown(draft.id, 0)["status"] == "open"


def test_a_key_of_more_than_255_characters_is_an_error() -> None:
    with running(Emulator(clock=Clock(OCTOBER))) as base_url:
        account = new_account(Emulator(), base_url)
        call = account.v1.customers.create

        assert error_of(lambda: call({}, {"idempotency_key": "k" * 256})).http_status == 400
        assert call({}, {"idempotency_key": "k" * 255}).id
