"""A pending -1 is filed under the time of its charge: the same on SQLite and PostgreSQL."""

from sqlalchemy import select, update

from pipeline.ledger import Ledger, adoption, deliveries, open_ledger, pending, upgrade
from pipeline.ledger.journal import Entry, Placed, plan_of
from pipeline.ledger.tables import pending_record
from pipeline.sink.grouping import group_records
from tests.contract.test_ledger_schema import at_revision
from tests.support.journal import JOURNAL
from tests.support.ledger import HOUR_MS, T0, frozen, record, stored

DAY_MS = 24 * HOUR_MS


def rows(ledger: Ledger) -> list[tuple[int, int, str | None]]:
    """Return time, quantity and missing charge of the pending records."""
    p = pending_record.c
    with ledger.reading() as connection:
        query = select(p.occurred_at, p.quantity, p.missing_charge).order_by(p.seq)
        return [tuple(row) for row in connection.execute(query)]


def test_a_reversal_has_the_time_of_its_charge(ledger: Ledger) -> None:
    stored(ledger, record("c1", at=T0))
    stored(ledger, record("c1", 2, -1, at=T0 + 9 * DAY_MS, supersedes=1))

    assert rows(ledger) == [(T0, 1, None), (T0, -1, None)]


def test_a_reversal_in_the_batch_of_its_charge_has_the_time_of_the_charge(ledger: Ledger) -> None:
    stored(ledger, record("c1", 2, -1, at=T0 + DAY_MS, supersedes=1), record("c1", at=T0))

    assert rows(ledger) == [(T0, -1, None), (T0, 1, None)]


def test_a_reversal_without_its_charge_is_not_planned(ledger: Ledger) -> None:
    stored(ledger, record("c1", 2, -1, supersedes=1), record("c2", 1, -1), record("c3", at=T0))

    assert [missing for _, _, missing in rows(ledger)] == ["acme:c1:1", "", None]
    assert [r.id for r in deliveries.pending_records(ledger, "acme", "resolution", 10)] == [
        "acme:c3:1"
    ]
    (total,) = deliveries.pending_sums(ledger)
    assert (total.records, total.quantity, total.unmatched) == (1, 1, -2)


def test_a_reversal_is_filed_again_when_its_charge_is_stored(ledger: Ledger) -> None:
    stored(ledger, record("c1", 2, -1, at=T0 + DAY_MS, supersedes=1))

    stored(ledger, record("c2", at=T0 + 1), record("c1", at=T0))

    assert rows(ledger) == [(T0, -1, None), (T0 + 1, 1, None), (T0, 1, None)]


def test_a_reversal_of_another_outcome_takes_no_charge_back(ledger: Ledger) -> None:
    stored(ledger, record("c1", at=T0))
    stored(ledger, record("c1", 2, -1, at=T0 + 1, supersedes=1, outcome="qualification"))

    assert rows(ledger) == [(T0, 1, None), (T0 + 1, -1, "acme:c1:1")]


def test_a_meter_event_of_the_journal_takes_a_reversal_off_pending(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c1", 2, -1, at=T0 + DAY_MS, supersedes=1))
    read = deliveries.pending_records(ledger, "acme", "resolution", 10)
    (item,) = frozen(group_records(read).groups)
    plan = plan_of(item.event, [each.id for each in item.records])

    adoption.begin(ledger, JOURNAL)
    adoption.apply(ledger, JOURNAL, [Placed(0, T0, Entry(run="b", items=(plan,)))], 0, T0)

    assert rows(ledger) == []


def test_a_record_that_the_journal_has_already_is_never_pending(ledger: Ledger) -> None:
    """The charge is stored before, so the time of the reversal's unit is not its own."""
    stored(ledger, record("c1"))
    reversal = record("c1", 2, -1, at=T0 + DAY_MS, supersedes=1)
    read = deliveries.pending_records(ledger, "acme", "resolution", 10)
    later = read[0]._replace(seq=9, id=reversal.id, quantity=-1)
    (item,) = frozen(group_records([*read, later]).groups)
    adoption.begin(ledger, JOURNAL)
    plan = plan_of(item.event, [each.id for each in item.records])
    adoption.apply(ledger, JOURNAL, [Placed(0, T0, Entry(run="b", items=(plan,)))], 0, T0)

    stored(ledger, reversal)

    assert rows(ledger) == []


def test_a_reversal_that_missed_its_charge_by_a_moment_is_adopted_all_the_same(
    ledger: Ledger,
) -> None:
    """On PostgreSQL, two sinks can store the two at once, and neither sees the other's."""
    stored(ledger, record("c1"), record("c1", 2, -1, at=T0 + DAY_MS, supersedes=1))
    read = deliveries.pending_records(ledger, "acme", "resolution", 10)
    missed = {"occurred_at": T0 + DAY_MS, "missing_charge": "acme:c1:1"}
    with ledger.writing() as connection:
        connection.execute(
            update(pending_record).where(pending_record.c.quantity < 0).values(missed)
        )
    (item,) = frozen(group_records(read).groups)
    plan = plan_of(item.event, [each.id for each in item.records])
    adoption.begin(ledger, JOURNAL)

    adoption.apply(ledger, JOURNAL, [Placed(0, T0, Entry(run="b", items=(plan,)))], 0, T0)

    assert rows(ledger) == []


def test_many_reversals_find_their_charges_at_once(ledger: Ledger) -> None:
    charges = [record(f"c{n}", at=T0 + n) for n in range(1_200)]
    reversals = [record(f"c{n}", 2, -1, at=T0 + DAY_MS, supersedes=1) for n in range(1_200)]

    stored(ledger, *reversals)
    stored(ledger, *charges)

    with ledger.reading() as connection:
        assert not pending.has_unmatched(connection)
    assert sorted(at for at, _, _ in rows(ledger)) == sorted(2 * [c.occurred_at for c in charges])


def test_an_upgrade_files_pending_reversals_under_the_time_of_their_charges(url: str) -> None:
    columns = (
        "seq, id, tenantid, conversation, outcome, quantity, kind, reason, occurred_at, policy, "
        "policy_version, evidence, supersedes, record_topic, record_partition, record_offset"
    )

    def insert(seq: int, record_id: str, at: int, supersedes: str | None) -> list[str]:
        quantity = 1 if supersedes is None else -1
        named = "NULL" if supersedes is None else f"'{supersedes}'"
        values = (
            f"{seq}, '{record_id}', 'acme', 'c1', 'resolution', {quantity}, 'assumed', 'silence', "
            f"{at}, 'fin-2026', 1, '[]', {named}, 'usage.records', 0, {seq}"
        )
        pending_row = f"'acme', 'resolution', {at}, {seq}, {quantity}, 0"
        return [
            f"INSERT INTO usage_record ({columns}) VALUES ({values})",
            f"INSERT INTO pending_record VALUES ({pending_row})",
        ]

    statements = [
        *insert(1, "acme:c1:1", T0, None),
        *insert(2, "acme:c1:2", T0 + DAY_MS, "acme:c1:1"),
        *insert(3, "acme:c2:2", T0 + DAY_MS, "acme:c2:1"),
    ]

    at_revision(url, "0007", statements)
    upgrade(url)

    ledger = open_ledger(url)
    assert rows(ledger) == [(T0, 1, None), (T0, -1, None), (T0 + DAY_MS, -1, "acme:c2:1")]
    ledger.close()
