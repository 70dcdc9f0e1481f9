"""A simulated sink: production intake, planner and dispatcher between simulated log and Stripe."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, TopicPartition
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine

from pipeline.catalog.tenants import Tenants
from pipeline.config import SinkSettings
from pipeline.dev.emulator.response import Response
from pipeline.dev.emulator.state import State
from pipeline.kafka.single import LogRecord
from pipeline.ledger import Ledger
from pipeline.ledger.entries import Conclusion, Lease, MeterEvent
from pipeline.ledger.month_entries import MonthItem
from pipeline.metrics import SinkMetrics
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher, Timing
from pipeline.sink.intake import Intake
from pipeline.sink.journal import Journal
from pipeline.sink.meter import Meter
from pipeline.sink.position import LedgerPosition
from pipeline.sink.service import flush
from pipeline.sink.stripe.meter import REMEMBERED_SECONDS, adjustment, body, body_sha256
from pipeline.sink.stripe.responses import StripeResponse, conclusion_of
from tests.simulation.world import Process, Record, World

Effect = Callable[[dict[str, Any], float], dict[str, Any]]
LEASE_SECONDS = 30
WITHDRAW_AFTER_MS = 1_000
JOURNAL = "resmeter.journal"


class _Ledger(Ledger):
    """The ledger as one process uses it: each writing transaction is an effect."""

    def __init__(self, engine: Engine, world: World, process: Process) -> None:
        super().__init__(engine)
        self._world = world
        self._process = process

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        fault_point = self._world.fault_point
        before, after = fault_point.enter(self._process, "transaction")
        with super().writing() as connection:
            yield connection
            if before:
                fault_point.kill(self._process, "before transaction")
        if after:
            fault_point.kill(self._process, "after transaction")


class _Message:
    def __init__(self, partition: int, record: Record) -> None:
        self._partition = partition
        self._record = record

    def error(self) -> None:
        return None

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._record.offset

    def value(self) -> bytes | None:
        return self._record.value

    def headers(self) -> list[tuple[str, bytes | None]]:
        return list(self._record.headers)


class _TopicMetadata:
    error = None
    partitions = range(2)  # as in `World.records`


class _Topics(dict[str, _TopicMetadata]):
    """The metadata of a cluster in which every topic exists."""

    def __missing__(self, _: str) -> _TopicMetadata:
        return _TopicMetadata()


class _Metadata:
    topics = _Topics()


class _Consumer:
    """The part of confluent-kafka's consumer that the intake uses. It gets all partitions."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._on_assign: Any = None
        self._topic = ""
        self._positions: dict[int, int] = {}

    def list_topics(self, *_: object, **__: object) -> _Metadata:
        return _Metadata()

    def subscribe(self, topics: list[str], *, on_assign: Any, **_: object) -> None:
        (self._topic,) = topics
        self._on_assign = on_assign

    def get_watermark_offsets(
        self, topic_partition: TopicPartition, **_: object
    ) -> tuple[int, int]:
        return 0, len(self._world.records.partitions[topic_partition.partition])

    def assign(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self.seek(partition)

    def seek(self, to: TopicPartition) -> None:
        self._positions[to.partition] = 0 if to.offset == OFFSET_BEGINNING else to.offset

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self._positions.get(p.partition, OFFSET_INVALID))
            for p in partitions
        ]

    def committed(self, partitions: list[TopicPartition], **_: object) -> list[TopicPartition]:
        committed = self._world.sinks_committed
        return [
            TopicPartition(p.topic, p.partition, committed.get(p.partition, OFFSET_INVALID))
            for p in partitions
        ]

    def commit(self, *, offsets: list[TopicPartition], **_: object) -> None:
        for partition in offsets:
            self._world.sinks_committed[partition.partition] = partition.offset

    def consume(self, size: int, **_: object) -> list[_Message]:
        partitions = self._world.records.partitions
        if self._on_assign is not None:
            ours = [TopicPartition(self._topic, number) for number in range(len(partitions))]
            self._on_assign(self, ours)
            self._on_assign = None
        messages: list[_Message] = []
        for number, position in self._positions.items():
            records = partitions[number][position:][: max(1, size)]
            messages += [_Message(number, record) for record in records]
            self._positions[number] = position + len(records)
        return messages


