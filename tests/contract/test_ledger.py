"""The ledger, the same on SQLite and PostgreSQL."""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, delete, func, insert, make_url, select, text, update
from sqlalchemy.exc import IntegrityError

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import Ledger, deliveries, open_ledger, records, reports, upgrade
from pipeline.ledger.entries import Arrival, Claim, MeterEvent, Moved, Result, Stored
from pipeline.ledger.tables import (
    attempt,
    consumer_offset,
    metadata,
    meter_event,
    meter_event_record,
    pending_record,
    refused_record,
    usage_record,
)
from pipeline.sink.grouping import fix, plan
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000
LEASE_MS = 30_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/ledger.sqlite"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    upgrade(url)
    opened = open_ledger(url)
    yield opened
    opened.close()


def record(
    conversation: str,
    n: int = 1,
    quantity: int = 1,
    *,
    tenant_id: str = "acme",
    outcome: str = "resolution",
    at: int = T0,
    kind: str = "assumed",
    supersedes: int | None = None,
    policy_version: int = 1,
) -> UsageRecord:
    fields = {
        "id": f"{tenant_id}:{conversation}:{n}",
        "tenant_id": tenant_id,
        "conversation": conversation,
        "outcome": outcome,
        "quantity": quantity,
        "kind": kind,
        "reason": "silence" if quantity > 0 else "customer_returned",
        "occurred_at": at,
        "policy": "fin-2026",
        "policy_version": policy_version,
        "evidence": (f"{conversation}-m{n}",),
        "supersedes": None if supersedes is None else f"{tenant_id}:{conversation}:{supersedes}",
    }
    return msgspec.convert(fields, UsageRecord)


def arrivals(found: Sequence[UsageRecord], start: int = 0, partition: int = 0) -> list[Arrival]:
    return [
        Arrival(partition, start + i, encode_record(r), encode_origin(Origin("events", 3, (7,))))
        for i, r in enumerate(found)
    ]


def stored(ledger: Ledger, *found: UsageRecord) -> Stored:
    """Store as the next batch of partition 0."""
    stands = records.offsets(ledger, TOPIC).get(0)
    result = records.store(ledger, TOPIC, arrivals(found, stands or 0), {0: stands}, T0)
    assert isinstance(result, Stored)
    return result


def planned(
    ledger: Ledger, tenant_id: str = "acme", outcome: str = "resolution"
) -> list[MeterEvent]:
    made = plan(deliveries.pending_records(ledger, tenant_id, outcome, 1000))
    fixed = [fix(group, tenant_id, outcome, "cus_1", "m") for group in made.groups]
    assert deliveries.store_plan(ledger, fixed, T0)
    return [item.event for item in fixed]


def claimed(ledger: Ledger, event: MeterEvent, owner: str = "a", now: int = T0) -> Claim:
    made = deliveries.claim(ledger, event, owner, now, now + LEASE_MS, 0)
    assert isinstance(made, Claim)
    return made


def concluded(
    ledger: Ledger, event: MeterEvent, claim: Claim, result: Result, owner: str = "a"
) -> None:
    deliveries.conclude(
        ledger,
        event,
        claim,
        owner,
        T0 + 5,
        result=result,
        http_status=200 if result == "delivered" else 500,
        request_id="req_1",
        replayed=False,
        detail=None,
    )


def delivered(ledger: Ledger, event: MeterEvent) -> None:
    concluded(ledger, event, claimed(ledger, event), "delivered")


def state_of(ledger: Ledger, event: MeterEvent) -> str:
    with ledger.reading() as connection:
        query = select(meter_event.c.state).where(meter_event.c.identifier == event.identifier)
        return str(connection.scalar(query))


def count(ledger: Ledger, table: object) -> int:
    with ledger.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)  # type: ignore[arg-type]


# --- schema ---------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_code_declares(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, metadata) == []


def test_upgrading_again_changes_nothing(ledger: Ledger, url: str) -> None:
    stored(ledger, record("c1"))

    upgrade(url)

    assert count(ledger, usage_record) == 1


def test_a_ledger_that_was_never_upgraded_says_what_to_run(url: str) -> None:
    with pytest.raises(ConfigurationError, match="run `resmeter ledger upgrade`"):
        open_ledger(url)


