"""What people approve or reject before a period is closed, from the ledger and back through the journal."""

from decimal import Decimal

import pytest

from pipeline.billing.approvals import Verdict
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, approving, months
from pipeline.ledger.approving import Change, Waiting
from pipeline.ledger.month_entries import AccountStanding, Approval, Closing, judge
from pipeline.ledger.statements import prepare_closing
from pipeline.usage.record import UsageRecord
from tests.contract.test_ledger_statements import (
    ACME,
    NOVEMBER,
    OCTOBER,
    Bench,
    Prices,
    at,
    charge,
    reversal,
)
from tests.support.journal import written

NOW = at("2026-11-20T00:00")
CLOSE = at("2026-12-01T00:45")


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    """October is closed with two units; one was taken back since, and another came late."""
    bench = Bench(ledger)
    bench.store("2026-10-05T00:00", *(charge(c, "2026-10-05T00:00") for c in ("c1", "c2")))
    bench.close(OCTOBER, "2026-11-01T00:45")
    bench.store("2026-11-03T00:00", reversal("c1", "2026-11-03T00:00"))
    bench.store("2026-11-04T00:00", charge("c3", "2026-10-30T00:00"))
    return bench


def waiting(bench: Bench, amount_max: str = "0", now: int = NOW) -> Waiting:
    return approving.waiting(bench.ledger, ACME, Prices("0.99"), now, Decimal(amount_max))


def say(bench: Bench, verdict: Verdict, number: int = 0) -> tuple[Approval, str | None]:
    """Say something about what waits; return the journal's item and why it is void."""
    found = waiting(bench).found[number]
    item = approving.prepare_approval("acme", found, verdict, "ann", "why", NOW)
    return item, written(bench.ledger, [item], "a")[0].why


def missing(bench: Bench) -> list[str]:
    found = prepare_closing(
        bench.ledger,
        ACME,
        Prices("0.99"),
        NOVEMBER.name,
        CLOSE,
        lambda _: False,
        amount_max=Decimal(0),
    )
    return [each.what for each in found.missing]


def more(bench: Bench, *records: UsageRecord) -> None:
    bench.store("2026-11-05T00:00", *records)


def test_what_waits_says_which_units_changed_and_why(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    waits = waiting(bench)
    (found,) = waits.found
    changes = approving.changes(bench.ledger, waits, found)

    assert (found.of_period, found.amount, found.blocks) == (OCTOBER, 99, True)
    assert [(c.conversation, c.why, c.reason, c.placed.state) for c in changes] == [
        ("c1", "reversed", "customer_returned", "taken_back"),
        ("c3", "late", "silence", "metered"),
        ("c4", "late", "silence", "metered"),
    ]
    assert changes[0] == Change(
        id="acme:c1:1",
        conversation="c1",
        outcome="resolution",
        occurred_at=at("2026-10-05T00:00"),
        why="reversed",
        reason="customer_returned",
        changed_at=at("2026-11-03T00:00"),
        placed=changes[0].placed,
    )


def test_below_the_limit_nothing_waits_and_a_person_may_decide_all_the_same(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    (found,) = waiting(bench, amount_max="100").found
    assert not found.blocks

    say(bench, "rejected")

    (found,) = waiting(bench, amount_max="100").found
    assert found.verdict == "rejected"
    assert ("waived", "2026-10-01", -99) in bench.lines("2026-11", "2026-11-20T00:00")


def test_the_close_waits_for_an_approval_and_then_closes_with_the_same_amounts(
    bench: Bench,
) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    assert missing(bench) == ["unapproved"]

    item, why = say(bench, "approved")

    assert (item.amount, item.of_period, why) == (99, OCTOBER.start_ms, None)
    assert missing(bench) == []


def test_what_changes_after_a_decision_waits_again(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    say(bench, "approved")

    more(bench, charge("c5", "2026-10-31T00:00"))

    assert missing(bench) == ["unapproved"]
    (found,) = waiting(bench, amount_max="1000").found
    assert found.blocks


def test_the_first_verdict_counts(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    item, _ = say(bench, "approved")

    _, why = say(bench, "rejected")

    assert why == "it is decided already"
    waits = waiting(bench)
    assert waits.said[item.id] == item


def test_an_unmatched_reversal_can_be_approved_and_not_rejected(bench: Bench) -> None:
    more(bench, reversal("unknown", "2026-11-05T00:00"))
    waits = waiting(bench, amount_max="100")
    (found,) = [each for each in waits.found if each.what == "unmatched"]
    (change,) = approving.changes(bench.ledger, waits, found)

    with pytest.raises(ConfigurationError, match="nothing to reject"):
        approving.prepare_approval("acme", found, "rejected", "ann", "why", NOW)
    say(bench, "approved", waits.found.index(found))

    assert (change.conversation, change.why) == ("unknown", "reversed")
    assert not any(each.blocks for each in waiting(bench, amount_max="100").found)


def test_after_the_close_nobody_rejects(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    found = waiting(bench).found[0]
    item = approving.prepare_approval("acme", found, "rejected", "ann", "why", NOW)
    bench.close(NOVEMBER, "2026-12-01T00:45")

    assert written(bench.ledger, [item], "b")[0].why == "the period is closed already"


def test_a_close_that_does_not_know_a_rejection_is_void(bench: Bench) -> None:
    """It was prepared before the person spoke, and would charge what was rejected."""
    more(bench, charge("c4", "2026-10-31T00:00"))
    before = prepared(bench)
    _, why = say(bench, "rejected")
    assert why is None

    assert str(written(bench.ledger, [before], "b")[0].why).startswith("a person has rejected")
    after = prepared(bench)

    assert written(bench.ledger, [after], "b")[0].why is None
    assert (before.waived, after.waived) == ((), (OCTOBER.start_ms,))


def test_a_ledger_writes_rejections_and_closings_to_another_journal(bench: Bench) -> None:
    more(bench, charge("c4", "2026-10-31T00:00"))
    say(bench, "rejected")
    written(bench.ledger, [prepared(bench)], "a")
    with bench.ledger.writing() as connection:
        months.forget(connection)
        items = list(months.unjournalled(connection))

    assert [type(item).__name__ for item in items] == ["Approval", "Closing", "Closing"]
    standing = AccountStanding()
    assert [judge(standing, item) for item in items] == [None, None, None]


def prepared(bench: Bench) -> Closing:
    found = prepare_closing(
        bench.ledger, ACME, Prices("0.99"), NOVEMBER.name, CLOSE, lambda _: False
    )
    assert found.closing is not None, found.missing
    return found.closing
