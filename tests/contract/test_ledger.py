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
from pipeline.ledger.entries import (
    Conclusion,
    ConsumedRecord,
    Lease,
    MeterEvent,
    Moved,
    NotLeased,
    PlannedEvent,
    Result,
    Stored,
)
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
from pipeline.sink.grouping import Destination, Group, freeze, group_records
from pipeline.sink.stripe.meter import body_sha256
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000
LEASE_MS = 30_000
DESTINATION = Destination("acme", "resolution", "cus_1", "m")


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


def arrivals(
    found: Sequence[UsageRecord], start: int = 0, partition: int = 0
) -> list[ConsumedRecord]:
    return [
        ConsumedRecord(
            partition, start + i, encode_record(r), encode_origin(Origin("events", 3, (7,)))
        )
        for i, r in enumerate(found)
    ]


def stored(ledger: Ledger, *found: UsageRecord) -> Stored:
    """Store as the next batch of partition 0."""
    next_offset = records.offsets(ledger, TOPIC).get(0)
    result = records.store(ledger, TOPIC, arrivals(found, next_offset or 0), {0: next_offset}, T0)
    assert isinstance(result, Stored)
    return result


def planned(
    ledger: Ledger, tenant_id: str = "acme", outcome: str = "resolution"
) -> list[MeterEvent]:
    grouping = group_records(deliveries.pending_records(ledger, tenant_id, outcome, 1000))
    events = frozen(grouping.groups, Destination(tenant_id, outcome, "cus_1", "m"))
    assert deliveries.store_planned(ledger, events, T0)
    return [item.event for item in events]


def frozen(
    groups: Sequence[Group],
    destination: Destination = DESTINATION,
) -> list[PlannedEvent]:
    return [freeze(group, destination, body_sha256) for group in groups]


def try_to_lease(
    ledger: Ledger, event: MeterEvent, owner: str, now_ms: int, remembered_from_ms: int = 0
) -> Lease | NotLeased:
    return deliveries.lease(
        ledger,
        event,
        owner,
        now_ms,
        until_ms=now_ms + LEASE_MS,
        remembered_from_ms=remembered_from_ms,
    )


def leased(ledger: Ledger, event: MeterEvent, owner: str = "a", now_ms: int = T0) -> Lease:
    lease = try_to_lease(ledger, event, owner, now_ms)
    assert isinstance(lease, Lease)
    return lease


def conclude(ledger: Ledger, lease: Lease, result: Result) -> None:
    status = 200 if result == "delivered" else 500
    conclusion = Conclusion(result=result, http_status=status, request_id="req_1")
    deliveries.conclude(ledger, lease, conclusion, T0 + 5)


def deliver(ledger: Ledger, event: MeterEvent) -> None:
    conclude(ledger, leased(ledger, event), "delivered")


def state_of(ledger: Ledger, event: MeterEvent) -> str:
    with ledger.reading() as connection:
        query = select(meter_event.c.state).where(meter_event.c.identifier == event.identifier)
        return str(connection.scalar(query))


def count(ledger: Ledger, table: object) -> int:
    with ledger.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)  # type: ignore[arg-type]


# --- schema ---------------------------------------------------------------------------------------


def test_migrations_create_the_tables_that_the_code_declares(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, metadata) == []


def test_upgrading_again_changes_nothing(ledger: Ledger, url: str) -> None:
    stored(ledger, record("c1"))

    upgrade(url)

    assert count(ledger, usage_record) == 1


def test_opening_a_ledger_without_a_schema_says_what_to_run(url: str) -> None:
    with pytest.raises(ConfigurationError, match="run `resmeter ledger upgrade`"):
        open_ledger(url)