def test_a_ledger_of_a_newer_version_says_so(ledger: Ledger, url: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigurationError, match="schema 9999, which this version does not know"):
        open_ledger(url)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_does_not_take_every_script_is_refused(
    postgres_url: str, encoding: str
) -> None:
    name = f"test_{encoding.lower()}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    form = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {form}"))
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    try:
        for opening in (upgrade, open_ledger):
            with pytest.raises(ConfigurationError, match=f"has the encoding {encoding}: make one"):
                opening(url)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u@h/d", "'mysql' is not supported"),
        ("nonsense", "is not a URL such as sqlite:///PATH"),
        ("sqlite://", "names no file"),
        ("postgresql://me:hunter2@db:hunter2/d", "is not a URL such as sqlite:///PATH"),
        ("postgresql://127.0.0.1:1/d?sslmod=require", 'invalid connection option "sslmod"'),
    ],
)
def test_a_url_that_is_none_of_ours_is_a_configuration_error(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"RESMETER_LEDGER__URL: {says}") as caught:
        open_ledger(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("resmeter:hunter2@127.0.0.1:1/ledger", "resmeter:***@127.0.0.1:1/ledger"),
        ("127.0.0.1:1/ledger?password=hunter2", "127.0.0.1:1/ledger?password=hidden"),
        ("127.0.0.1:1/ledger?sslpassword=hunter2", "127.0.0.1:1/ledger?sslpassword=hidden"),
    ],
)
def test_a_server_that_is_not_there_is_named_without_its_password(url: str, named: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        open_ledger(f"postgresql+psycopg://{url}")

    assert f"postgresql+psycopg://{named}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_is_for_its_owner_alone_and_what_lies_beside_it_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/folder/ledger.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    records.store(ledger, TOPIC, arrivals([record("c1")]), {0: None}, T0)

    files = list((tmp_path / "folder").iterdir())

    assert {path.name for path in files} == {
        "ledger.sqlite",
        "ledger.sqlite-wal",
        "ledger.sqlite-shm",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    ledger.close()


def test_an_error_of_the_database_shows_no_parameters(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError) as caught, ledger.writing() as connection:
        connection.execute(
            insert(consumer_offset).values(topic="hunter2", partition=None, next_offset=1)
        )

    assert "hunter2" not in str(caught.value).partition("DETAIL")[0]


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is no database" * 100)

    with pytest.raises(UnavailableError, match="file is not a database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_asking_for_a_ledger_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no ledger at"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")

    assert not list(tmp_path.iterdir())


# --- records --------------------------------------------------------------------------------------


def test_what_is_stored_is_what_the_record_says(ledger: Ledger) -> None:
    first = record("c1", kind="confirmed")
    back = record("c1", 2, -1, supersedes=1, at=T0 + 1)

    result = stored(ledger, first, back)

    assert result == Stored(2, 0, (), {0: 2})
    found = reports.receipts(ledger, "acme", "c1")
    assert [receipt.record for receipt in found] == [first, back]
    assert (found[1].topic, found[1].partition, found[1].offset) == (TOPIC, 0, 1)
    assert found[1].origin == Origin("events", 3, (7,))
    assert found[1].superseded_policy == ("fin-2026", 1)


def test_the_same_record_again_changes_nothing(ledger: Ledger) -> None:
    stored(ledger, record("c1"))

    again = stored(ledger, record("c1"), record("c2"), record("c2"))

    assert (again.records, again.duplicates, again.refused) == (1, 2, ())
    assert count(ledger, usage_record) == count(ledger, pending_record) == 2
    assert records.offsets(ledger, TOPIC) == {0: 4}


def test_a_conflict_is_kept_aside_and_the_first_content_stays(ledger: Ledger) -> None:
    stored(ledger, record("c1"))

    result = stored(ledger, record("c1", kind="confirmed"), record("c2"))

    assert (result.records, result.duplicates) == (1, 0)
    assert [(r.reason, r.offset) for r in result.refused] == [("conflict", 1)]
    assert result.refused[0].detail == "acme:c1:1: kind was 'assumed', is 'confirmed'"
    assert reports.receipts(ledger, "acme", "c1")[0].record.kind == "assumed"
    with ledger.reading() as connection:
        kept = connection.execute(select(refused_record)).one()
    assert kept.value == encode_record(record("c1", kind="confirmed"))
    assert records.offsets(ledger, TOPIC) == {0: 3}


def test_a_conflict_within_one_batch_is_one_too(ledger: Ledger) -> None:
    result = stored(ledger, record("c1"), record("c1", at=T0 + 1))

    assert result.records == 1
    assert [r.reason for r in result.refused] == ["conflict"]


NUL = encode_record(record("c1")).replace(b'"c1"', b'"c\\u00001"').replace(b":c1:", b":c\\u00001:")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "the message has no value"),
        (b"", "the message has no value"),
        (b"\xff\xfe\x00garbage", "malformed"),
        (b"{}", "missing required field `id`"),
        (encode_record(record("c1")).replace(b":1,", b":2,"), "quantity is 2"),
        (encode_record(record("c1")).replace(b"acme:c1:1", b"other:c1:1"), "id is not that of"),
        (encode_record(record("c1", policy_version=2**63)), "policy_version is out of range"),
        (NUL, "NUL character"),
    ],
)
def test_what_cannot_be_read_is_kept_and_the_rest_is_stored(
    ledger: Ledger, value: bytes | None, says: str
) -> None:
    good = arrivals([record("c8"), record("c9")])
    batch = [good[0], Arrival(0, 1, value), good[1]._replace(offset=2)]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert (result.records, result.offsets) == (2, {0: 3})
    assert [(r.reason, r.offset) for r in result.refused] == [("unreadable", 1)]
    assert says in result.refused[0].detail
    with ledger.reading() as connection:
        assert connection.execute(select(refused_record)).one().value == value


