"""This file keeps what Stripe would keep, and answers as Stripe would. Pure: time is given."""

import hashlib
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

REMEMBERED_SECONDS = 24 * 3600
PAST_SECONDS_MAX = 35 * 24 * 3600
FUTURE_SECONDS_MAX = 300
IDENTIFIER_CHARACTERS_MAX = 100
EVENT_NAME_CHARACTERS_MAX = 100
VALUE_DIGITS_MAX = 15
REQUESTS_SHOWN_MAX = 10_000
_WINDOWS = {"hour": 3600, "day": 86_400}
_FORMULAS = {"sum", "count", "last"}
_INTEGER = re.compile(r"-?[0-9]+")

Params = Mapping[str, Any]  # form parameters, nested by their brackets


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer in the form of Stripe's errors."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"error": {"type": kind, "message": message}}
        if code is not None:
            self.body["error"]["code"] = code


def concurrent() -> Refusal:
    """Return the answer to a call while another one for its customer and meter is under way."""
    return Refusal(
        409,
        "invalid_request_error",
        "There is another meter event in flight for this customer and meter.",
        code="too_many_concurrent_requests",
    )


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = {}


class Counted(msgspec.Struct, frozen=True):
    """A meter event that was taken. `problem` is what the later validation says, None if well."""

    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: int
    received: float
    problem: str | None


class _Kept(msgspec.Struct, frozen=True):
    body_sha256: str
    answer: Answer
    at: float


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """What happens to the next meter events: `times` of them, every `every`-th."""

    kind: Literal["500_before", "500_after", "cut_before", "cut_after", "slow", "409", "429", "401"]
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # of `slow`
    seen: int = 0