def test_opening_a_ledger_of_a_newer_version_says_so(ledger: Ledger, url: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigurationError, match="schema 9999, which this version does not know"):
        open_ledger(url)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_with_another_encoding_than_utf8_is_rejected(
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
            with pytest.raises(
                ConfigurationError, match=f"has the encoding {encoding}: create one"
            ):
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
def test_an_unsupported_url_is_a_configuration_error(url: str, says: str) -> None:
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
def test_an_unreachable_server_is_named_without_its_password(url: str, named: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        open_ledger(f"postgresql+psycopg://{url}")

    assert f"postgresql+psycopg://{named}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_only_the_owner_can_read_the_files_of_sqlite(tmp_path: Path) -> None:
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


def test_a_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database" * 100)

    with pytest.raises(UnavailableError, match="file is not a database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_opening_a_missing_ledger_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no ledger at"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")

    assert not list(tmp_path.iterdir())


# --- records --------------------------------------------------------------------------------------


def test_a_receipt_returns_the_record_as_it_was_stored(ledger: Ledger) -> None:
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

    assert (again.records, again.duplicates, again.quarantined) == (1, 2, ())
    assert count(ledger, usage_record) == count(ledger, pending_record) == 2
    assert records.offsets(ledger, TOPIC) == {0: 4}


def test_a_conflict_is_quarantined_and_the_first_content_stays(ledger: Ledger) -> None:
    stored(ledger, record("c1"))

    result = stored(ledger, record("c1", kind="confirmed"), record("c2"))

    assert (result.records, result.duplicates) == (1, 0)
    assert [(r.reason, r.offset) for r in result.quarantined] == [("conflict", 1)]
    assert result.quarantined[0].detail == "acme:c1:1: kind was 'assumed', is 'confirmed'"
    assert reports.receipts(ledger, "acme", "c1")[0].record.kind == "assumed"
    with ledger.reading() as connection:
        quarantined = connection.execute(select(refused_record)).one()
    assert quarantined.value == encode_record(record("c1", kind="confirmed"))
    assert records.offsets(ledger, TOPIC) == {0: 3}


def test_a_conflict_within_one_batch_is_detected(ledger: Ledger) -> None:
    result = stored(ledger, record("c1"), record("c1", at=T0 + 1))

    assert result.records == 1
    assert [r.reason for r in result.quarantined] == ["conflict"]


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
def test_an_unreadable_record_is_quarantined_and_the_rest_is_stored(
    ledger: Ledger, value: bytes | None, says: str
) -> None:
    good = arrivals([record("c8"), record("c9")])
    batch = [good[0], ConsumedRecord(0, 1, value), good[1]._replace(offset=2)]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert (result.records, result.offsets) == (2, {0: 3})
    assert [(r.reason, r.offset) for r in result.quarantined] == [("unreadable", 1)]
    assert says in result.quarantined[0].detail
    with ledger.reading() as connection:
        assert connection.execute(select(refused_record)).one().value == value


def test_a_record_without_a_readable_origin_still_bills(ledger: Ledger) -> None:
    value = encode_record(record("c1"))
    batch = [
        ConsumedRecord(0, 0, value, b"garbage"),
        ConsumedRecord(0, 1, encode_record(record("c2")), None),
    ]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert result.records == 2
    assert reports.receipts(ledger, "acme", "c1")[0].origin is None


def test_nothing_is_stored_if_another_sink_moved_the_offset(ledger: Ledger) -> None:
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


def test_text_of_any_script_and_length_is_returned_unchanged(ledger: Ledger) -> None:
    name = "\U0001f600é%_'\";--" + "x" * 244
    stored(ledger, record(name))

    assert reports.receipts(ledger, "acme", name)[0].record == record(name)


def test_a_receipt_excludes_conversations_whose_id_only_begins_alike(ledger: Ledger) -> None:
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


def test_records_that_another_sink_planned_are_not_planned_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    found = deliveries.pending_records(ledger, "acme", "resolution", 1000)
    both, one = (frozen(group_records(records).groups) for records in (found, found[:1]))

    assert deliveries.store_planned(ledger, both, T0)
    assert not deliveries.store_planned(ledger, both, T0)
    assert not deliveries.store_planned(ledger, one, T0)

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


def test_a_netted_event_is_never_due(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c1", 2, -1, supersedes=1))

    planned(ledger)

    assert deliveries.due(ledger, T0, 10) == []
    assert deliveries.pending_sums(ledger) == []


def test_one_sink_leases_an_event_until_its_lease_ends(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    leased(ledger, event, "a")
    early = try_to_lease(ledger, event, "b", T0 + 1)
    due_early = deliveries.due(ledger, T0 + 1, 10)
    late = try_to_lease(ledger, event, "b", T0 + LEASE_MS)

    assert early is NotLeased.TAKEN
    assert due_early == []
    assert isinstance(late, Lease)
    assert late.perhaps_counted
    assert late.idempotency_key == event.identifier


def test_a_delivered_event_is_not_leased_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    deliver(ledger, event)

    assert try_to_lease(ledger, event, "a", T0 + 10) is NotLeased.TAKEN
    assert deliveries.due(ledger, T0 + LEASE_MS * 9, 10) == []


def test_a_late_response_does_not_undo_a_conclusion(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    slow = leased(ledger, event, "a")
    quick = leased(ledger, event, "b", T0 + LEASE_MS)
    conclude(ledger, quick, "delivered")

    conclude(ledger, slow, "rejected")

    assert state_of(ledger, event) == "delivered"


def test_a_failed_call_ends_the_lease_at_once(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    conclude(ledger, leased(ledger, event), "failed")

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
    conclude(ledger, leased(ledger, event), result)

    assert leased(ledger, event, now_ms=T0 + 10).perhaps_counted is perhaps


def test_an_event_that_the_biller_may_have_forgotten_is_not_leased_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "failed")

    later = try_to_lease(ledger, event, "a", T0 + 24 * HOUR_MS, T0 + HOUR_MS)

    assert later is NotLeased.UNCERTAIN
    assert count(ledger, attempt) == 1


def test_after_a_replayed_failure_the_key_is_new_and_the_identifier_the_same(
    ledger: Ledger,
) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    for replayed in (False, True):
        conclusion = Conclusion(result="failed", http_status=500, replayed=replayed)
        deliveries.conclude(ledger, leased(ledger, event), conclusion, T0)

    assert leased(ledger, event).idempotency_key == f"{event.identifier}.1"


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


def test_a_reversal_counts_where_its_charge_did(ledger: Ledger) -> None:
    stored(
        ledger,
        record("c1", kind="assumed", policy_version=1),
        record("c1", 2, -1, kind="confirmed", supersedes=1, policy_version=2),
    )

    (found,) = reports.usage(ledger)

    assert (found.policy_version, found.quantity, found.confirmed, found.assumed) == (1, 0, 0, 0)


def test_usage_includes_its_start_and_excludes_its_end(ledger: Ledger) -> None:
    stored(ledger, *(record(f"c{i}", at=T0 + i) for i in range(5)))

    (found,) = reports.usage(ledger, from_ms=T0 + 1, to_ms=T0 + 3)

    assert found.quantity == 2
    assert reports.usage(ledger, tenant_id="nobody") == []


def test_usage_separates_delivered_from_pending_units(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"), record("c4"), record("c4", 2, -1, supersedes=1))

    (before,) = reports.usage(ledger)
    deliver(ledger, event)
    (after,) = reports.usage(ledger)

    assert (before.quantity, before.delivered) == (3, 0)
    assert (after.quantity, after.delivered) == (3, 2)


def test_open_sums_count_what_no_delivery_has_concluded(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"))

    before = [(s.tenant_id, s.quantity) for s in deliveries.open_sums(ledger)]
    deliver(ledger, event)
    after = [(s.tenant_id, s.quantity) for s in deliveries.open_sums(ledger)]

    assert before == [("acme", 3)]
    assert after == [("acme", 1)]


def test_delivered_sums_range_from_what_was_answered_by_then_to_what_was_sent(
    ledger: Ledger,
) -> None:
    later = T0 + 2 * HOUR_MS
    stored(ledger, record("c1"), record("c2", at=later), record("c3", tenant_id="bluejay"))
    first, second = planned(ledger)
    (other,) = planned(ledger, "bluejay")
    start, end = T0 // 1000 - 3600, T0 // 1000 + 9000
    deliver(ledger, first)  # answered at T0 + 5
    deliver(ledger, other)
    leased(ledger, second)

    (known,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    (too_early,) = reports.delivered_sums(ledger, start, end, T0 + 4)
    (of_an_hour,) = reports.delivered_sums(ledger, start, second.timestamp, T0 + 5)

    assert (known.customer, known.event_name) == ("cus_1", "m")
    assert known.tenant_ids == ("acme", "bluejay")
    assert (known.least, known.most) == (2, 3)
    assert (too_early.least, too_early.most) == (0, 3)
    assert (of_an_hour.least, of_an_hour.most) == (2, 2)
    assert known.rejected == 0
    conclude(ledger, leased(ledger, second, now_ms=T0 + LEASE_MS), "rejected")
    (rejected,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    assert (rejected.least, rejected.most, rejected.rejected) == (2, 2, 1)
    assert reports.delivered_between(ledger) == (first.timestamp, second.timestamp)


def test_a_ledger_that_sent_nothing_has_no_delivered_sums(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    planned(ledger)

    assert reports.delivered_between(ledger) is None
    assert reports.delivered_sums(ledger, 0, 2**40, T0 + 9) == []


def test_a_receipt_lists_every_call(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "failed")
    deliver(ledger, event)

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