def test_a_record_without_a_readable_origin_bills_all_the_same(ledger: Ledger) -> None:
    value = encode_record(record("c1"))
    batch = [Arrival(0, 0, value, b"garbage"), Arrival(0, 1, encode_record(record("c2")), None)]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert result.records == 2
    assert reports.receipts(ledger, "acme", "c1")[0].origin is None


def test_an_offset_that_another_sink_moved_stores_nothing(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))

    late = records.store(ledger, TOPIC, arrivals([record("c3")], 1), {0: 1}, T0)
    new = records.store(ledger, TOPIC, arrivals([record("c3")]), {0: None}, T0)

    assert late == new == Moved({0: 2})
    assert count(ledger, usage_record) == count(ledger, pending_record) == 2


def test_one_moved_partition_holds_back_the_whole_batch(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    batch = arrivals([record("c2")], partition=1) + arrivals([record("c3")], 0)

    result = records.store(ledger, TOPIC, batch, {0: None, 1: None}, T0)

    assert result == Moved({0: 1, 1: None})
    assert count(ledger, usage_record) == 1
    assert count(ledger, consumer_offset) == 1


def test_text_of_any_script_and_length_comes_back(ledger: Ledger) -> None:
    name = "\U0001f600é%_'\";--" + "x" * 244
    stored(ledger, record(name))

    assert reports.receipts(ledger, "acme", name)[0].record == record(name)


def test_one_conversation_does_not_show_another_that_it_is_a_prefix_of(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c1:2"), record("c11"), record("c1", tenant_id="acme2"))

    assert len(reports.receipts(ledger, "acme", "c1")) == 1
    assert len(reports.receipts(ledger, "acme", "c1:2")) == 1
    assert reports.receipts(ledger, "acme", "c") == []


# --- deliveries -----------------------------------------------------------------------------------


def test_planning_moves_each_record_from_pending_to_one_meter_event(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"), record("c3", at=T0 + HOUR_MS))

    events = planned(ledger)

    assert [event.value for event in events] == [2, 1]
    assert count(ledger, pending_record) == 0
    assert count(ledger, meter_event_record) == 3
    assert deliveries.pending_sums(ledger) == []


def test_a_plan_that_another_sink_has_made_is_stored_once(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    found = deliveries.pending_records(ledger, "acme", "resolution", 1000)
    fixed = [fix(group, "acme", "resolution", "cus_1", "m") for group in plan(found).groups]
    part = [fix(group, "acme", "resolution", "cus_1", "m") for group in plan(found[:1]).groups]

    assert deliveries.store_plan(ledger, fixed, T0)
    assert not deliveries.store_plan(ledger, fixed, T0)
    assert not deliveries.store_plan(ledger, part, T0)

    assert count(ledger, meter_event) == 1
    assert count(ledger, meter_event_record) == 2


def test_no_record_can_be_in_two_meter_events(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    found = deliveries.pending_records(ledger, "acme", "resolution", 1000)
    planned(ledger)
    with ledger.writing() as connection:
        row = {"tenant_id": "acme", "outcome": "resolution", "occurred_at": T0, "quantity": 1}
        values = {**row, "seq": found[0].seq, "stored_at": T0}
        connection.execute(pending_record.insert().values(**values))

    with pytest.raises(Exception, match=r"(?i)unique"):
        planned(ledger, outcome="resolution")


def test_what_is_netted_is_never_due(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c1", 2, -1, supersedes=1))

    planned(ledger)

    assert deliveries.due(ledger, T0, 10) == []
    assert deliveries.pending_sums(ledger) == []


def test_an_event_is_claimed_by_one_sink_until_its_lease_ends(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    claimed(ledger, event, "a")
    early = deliveries.claim(ledger, event, "b", T0 + 1, T0 + LEASE_MS, 0)
    due_early = deliveries.due(ledger, T0 + 1, 10)
    late = deliveries.claim(ledger, event, "b", T0 + LEASE_MS, T0 + 2 * LEASE_MS, 0)

    assert early == "taken"
    assert due_early == []
    assert isinstance(late, Claim)
    assert late.perhaps_counted
    assert late.idempotency_key == event.identifier


def test_a_delivered_event_is_not_claimed_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    delivered(ledger, event)

    assert deliveries.claim(ledger, event, "a", T0 + 10, T0 + LEASE_MS, 0) == "taken"
    assert deliveries.due(ledger, T0 + LEASE_MS * 9, 10) == []


def test_a_late_answer_does_not_undo_what_is_concluded(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    slow = claimed(ledger, event, "a")
    quick = claimed(ledger, event, "b", T0 + LEASE_MS)
    concluded(ledger, event, quick, "delivered", "b")

    concluded(ledger, event, slow, "rejected", "a")

    assert state_of(ledger, event) == "delivered"


def test_a_failed_call_frees_its_event_at_once(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    concluded(ledger, event, claimed(ledger, event), "failed")

    assert [e.identifier for e in deliveries.due(ledger, T0 + 5, 10)] == [event.identifier]
    assert state_of(ledger, event) == "sent"


@pytest.mark.parametrize(
    ("result", "perhaps"), [("failed", True), ("refused", False), ("halted", False)]
)
def test_only_a_call_that_may_have_arrived_explains_a_duplicate(
    ledger: Ledger, result: Result, *, perhaps: bool
) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    concluded(ledger, event, claimed(ledger, event), result)

    assert claimed(ledger, event, now=T0 + 10).perhaps_counted is perhaps


def test_what_stripe_may_have_forgotten_is_not_sent_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    concluded(ledger, event, claimed(ledger, event), "failed")

    later = T0 + 24 * HOUR_MS
    made = deliveries.claim(ledger, event, "a", later, later + LEASE_MS, T0 + HOUR_MS)

    assert made == "forgotten"
    assert count(ledger, attempt) == 1


def test_a_kept_failure_gets_a_new_key_and_the_same_identifier(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    for replayed in (False, True):
        deliveries.conclude(
            ledger,
            event,
            claimed(ledger, event),
            "a",
            T0,
            result="failed",
            http_status=500,
            request_id=None,
            replayed=replayed,
            detail=None,
        )

    assert claimed(ledger, event).idempotency_key == f"{event.identifier}.1"


# --- reports --------------------------------------------------------------------------------------


def test_usage_adds_up_by_tenant_and_outcome(ledger: Ledger) -> None:
    stored(
        ledger,
        record("c1", kind="confirmed"),
        record("c2"),
        record("c3", outcome="qualification", kind="reported"),
        record("c1", tenant_id="zeta"),
    )

    found = reports.usage(ledger)

    assert [(u.tenant_id, u.outcome, u.quantity, u.confirmed, u.assumed) for u in found] == [
        ("acme", "qualification", 1, 0, 0),
        ("acme", "resolution", 2, 1, 1),
        ("zeta", "resolution", 1, 0, 1),
    ]
    assert all(type(u.quantity) is int for u in found)


def test_what_is_taken_back_counts_where_it_was_charged(ledger: Ledger) -> None:
    stored(
        ledger,
        record("c1", kind="assumed", policy_version=1),
        record("c1", 2, -1, kind="confirmed", supersedes=1, policy_version=2),
    )

    (found,) = reports.usage(ledger)

    assert (found.policy_version, found.quantity, found.confirmed, found.assumed) == (1, 0, 0, 0)


def test_usage_takes_from_its_start_up_to_before_its_end(ledger: Ledger) -> None:
    stored(ledger, *(record(f"c{i}", at=T0 + i) for i in range(5)))

    (found,) = reports.usage(ledger, from_ms=T0 + 1, to_ms=T0 + 3)

    assert found.quantity == 2
    assert reports.usage(ledger, tenant_id="nobody") == []


def test_usage_tells_what_stripe_has_from_what_is_pending(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"), record("c4"), record("c4", 2, -1, supersedes=1))

    (before,) = reports.usage(ledger)
    delivered(ledger, event)
    (after,) = reports.usage(ledger)

    assert (before.quantity, before.delivered) == (3, 0)
    assert (after.quantity, after.delivered) == (3, 2)


def test_open_units_are_those_that_no_delivery_has_concluded(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"))

    before = [(s.tenant_id, s.quantity) for s in deliveries.open_sums(ledger)]
    delivered(ledger, event)
    after = [(s.tenant_id, s.quantity) for s in deliveries.open_sums(ledger)]

    assert before == [("acme", 3)]
    assert after == [("acme", 1)]


def test_what_stripe_must_have_is_what_was_answered_by_then_and_at_most_what_was_sent(
    ledger: Ledger,
) -> None:
    later = T0 + 2 * HOUR_MS
    stored(ledger, record("c1"), record("c2", at=later), record("c3", tenant_id="bluejay"))
    first, second = planned(ledger)
    (other,) = planned(ledger, "bluejay")
    start, end = T0 // 1000 - 3600, T0 // 1000 + 9000
    delivered(ledger, first)  # answered at T0 + 5
    delivered(ledger, other)
    claimed(ledger, second)

    (known,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    (too_early,) = reports.delivered_sums(ledger, start, end, T0 + 4)
    (of_an_hour,) = reports.delivered_sums(ledger, start, second.timestamp, T0 + 5)

    assert (known.customer, known.event_name) == ("cus_1", "m")
    assert known.tenant_ids == ("acme", "bluejay")
    assert (known.least, known.most) == (2, 3)
    assert (too_early.least, too_early.most) == (0, 3)
    assert (of_an_hour.least, of_an_hour.most) == (2, 2)
    assert known.refused == 0
    concluded(ledger, second, claimed(ledger, second, now=T0 + LEASE_MS), "rejected")
    (refused,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    assert (refused.least, refused.most, refused.refused) == (2, 2, 1)
    assert reports.delivered_between(ledger) == (first.timestamp, second.timestamp)


def test_a_ledger_that_sent_nothing_has_nothing_at_stripe(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    planned(ledger)

    assert reports.delivered_between(ledger) is None
    assert reports.delivered_sums(ledger, 0, 2**40, T0 + 9) == []


def test_a_receipt_shows_every_call(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    concluded(ledger, event, claimed(ledger, event), "failed")
    delivered(ledger, event)

    (receipt,) = reports.receipts(ledger, "acme", "c1")

    assert receipt.meter_event is not None
    assert receipt.meter_event.state == "delivered"
    assert [a.result for a in receipt.attempts] == ["failed", "delivered"]
    assert [a.request_id for a in receipt.attempts] == ["req_1", "req_1"]


def test_pending_holds_exactly_the_records_without_a_meter_event(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2", at=T0 + HOUR_MS))
    planned(ledger)
    stored(ledger, record("c3"), record("c2", at=T0 + HOUR_MS))
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="sent"))
        connection.execute(delete(attempt))

    with ledger.reading() as connection:
        linked = select(meter_event_record.c.record_seq)
        unlinked = select(usage_record.c.seq).where(usage_record.c.seq.not_in(linked))
        expected = set(connection.scalars(unlinked))
        found = set(connection.scalars(select(pending_record.c.seq)))
    assert found == expected
    assert len(found) == 1