class State:
    """All that the emulator knows. The methods take `now` in seconds since the epoch.

    Identifiers and idempotency keys are forgotten with time, and the log of requests is bounded.
    Customers, meters and the events that were taken are kept until the process ends.
    """

    def __init__(self, *, remembered_seconds: float = REMEMBERED_SECONDS) -> None:
        self.remembered_seconds = remembered_seconds
        self.customers: dict[str, dict[str, Any]] = {}
        self.meters: dict[str, dict[str, Any]] = {}
        self.events: list[Counted] = []
        self.faults: list[Fault] = []
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_SHOWN_MAX)
        self._identifiers: dict[str, float] = {}  # identifier → when it was taken
        self._kept: dict[str, _Kept] = {}  # idempotency key → first answer
        self._in_flight: set[tuple[str, str]] = set()  # customer, event name
        self._numbers = itertools.count(1)

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_emulated{next(self._numbers):06d}"

    # --- customers and meters -------------------------------------------------------------------

    def prepare(self, customers: Iterable[str], event_names: Iterable[str], now: float) -> None:
        """Begin with customers of these ids, and a meter that sums for each event name."""
        for customer in customers:
            self.create_customer({}, now, customer)
        for name in event_names:
            meter = {"display_name": name, "event_name": name}
            self.create_meter({**meter, "default_aggregation": {"formula": "sum"}}, now)

    def create_customer(self, params: Params, now: float, identity: str | None = None) -> Answer:
        """Create a customer; `identity` stands for one that was made earlier, elsewhere."""
        known = identity or self._new_id("cus")
        customer = {
            "id": known,
            "object": "customer",
            "created": int(now),
            "name": params.get("name"),
            "email": params.get("email"),
            "livemode": False,
            "metadata": dict(_mapping(params, "metadata")),
        }
        self.customers[known] = customer
        return Answer(200, customer)

    def retrieve_customer(self, identity: str) -> Answer:
        return Answer(200, _found(self.customers, identity, "customer"))

    def list_customers(self, params: Params) -> Answer:
        newest_first = list(reversed(self.customers.values()))
        return Answer(200, _page(newest_first, params, "/v1/customers"))

    def create_meter(self, params: Params, now: float) -> Answer:
        for name in ("display_name", "event_name"):
            if not params.get(name):
                raise _missing(name)
        aggregation = _mapping(params, "default_aggregation")
        if aggregation.get("formula") not in _FORMULAS:
            raise _missing("default_aggregation[formula]")
        event_name = str(params["event_name"])
        if any(
            meter["event_name"] == event_name and meter["status"] == "active"
            for meter in self.meters.values()
        ):
            raise Refusal(
                400,
                "invalid_request_error",
                f"There's already an active meter with the event_name {event_name!r}.",
            )
        mapping = _mapping(params, "customer_mapping")
        values = _mapping(params, "value_settings")
        identity = self._new_id("mtr")
        meter = {
            "id": identity,
            "object": "billing.meter",
            "created": int(now),
            "updated": int(now),
            "display_name": params["display_name"],
            "event_name": event_name,
            "status": "active",
            "customer_mapping": {
                "type": "by_id",
                "event_payload_key": mapping.get("event_payload_key", "stripe_customer_id"),
            },
            "default_aggregation": {"formula": aggregation["formula"]},
            "value_settings": {"event_payload_key": values.get("event_payload_key", "value")},
            "event_time_window": params.get("event_time_window"),
            "livemode": False,
            "status_transitions": {"deactivated_at": None},
        }
        self.meters[identity] = meter
        return Answer(200, meter)

    def retrieve_meter(self, identity: str) -> Answer:
        return Answer(200, _found(self.meters, identity, "meter"))

    def list_meters(self, params: Params) -> Answer:
        status = params.get("status")
        found = [m for m in reversed(self.meters.values()) if status in {None, m["status"]}]
        return Answer(200, _page(found, params, "/v1/billing/meters"))

    # --- meter events ---------------------------------------------------------------------------

    def create_meter_event(self, params: Params, now: float) -> Answer:
        """Count a meter event, or say why not; validation of customer and meter comes later."""
        event_name, payload = params.get("event_name"), params.get("payload")
        if not event_name:
            raise _missing("event_name")
        if not isinstance(payload, Mapping):
            raise _missing("payload")
        identifier = str(params.get("identifier") or self._new_id("mevt"))
        _check_length(str(event_name), EVENT_NAME_CHARACTERS_MAX)
        _check_length(identifier, IDENTIFIER_CHARACTERS_MAX)
        timestamp = _timestamp(params.get("timestamp"), now)
        self._forget(now)
        if self._is_remembered(self._identifiers.get(identifier), now):
            raise Refusal(
                400,
                "invalid_request_error",
                f"An event already exists with identifier {identifier}.",
                headers={"stripe-should-retry": "false"},
            )
        counted = self._validated(identifier, str(event_name), payload, timestamp, now)
        self._identifiers[identifier] = now
        self.events.append(counted)
        return Answer(
            200,
            {
                "object": "billing.meter_event",
                "created": int(now),
                "event_name": event_name,
                "identifier": identifier,
                "livemode": False,
                "payload": dict(payload),
                "timestamp": timestamp,
            },
        )

    def _validated(
        self, identifier: str, event_name: str, payload: Params, timestamp: int, now: float
    ) -> Counted:
        meter = next((m for m in self.meters.values() if m["event_name"] == event_name), None)
        customer_key = meter["customer_mapping"]["event_payload_key"] if meter else ""
        value_key = meter["value_settings"]["event_payload_key"] if meter else ""
        customer = str(payload.get(customer_key or "stripe_customer_id", ""))
        text = str(payload.get(value_key or "value", ""))
        problem = None
        if meter is None:
            problem = "no_meter"
        elif not customer:
            problem = "meter_event_no_customer_defined"
        elif customer not in self.customers:
            problem = "meter_event_customer_not_found"
        elif not _INTEGER.fullmatch(text):
            problem = "meter_event_invalid_value"
        elif len(text.lstrip("-")) > VALUE_DIGITS_MAX:
            problem = "meter_event_value_too_many_digits"
        readable = _INTEGER.fullmatch(text) and len(text.lstrip("-")) <= VALUE_DIGITS_MAX
        value = int(text) if readable else 0
        return Counted(identifier, event_name, customer, value, timestamp, now, problem)

    def summaries(self, identity: str, params: Params) -> Answer:
        """Return a meter's sums for a customer, newest first; a page is 10 unless told."""
        meter = _found(self.meters, identity, "meter")
        for name in ("customer", "start_time", "end_time"):
            if name not in params:
                raise _missing(name)
        start, end = _whole(params, "start_time"), _whole(params, "end_time")
        window = params.get("value_grouping_window")
        if window is not None and window not in _WINDOWS:
            raise Refusal(400, "invalid_request_error", f"Invalid value_grouping_window: {window}")
        step = _WINDOWS.get(str(window), 60)
        for name, at in (("start_time", start), ("end_time", end)):
            if at % step:
                raise Refusal(
                    400,
                    "invalid_request_error",
                    f"{name} must be aligned with {window or 'minute'} boundaries",
                )
        if window is None:
            step = max(end - start, 1)
        sums: dict[int, list[Counted]] = {}
        for event in self.events:
            mine = event.event_name == meter["event_name"] and event.customer == params["customer"]
            if mine and event.problem is None and start <= event.timestamp < end:
                sums.setdefault((event.timestamp - start) // step, []).append(event)
        if window is None:
            sums.setdefault(0, [])
        formula = meter["default_aggregation"]["formula"]
        found = [
            {
                "id": f"mtrusg_{identity}_{params['customer']}_{start + n * step}_{step}",
                "object": "billing.meter_event_summary",
                "aggregated_value": _aggregated(formula, events),
                "start_time": start + n * step,
                "end_time": start + (n + 1) * step,
                "meter": identity,
                "livemode": False,
            }
            for n, events in sorted(sums.items(), reverse=True)
        ]
        return Answer(200, _page(found, params, f"/v1/billing/meters/{identity}/event_summaries"))

    def sums(self) -> dict[str, Any]:
        """Return what is counted by customer and meter, and what validation set aside."""
        counted: dict[tuple[str, str], list[int]] = {}
        aside: dict[tuple[str, str, str], list[int]] = {}
        for event in self.events:
            place: list[int]
            if event.problem is None:
                place = counted.setdefault((event.customer, event.event_name), [0, 0])
            else:
                key = (event.problem, event.customer, event.event_name)
                place = aside.setdefault(key, [0, 0])
            place[0] += 1
            place[1] += event.value
        return {
            "sums": [
                {"customer": customer, "event_name": name, "events": events, "sum": total}
                for (customer, name), (events, total) in sorted(counted.items())
            ],
            "unvalidated": [
                {
                    "code": code,
                    "customer": customer,
                    "event_name": name,
                    "events": events,
                    "sum": total,
                }
                for (code, customer, name), (events, total) in sorted(aside.items())
            ],
        }

    # --- what every call passes -----------------------------------------------------------------

    def once(self, key: str | None, call: bytes, act: Callable[[], Answer], now: float) -> Answer:
        """Answer a call; a second one with the same idempotency key as the first."""
        try:
            if key is not None:
                kept = self.kept(key, call, now)
                if kept is not None:
                    return kept
        except Refusal as refusal:
            return Answer(refusal.status, refusal.body, refusal.headers)
        try:
            answer = act()
        except Refusal as refusal:
            answer = Answer(refusal.status, refusal.body, refusal.headers)
        if key is not None:
            self.keep(key, call, answer, now)
        return answer

    def kept(self, key: str, body: bytes, now: float) -> Answer | None:
        """Return the first answer to an idempotency key, if there was one.

        Raises:
            Refusal: the key came with another body.
        """
        found = self._kept.get(key)
        if found is None or not self._is_remembered(found.at, now):
            return None
        if found.body_sha256 != _sha256(body):
            raise Refusal(
                400,
                "idempotency_error",
                "Keys for idempotent requests can only be used with the same parameters they "
                f"were first used with. Try using a key other than '{key}' if you meant to "
                "execute a different request.",
            )
        headers = {**found.answer.headers, "idempotent-replayed": "true"}
        return Answer(found.answer.status, found.answer.body, headers)

    def keep(self, key: str, body: bytes, answer: Answer, now: float) -> None:
        """Keep the first answer to an idempotency key, a failure too."""
        self._forget(now)
        self._kept[key] = _Kept(_sha256(body), answer, now)

    def enter(self, params: Params) -> tuple[str, str]:
        """Note that a call for a customer and meter is in flight; at most one may be.

        Raises:
            Refusal: another one is.
        """
        payload = params.get("payload")
        customer = payload.get("stripe_customer_id") if isinstance(payload, Mapping) else None
        lane = (str(customer), str(params.get("event_name")))
        if lane in self._in_flight:
            raise concurrent()
        self._in_flight.add(lane)
        return lane

    def leave(self, lane: tuple[str, str]) -> None:
        self._in_flight.discard(lane)

    def next_fault(self) -> Fault | None:
        """Return the fault of this meter event, if it has one; the first that applies."""
        for fault in self.faults:
            fault.seen += 1
            if fault.seen % fault.every == 0:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _is_remembered(self, at: float | None, now: float) -> bool:
        return at is not None and now - at < self.remembered_seconds

    def _forget(self, now: float) -> None:
        # Only bounds the memory. First in, first out: a clock that was set back holds some up,
        # so that whoever looks one up asks for its age too.
        while self._identifiers:
            identifier, at = next(iter(self._identifiers.items()))
            if self._is_remembered(at, now):
                break
            del self._identifiers[identifier]
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if self._is_remembered(kept.at, now):
                break
            del self._kept[key]


def _aggregated(formula: str, events: list[Counted]) -> float:
    if formula == "count":
        return len(events)
    if formula == "last":
        return max(events, key=lambda e: e.timestamp).value if events else 0
    return sum(event.value for event in events)


def _timestamp(text: object, now: float) -> int:
    if text is None:
        return int(now)
    try:
        timestamp = int(str(text))
    except ValueError:
        raise Refusal(
            400,
            "invalid_request_error",
            f"Invalid timestamp: {text}",
            code="parameter_invalid_integer",
        ) from None
    if timestamp < now - PAST_SECONDS_MAX:
        raise Refusal(
            400,
            "invalid_request_error",
            "The timestamp must be within the past 35 calendar days.",
        )
    if timestamp > now + FUTURE_SECONDS_MAX:
        raise Refusal(
            400,
            "invalid_request_error",
            "The timestamp must not be more than 5 minutes in the future.",
        )
    return timestamp


def _found(objects: Mapping[str, dict[str, Any]], identity: str, kind: str) -> dict[str, Any]:
    if identity not in objects:
        raise Refusal(
            404,
            "invalid_request_error",
            f"No such {kind}: '{identity}'",
            code="resource_missing",
        )
    return objects[identity]


def _page(objects: list[dict[str, Any]], params: Params, url: str) -> dict[str, Any]:
    limit = _whole(params, "limit") if "limit" in params else 10
    if not 1 <= limit <= 100:
        raise Refusal(400, "invalid_request_error", "Invalid limit: it must be 1 to 100")
    after = params.get("starting_after")
    start = 0
    if after is not None:
        places = [n for n, found in enumerate(objects) if found["id"] == after]
        if not places:
            raise Refusal(400, "invalid_request_error", f"No such object: '{after}'")
        start = places[0] + 1
    page = objects[start : start + limit]
    return {
        "object": "list",
        "url": url,
        "data": page,
        "has_more": start + limit < len(objects),
    }


def _whole(params: Params, name: str) -> int:
    try:
        return int(str(params[name]))
    except ValueError:
        raise Refusal(400, "invalid_request_error", f"Invalid integer: {params[name]}") from None


def _mapping(params: Params, name: str) -> Params:
    found = params.get(name) or {}
    if not isinstance(found, Mapping):
        raise Refusal(400, "invalid_request_error", f"Invalid object: {name}")
    return found


def _check_length(text: str, characters_max: int) -> None:
    if len(text) > characters_max:
        raise Refusal(
            400,
            "invalid_request_error",
            f"Invalid string: {text[:20]}...; must be at most {characters_max} characters",
        )


def _missing(name: str) -> Refusal:
    return Refusal(
        400, "invalid_request_error", f"Missing required param: {name}.", code="parameter_missing"
    )


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
