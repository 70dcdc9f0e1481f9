"""`resmeter ledger resume`: what an operator says about a ledger that is outdated."""

import pytest

from pipeline.dev.emulator.meter_events import PAST_SECONDS_MAX
from pipeline.ledger import decisions, deliveries, holds
from pipeline.ledger.entries import Decided, Decision
from pipeline.sink.stripe.meter import body_sha256
from tests.support.bench import HOUR_MS, T0, TOPIC, Bench, record
from tests.support.command import resmeter
from tests.support.environment import clean_environment
from tests.support.tenants import export_catalog


def resume(bench: Bench, *options: str) -> tuple[int, str]:
    env = {
        **clean_environment(),
        "RESMETER_LEDGER__URL": f"sqlite:///{bench.folder}/ledger.sqlite",
        "RESMETER_CATALOG_EXPORT": export_catalog(
            bench.folder / "catalog.ndjson", bench.folder / "resmeter.toml"
        ),
    }
    result = resmeter("ledger", "resume", *options, env=env)
    return result.returncode, result.stderr.decode()


def hold(bench: Bench, reached: int) -> None:
    """Let the ledger learn that a lost one had partition 0 up to an offset."""
    holds.place(bench.ledger, TOPIC, {0: 0}, {0: reached}, T0)


async def test_what_a_lost_ledger_may_have_sent_becomes_uncertain_and_new_usage_is_delivered(
    bench: Bench,
) -> None:
    bench.store(record("c1"), record("c2"))
    hold(bench, 2)
    bench.store(record("c3", tenant_id="bluejay"))

    status, said = resume(bench, "--perhaps-sent", "--reason", "a restored backup")
    await bench.flush()

    assert status == 0
    assert "1 meter event uncertain" in said
    assert bench.at_stripe() == {"cus_bluejay": 1}
    assert deliveries.stuck_counts(bench.ledger)["uncertain"] == 1


async def test_a_meter_event_that_was_about_to_be_sent_becomes_uncertain_too(bench: Bench) -> None:
    bench.store(record("c1"))
    planned = bench.plan()
    assert planned.events == 1
    hold(bench, 2)
    bench.store(record("c2"))

    resume(bench, "--perhaps-sent", "--reason", "a restored backup")
    await bench.flush()

    assert deliveries.stuck_counts(bench.ledger)["uncertain"] == 2
    assert bench.at_stripe() == {}


def test_what_a_lost_ledger_may_have_sent_is_released_only_after_a_comparison(bench: Bench) -> None:
    bench.store(record("c1"))
    hold(bench, 1)
    resume(bench, "--perhaps-sent", "--reason", "a restored backup")
    (found,) = decisions.waiting(bench.ledger)

    def release(*, stripe_checked: bool) -> Decided | str:
        decision = Decision(
            action="release", at=T0, who="ops", reason="x", stripe_checked=stripe_checked
        )
        return decisions.decide(
            bench.ledger, found, decision, bench.tenants, body_sha256, apply=False
        )

    assert found.perhaps_counted
    assert "Stripe may have counted it" in str(release(stripe_checked=False))
    assert isinstance(release(stripe_checked=True), Decided)


async def test_a_tenant_without_a_customer_may_have_had_one_in_the_lost_ledger(
    bench: Bench,
) -> None:
    """The operator's tenant file may be another one than the sink's, or none."""
    bench.store(record("c1"))
    hold(bench, 1)
    file = bench.folder / "resmeter.toml"
    content = file.read_text()
    file.write_text("")

    _, said = resume(bench, "--perhaps-sent", "--reason", "a restored backup")
    file.write_text(content)
    await bench.flush()

    assert "1 meter event uncertain" in said
    assert bench.at_stripe() == {}


async def test_what_is_rejected_may_have_been_released_in_the_lost_ledger(bench: Bench) -> None:
    bench.store(record("c1", at=T0 - PAST_SECONDS_MAX * 1000 - HOUR_MS))
    await bench.flush()
    assert deliveries.stuck_counts(bench.ledger)["rejected"] == 1
    hold(bench, 1)

    _, said = resume(bench, "--perhaps-sent", "--reason", "a restored backup")

    assert "1 meter event uncertain" in said
    assert [found.perhaps_counted for found in decisions.waiting(bench.ledger)] == [True]


async def test_a_reversal_is_not_netted_with_a_charge_that_may_have_been_sent(bench: Bench) -> None:
    bench.store(record("c1"), record("c1", 2, -1), record("c2"))
    hold(bench, 3)

    resume(bench, "--perhaps-sent", "--reason", "a restored backup")

    (found,) = decisions.waiting(bench.ledger)
    assert found.event.value == 2
    (pending,) = deliveries.pending_sums(bench.ledger)
    assert (pending.records, pending.quantity) == (1, -1)


async def test_what_was_never_sent_is_sent(bench: Bench) -> None:
    bench.store(record("c1"), record("c2"))
    hold(bench, 3)

    status, _ = resume(bench, "--never-sent", "--reason", "offsets were copied")
    await bench.flush()

    assert status == 0
    assert bench.at_stripe() == {"cus_acme": 2}


def test_nothing_is_answered_before_the_sink_has_read_everything_again(bench: Bench) -> None:
    bench.store(record("c1"))
    hold(bench, 5)

    status, said = resume(bench, "--perhaps-sent", "--reason", "a restored backup")

    assert status == 1
    assert "let a sink read the rest first" in said
    assert holds.open_holds(bench.ledger)


@pytest.mark.parametrize("option", ["--perhaps-sent", "--never-sent"])
def test_an_answer_needs_a_reason(bench: Bench, option: str) -> None:
    hold(bench, 1)

    status, said = resume(bench, option)

    assert status == 2
    assert "say why with --reason" in said
