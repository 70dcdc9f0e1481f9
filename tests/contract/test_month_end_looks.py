"""The looks of a sink at the periods that have ended: whom it asks, what it publishes and logs."""

from pathlib import Path

from structlog.testing import capture_logs

from pipeline.dev.emulator.faults import Fault
from pipeline.sink.month_end import REST_LOOKS, MonthEnd
from tests.support.months import Months, open_months
from tests.support.stripe_account import HOUR, NOVEMBER

TWO = '[tenants.acme]\nstripe_customer = "cus_acme"\n[tenants.bluejay]\nstripe_customer = "cus_b"\n'


async def looked(months: Months, *times: str) -> list[str]:
    """Let a sink look at these times; return what it logs."""
    async with months.closer() as (closer, _):

        async def may_look() -> bool:
            return True

        end = MonthEnd(closer, months.metrics, may_look, 300)
        with capture_logs() as logged:
            for text in times:
                months.go(text)
                await end.look(months.now_ms / 1000)
    return [each["event"] for each in logged if each["event"].startswith("invoice")]


def value(months: Months, name: str, **labels: str) -> float | None:
    return months.registry.get_sample_value(name, labels)


async def test_a_change_is_logged_once_and_the_money_that_waits_is_published(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        months.go("2026-10-05T10:00")
        months.use("c1", "c2", when="2026-10-05T09:00")
        await months.flush()

        early = await looked(months, "2026-11-01T00:02", "2026-11-01T00:07")
        waits = value(months, "resmeter_invoices", state="open")
        money = value(months, "resmeter_invoice_money", state="open", currency="usd")
        age = value(months, "resmeter_invoice_age_seconds")
        late = await looked(months, "2026-11-01T00:50", "2026-11-01T00:55")

        assert early == ["invoice_open"]
        assert (waits, money, age) == (1, 1.98, 7 * 60)
        assert late == ["invoice_final"]
        assert value(months, "resmeter_invoices", state="open") == 0
        assert value(months, "resmeter_invoice_age_seconds") == 0


async def test_a_draft_that_may_not_be_held_is_published_with_its_deadline(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        months.go("2026-10-05T10:00")
        months.use("c1", when="2026-10-05T09:00")
        await months.flush()
        months.emulator.state.faults.append(Fault("403", path="/v1/invoices/*"))

        await looked(months, "2026-11-01T00:02")

        assert value(months, "resmeter_invoices", state="unheld") == 1
        until = value(months, "resmeter_invoice_unheld_until_timestamp_seconds")
        assert until == NOVEMBER + HOUR


async def test_who_has_no_draft_is_asked_again_after_a_rest(tmp_path: Path) -> None:
    async with open_months(
        tmp_path, tenant_file=TWO, customers=("cus_acme", "cus_b"), subscribes=False
    ) as months:
        months.go("2026-11-01T08:00")
        requests = months.emulator.state.requests
        requests.clear()

        await looked(months, *(f"2026-11-01T08:{minute:02}" for minute in range(REST_LOOKS)))
        rested = len(requests)
        await looked(months, *(f"2026-11-01T09:{minute:02}" for minute in range(REST_LOOKS + 1)))

        assert rested == 2
        assert len(requests) == 2 + 4