class _JournalTopic:
    """The journal's topic as one process uses it: each record appended is an effect."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def topic_id(self) -> str:
        return "journal"

    def bounds(self) -> tuple[int, int]:
        return 0, len(self._world.journal)

    def append(self, values: Sequence[bytes]) -> None:
        world = self._world
        for value in values:
            record = LogRecord(len(world.journal), world.time, value)
            world.fault_point.pass_through(
                self._process, "entry", partial(world.journal.append, record)
            )

    def read(self, start: int, end: int) -> Iterator[list[LogRecord]]:
        for offset in range(start, end, 3):
            yield self._world.journal[offset : min(offset + 3, end)]


class _Meter:
    """Stripe behind an unreliable network: each call is an effect, and can fail before or after it."""

    name = "Stripe"
    remembered_seconds = REMEMBERED_SECONDS

    def __init__(self, world: World, process: Process, stripe: State, faults: float) -> None:
        self._world = world
        self._process = process
        self._stripe = stripe
        self._faults = faults

    def body_sha256(self, event: MeterEvent) -> str:
        return body_sha256(event)

    async def deliver(self, event: MeterEvent, lease: Lease) -> Conclusion:
        create = self._stripe.meter_events.create
        return await self._conclude(event, lease, {**body(event)}, create)

    async def withdraw(self, event: MeterEvent, lease: Lease) -> Conclusion:
        adjust = self._stripe.meter_events.adjust
        return await self._conclude(event, lease, {**adjustment(event)}, adjust)

    async def _conclude(
        self, event: MeterEvent, lease: Lease, params: dict[str, Any], effect: Effect
    ) -> Conclusion:
        def act(*, breaks: bool) -> StripeResponse:
            return self._respond(params, effect, lease.idempotency_key, breaks=breaks)

        return conclusion_of(await self._call(event, act), lease)

    async def unfit(self, _: Collection[str], /) -> dict[str, str]:
        return {}

    async def close(self) -> None: ...

    async def _call(
        self, event: MeterEvent, respond: Callable[..., StripeResponse]
    ) -> StripeResponse:
        world = self._world
        await asyncio.sleep(0)
        while self._process.is_stopped:
            await asyncio.sleep(0)
        world.during_call()
        fault = world.draw.random() if self._faults else 1.0
        is_foreign = int(fault * 1e9) % 2 == 0  # a proxy answers, with whatever status
        if fault < self._faults / 5:
            return StripeResponse(unreached=True)
        if fault < self._faults * 2 / 5:
            status = world.draw.choice([429, 409, 500])
            return StripeResponse(
                status=status, foreign=is_foreign, error_type="invalid_request_error"
            )
        if not world.stripe_answers and int(event.identifier[3:5], 16) % 2:
            return StripeResponse()  # cut before the effect
        # Stripe stores a failure under the idempotency key, although it may have counted the event.
        breaks = fault < self._faults * 3 / 5
        response = world.fault_point.pass_through(
            self._process, "call", lambda: respond(breaks=breaks)
        )
        await asyncio.sleep(0)
        if not world.stripe_answers:
            # The connection is cut after the effect, or a proxy answers in Stripe's place.
            return StripeResponse(status=404 if is_foreign else None, foreign=is_foreign)
        if breaks:
            return response
        if fault < self._faults * 4 / 5:
            return StripeResponse()  # the connection was cut after the effect
        if fault < self._faults:
            return StripeResponse(status=200 if is_foreign else 500, foreign=is_foreign)
        return response

    def _respond(
        self, params: dict[str, Any], effect: Effect, key: str, *, breaks: bool
    ) -> StripeResponse:
        now = self._world.seconds()
        acted = False

        def act() -> Response:
            nonlocal acted
            acted = True
            counted = Response(200, effect(params, now))
            return Response(500, {}) if breaks else counted

        response = self._stripe.once(key, orjson.dumps(params), act, now)
        error = response.body.get("error", {})
        return StripeResponse(
            accepted=response.status == 200,
            status=response.status,
            replayed=not acted,
            error_type=error.get("type"),
            code=error.get("code"),
            message=error.get("message", ""),
        )


class Sink:
    """One sink process."""

    def __init__(
        self,
        world: World,
        name: str,
        engine: Engine,
        tenants: Tenants,
        stripe: State,
        *,
        faults: float = 0.0,
        is_second: bool = False,
        meter: Callable[[Process], Meter] | None = None,
    ) -> None:
        self.is_second = is_second  # it has the second ledger
        self.process = Process(name)
        self._world = world
        self._tenants = tenants
        self.ledger = _Ledger(engine, world, self.process)
        self._metrics = SinkMetrics(CollectorRegistry())
        consumer: Any = _Consumer(world, self.process)
        self._consumer = consumer
        self._position = LedgerPosition(
            self.ledger,
            "usage.records",
            "sinks",
            self._metrics,
            now=world.seconds,
            journal_topic=JOURNAL,
        )
        self._journal = Journal(
            self.ledger,
            _JournalTopic(world, self.process),
            JOURNAL,
            name,
            self._metrics,
            world.seconds,
        )
        self._intake = Intake(
            {"bootstrap.servers": "simulated"},
            "usage.records",
            SinkSettings(batch_records_max=3),
            self.ledger,
            self._position,
            self._metrics,
            now=world.seconds,
            monotonic=world.seconds,
            prices=lambda: self._tenants,
        )
        self._dispatcher = Dispatcher(
            self.ledger,
            meter(self.process) if meter else _Meter(world, self.process, stripe, faults),
            self._metrics,
            name,
            DeliveryLimits(
                concurrent_max=3, retry_pause_seconds_max=1, lease_seconds=LEASE_SECONDS
            ),
            Timing(world.seconds, self._pause, world.draw.random),
        )
        self._has_joined = False

    def take(self) -> None:
        """Store a batch of usage records; join the group before the first."""
        if not self._has_joined:
            self._journal.open()
            self._intake.join(self._consumer)
            self._has_joined = True
        self._intake.step(self._consumer)

    async def flush(self) -> None:
        """Group all pending records, and deliver them until every queue is empty or deliveries halt."""
        await flush(
            self._journal,
            self._tenants,
            self._dispatcher,
            self._metrics,
            self._world.seconds(),
            self._position,
            withdraw_after_ms=WITHDRAW_AFTER_MS,
        )
        await self._dispatcher.idle()
        self._dispatcher._stopping = False

    def is_followed(self) -> bool:
        return self._journal.is_followed()

    def enter(self, items: Sequence[MonthItem]) -> list[str | None]:
        """Write items to the journal, and return why each is void, or None."""
        return [verdict.why for verdict in self._journal.write(items)]

    def fail_over(self, engine: Engine) -> None:
        """Put another database below the running process: a replica that had not all commits."""
        self.ledger._engine = engine

    async def _pause(self, _: float) -> None:
        """Let others run; while Stripe is out, leave what is to be repeated to a later flush."""
        self._dispatcher._stopping = not self._world.stripe_answers
        await asyncio.sleep(0)

    @property
    def halted(self) -> str | None:
        return self._dispatcher.halted
