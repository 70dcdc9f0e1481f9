"""Keep the emulator's state, and respond to calls. Pure. Time is an argument."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.meter_events import MeterEvents
from pipeline.dev.emulator.meters import Meters
from pipeline.dev.emulator.remembered import IdempotencyKeys
from pipeline.dev.emulator.response import Response, StripeError

REMEMBERED_SECONDS = 24 * 3600
REQUESTS_MAX = 10_000


class State:
    """Customers, meters, meter events, idempotency keys, faults, and the last requests.

    `now` is in seconds since the epoch.
    """

    def __init__(self, *, remembered_seconds: float = REMEMBERED_SECONDS) -> None:
        self._numbers = itertools.count(1)
        self.customers = Customers(self._new_id)
        self.meters = Meters(self._new_id)
        self.meter_events = MeterEvents(
            self.customers, self.meters, self._new_id, remembered_seconds
        )
        self.idempotency_keys = IdempotencyKeys(remembered_seconds)
        self.faults: list[Fault] = []
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_MAX)

    def prepare(self, customers: Iterable[str], event_names: Iterable[str], now: float) -> None:
        """Create a customer for each id, and a summing meter for each event name."""
        for customer_id in customers:
            self.customers.create({}, now, customer_id)
        for name in event_names:
            meter = {"display_name": name, "event_name": name}
            self.meters.create({**meter, "default_aggregation": {"formula": "sum"}}, now)

    def sums(self) -> dict[str, Any]:
        """Return `MeterEvents.sums`."""
        return self.meter_events.sums()

    def once(
        self, key: str | None, call: bytes, act: Callable[[], Response], now: float
    ) -> Response:
        """Return the response to a call; if its idempotency key is known, the first response."""
        if key is not None:
            try:
                first = self.idempotency_keys.get(key, call, now)
            except StripeError as error:
                return error.response()
            if first is not None:
                return first
        try:
            response = act()
        except StripeError as error:
            response = error.response()
        if key is not None:
            self.idempotency_keys.keep(key, call, response, now)
        return response

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_emulated{next(self._numbers):06d}"
