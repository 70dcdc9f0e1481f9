"""This file turns the bytes of a Kafka record into an event, or says why not. Pure.

Two readers of one rule: `_Wire` is the fast one, typed and in C, and refuses whatever is out of
the ordinary. What it refuses is read again by `_read_slowly`, which is the authority: it accepts
or names the attribute that is wrong. A property test holds the two together.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from pipeline.events.model import (
    AI_MESSAGE,
    CLOSED,
    CUSTOMER_MESSAGE,
    DELETED,
    EVENT_BYTES_MAX,
    FUTURE_MS_MAX,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    REDACTED,
    REOPENED,
    SEQUENCE_CHARACTERS_MAX,
    SPAM_FLAGGED,
    STARTED,
    TYPES,
    UNDELIVERED,
    VERDICT,
    Addressed,
    AnswerKind,
    Cause,
    Channel,
    Environment,
    Event,
    Intent,
    Reason,
    Rejected,
    Visibility,
)
from pipeline.events.times import format_time, parse_canonical, parse_time

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

_Text = Annotated[str, Meta(min_length=1, max_length=256)]
_Sequence = Annotated[str, Meta(max_length=SEQUENCE_CHARACTERS_MAX)]
_Outcome = Annotated[str, Meta(min_length=1, max_length=64)]
_Score = Annotated[int, Meta(ge=1, le=5)]
_InitiatedBy = Literal["customer", "teammate", "outbound"]
_Actor = Literal["customer", "teammate", "workflow"]
_Target = Literal["ai", "human"]
_Role = Literal["primary", "secondary"]
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
# What the reference producer sends, as aiokafka gives it: most records of most streams.
_STRUCTURED = [("content-type", b"application/cloudevents+json")]
_CE_PREFIXES = frozenset({"ce_", "CE_", "Ce_", "cE_"})
_TENANTS_KNOWN_MAX = 100_000
_tenants_known: set[str] = set()
_SOURCES_KNOWN_MAX = 10_000
_sources_known: dict[str, str] = {}


# --- the fast reader ----------------------------------------------------------------------------


# None of these can be in a cycle: the garbage collector need not look at them.
class _Data(msgspec.Struct, gc=False):
    """What a type's `data` holds."""


class _Started(_Data):
    initiated_by: _InitiatedBy


class _CustomerMessage(_Data):
    intent: Intent = "unknown"
    classifier: str = ""


class _AiMessage(_Data):
    kind: AnswerKind
    agent: str = ""
    billable: bool = True


class _HumanMessage(_Data):
    visibility: Visibility = "public"


class _Handoff(_Data):
    cause: Cause


class _OutcomeReported(_Data):
    outcome: _Outcome


class _Rating(_Data):
    target: _Target
    score: _Score
    intent: Intent | msgspec.UnsetType = msgspec.UNSET


class _Verdict(_Data):
    verified: bool
    model: str = ""


class _Undelivered(_Data):
    message_id: _Text


class _Acted(_Data):
    actor: _Actor


class _Merged(_Data):
    role: _Role
    other: _Text
    last_answer_at: str | msgspec.UnsetType = msgspec.UNSET


class _SpamFlagged(_Data):
    actor: str = ""


class _Nothing(_Data):
    pass


class _Wire(msgspec.Struct, tag_field="type", kw_only=True, gc=False):
    rank: ClassVar[int]
    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    subject: _Text
    time: str
    tenant_id: str = msgspec.field(name="tenantid")
    channel: Channel = "messenger"
    environment: Environment = "live"
    sequence: _Sequence = ""


class _StartedWire(_Wire, tag=TYPES[STARTED]):
    rank = STARTED
    data: _Started


class _CustomerMessageWire(_Wire, tag=TYPES[CUSTOMER_MESSAGE]):
    rank = CUSTOMER_MESSAGE
    data: _CustomerMessage


class _AiMessageWire(_Wire, tag=TYPES[AI_MESSAGE]):
    rank = AI_MESSAGE
    data: _AiMessage


class _HumanMessageWire(_Wire, tag=TYPES[HUMAN_MESSAGE]):
    rank = HUMAN_MESSAGE
    data: _HumanMessage


class _HandoffWire(_Wire, tag=TYPES[HANDOFF]):
    rank = HANDOFF
    data: _Handoff


class _OutcomeReportedWire(_Wire, tag=TYPES[OUTCOME_REPORTED]):
    rank = OUTCOME_REPORTED
    data: _OutcomeReported


class _RatingWire(_Wire, tag=TYPES[RATING]):
    rank = RATING
    data: _Rating


class _VerdictWire(_Wire, tag=TYPES[VERDICT]):
    rank = VERDICT
    data: _Verdict


class _UndeliveredWire(_Wire, tag=TYPES[UNDELIVERED]):
    rank = UNDELIVERED
    data: _Undelivered


class _ClosedWire(_Wire, tag=TYPES[CLOSED]):
    rank = CLOSED
    data: _Acted


class _ReopenedWire(_Wire, tag=TYPES[REOPENED]):
    rank = REOPENED
    data: _Acted


class _MergedWire(_Wire, tag=TYPES[MERGED]):
    rank = MERGED
    data: _Merged


class _SpamFlaggedWire(_Wire, tag=TYPES[SPAM_FLAGGED]):
    rank = SPAM_FLAGGED
    data: _SpamFlagged


class _RedactedWire(_Wire, tag=TYPES[REDACTED]):
    rank = REDACTED
    data: _Nothing


class _DeletedWire(_Wire, tag=TYPES[DELETED]):
    rank = DELETED
    data: _Nothing


_AnyWire: TypeAlias = (
    _StartedWire
    | _CustomerMessageWire
    | _AiMessageWire
    | _HumanMessageWire
    | _HandoffWire
    | _OutcomeReportedWire
    | _RatingWire
    | _VerdictWire
    | _UndeliveredWire
    | _ClosedWire
    | _ReopenedWire
    | _MergedWire
    | _SpamFlaggedWire
    | _RedactedWire
    | _DeletedWire
)
_decode_wire = msgspec.json.Decoder(_AnyWire).decode
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode(
    value: bytes | None, key: bytes | None, timestamp: int, headers: Headers = ()
) -> Addressed | Rejected:
    """Return the event in a record of the events topic, or why there is none; never raises.

    Args:
        value: the record's value.
        key: the record's key: `<tenantid>:<subject>`.
        timestamp: the record's timestamp, milliseconds since the epoch: its arrival.
        headers: the record's headers; `ce_specversion` among them means binary mode.
    """
    addressed = decode_value(value, headers)
    if type(addressed) is Rejected:
        return addressed
    tenant_id, name, event = addressed.tenant_id, addressed.conversation, addressed.event
    return hold_against(tenant_id, name, event, key, timestamp) or addressed


def hold_against(
    tenant_id: str, conversation: str, event: Event, key: bytes | None, timestamp: int
) -> Rejected | None:
    """Say what is wrong between an event and the record that brought it, if anything is."""
    expected = f"{tenant_id}:{conversation}".encode()
    if key != expected:
        shown = "absent" if key is None else repr(key[:80].decode(errors="replace"))
        return Rejected(
            "key_mismatch",
            f"key is {shown}, but tenantid and subject make {expected[:80].decode(errors='replace')!r}",
        )
    if event.at > timestamp + FUTURE_MS_MAX:
        return Rejected(
            "future_time",
            f"time {format_time(event.at)} is more than 5 minutes after "
            f"the arrival at {format_time(timestamp)}",
        )
    return None


def decode_value(value: bytes | None, headers: Headers = ()) -> Addressed | Rejected:
    """Return the event in a value alone, with no key or arrival to hold it against."""
    found = read(value, headers)
    return found if type(found) is Rejected else Addressed(*found)


def read(value: bytes | None, headers: Headers = ()) -> tuple[str, str, Event] | Rejected:
    """Return tenant, conversation and event, as `decode_value` does; nothing else is made."""
    if value is None:
        value = b""
    if len(value) > EVENT_BYTES_MAX:
        return Rejected("too_large", f"{len(value)} bytes; at most {EVENT_BYTES_MAX} are taken")
    if headers and headers != _STRUCTURED:
        attributes = _binary_attributes(headers)
        if attributes is not None:
            if type(attributes) is Rejected:
                return attributes
            return _apart(_read_binary(attributes, value))
    try:
        wire = _decode_wire(value)
        if not value.isascii():
            value.decode()  # members that are passed over are not looked into by msgspec
        if b"\\u0000" in value:
            return _apart(_read_structured(value))
        at = parse_canonical(wire.time)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _apart(_read_structured(value))
    tenant_id = wire.tenant_id
    if tenant_id not in _tenants_known and not _know_tenant(tenant_id):
        return _apart(_read_structured(value))
    rank = wire.rank
    channel, live, data = wire.channel, wire.environment == "live", wire.data
    source = _sources_known.get(wire.source)
    if source is None:
        source = _know_source(wire.source)
    # The three types that make up most of a stream stand first.
    if rank == AI_MESSAGE:
        event = Event(
            at,
            rank,
            source,
            wire.id,
            wire.sequence,
            channel,
            live,
            None,
            data.kind,
            data.billable,
        )
    elif rank == CUSTOMER_MESSAGE:
        event = Event(
            at,
            rank,
            source,
            wire.id,
            wire.sequence,
            channel,
            live,
            data.intent,
        )
    elif rank in _PLAIN:
        event = Event(at, rank, source, wire.id, wire.sequence, channel, live)
    else:
        try:
            members = _members(rank, msgspec.structs.asdict(data))
        except ValueError:
            return _apart(_read_structured(value))
        event = Event(at, rank, source, wire.id, wire.sequence, channel, live, **members)
    return tenant_id, wire.subject, event


def _apart(found: Addressed | Rejected) -> tuple[str, str, Event] | Rejected:
    if type(found) is Rejected:
        return found
    return found.tenant_id, found.conversation, found.event


_PLAIN = frozenset({STARTED, CLOSED, REOPENED, SPAM_FLAGGED, REDACTED, DELETED})


def _know_source(source: str) -> str:
    # One text for all events of a source: what waits to be applied then takes less of the
    # processor's cache.
    if len(_sources_known) >= _SOURCES_KNOWN_MAX:
        _sources_known.clear()
    _sources_known[source] = source
    return source


def _know_tenant(tenant_id: str) -> bool:
    if not _TENANT.fullmatch(tenant_id):
        return False
    if len(_tenants_known) >= _TENANTS_KNOWN_MAX:
        _tenants_known.clear()
    _tenants_known.add(tenant_id)
    return True


def _members(rank: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of `Event` that valid data of this type sets."""
    match rank:
        case 1:
            return {"intent": data["intent"]}
        case 2:
            return {"kind": data["kind"], "billable": data["billable"]}
        case 3:
            return {"internal": data["visibility"] == "internal"}
        case 4:
            return {"cause": data["cause"]}
        case 5:
            return {"outcome": data["outcome"]}
        case 6:
            intent = data["intent"]
            return {
                "rates_ai": data["target"] == "ai",
                "score": data["score"],
                "intent": None if intent is msgspec.UNSET else intent,
            }
        case 7:
            return {"verified": data["verified"]}
        case 8:
            return {"message_id": data["message_id"]}
        case 11:
            text = data["last_answer_at"]
            return {
                "secondary": data["role"] == "secondary",
                "last_answer_at": None if text is msgspec.UNSET else parse_time(text),
            }
        case _:
            return {}


# --- the slow reader: the authority, and the one that explains -----------------------------------


class _Refused(Exception):  # noqa: N818 - not an error: a value on its way to `Rejected`
    def __init__(self, reason: Reason, detail: str) -> None:
        self.rejected = Rejected(reason, detail)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _choice(value: object, literal: object, name: str, reason: Reason) -> Any:
    choices = get_args(literal)
    if not isinstance(value, str) or value not in choices:
        raise _Refused(reason, f"{name}: {_shown(value)} is none of {', '.join(choices)}")
    # The literal itself: `Event` leaves a default out of its encoding where it is the same object,
    # and both readers must give the same bytes.
    return choices[choices.index(value)]


def _text(value: object, name: str, reason: Reason, longest: int = 256) -> str:
    if not isinstance(value, str):
        raise _Refused(reason, f"{name}: {_shown(value)} is not a string")
    if not 1 <= len(value) <= longest:
        raise _Refused(reason, f"{name}: has {len(value)} characters; it must have 1 to {longest}")
    if "\0" in value:
        raise _Refused(reason, f"{name}: holds a NUL character, which no ledger takes")
    return value


def _time(value: object, name: str, reason: Reason) -> int:
    if not isinstance(value, str):
        raise _Refused(reason, f"{name}: {_shown(value)} is not a string")
    try:
        return parse_time(value)
    except ValueError as error:
        raise _Refused(reason, f"{name}: {error}") from None


def _read_structured(value: bytes) -> Addressed | Rejected:
    if not value:
        return Rejected("malformed_json", "the value is empty")
    try:
        value.decode()
        envelope = _read_json(value)
    except RecursionError:
        return Rejected("malformed_json", "the value is nested too deep")
    except ValueError as error:
        return Rejected("malformed_json", f"the value is not JSON in UTF-8: {_brief(error)}")
    if not isinstance(envelope, dict):
        return Rejected("not_cloudevents", "the value is JSON, but not an object")
    attributes = {name: member for name, member in envelope.items() if member is not None}
    if "data_base64" in attributes and "data" not in attributes:
        return _read(attributes, Rejected("invalid_data", "data_base64: data must be an object"))
    return _read(attributes, attributes.get("data", {}))


class _OutOfRange:
    """A number that no machine type holds. It matters only in a member that is looked at."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _read_json(text: bytes | msgspec.Raw, depth: int = 2) -> object:
    """Return what a JSON text says; an object's members each for themselves, data's too.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    if depth:
        try:
            members = _decode_members(text)
        except msgspec.ValidationError:
            pass  # not an object
        else:
            return {name: _read_json(member, depth - 1) for name, member in members.items()}
    try:
        return _decode_any(text)
    except msgspec.ValidationError:
        return _OutOfRange(bytes(text).decode())


def _brief(error: ValueError) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _binary_attributes(headers: Headers) -> dict[str, Any] | Rejected | None:
    if not any(name[:3] in _CE_PREFIXES for name, _ in headers):
        return None
    attributes: dict[str, Any] = {}
    structured = False
    for name, content in headers:
        lowered = name.lower()
        if lowered == "content-type":
            structured = (content or b"").lower().startswith(b"application/cloudevents")
        elif lowered.startswith("ce_") and content is not None:
            try:
                attributes[lowered[3:]] = content.decode()
            except UnicodeDecodeError:
                return Rejected("invalid_attribute", f"{lowered[3:]}: header {name} is not UTF-8")
    return None if structured or "specversion" not in attributes else attributes


def _read_binary(attributes: dict[str, Any], value: bytes) -> Addressed | Rejected:
    data: object = {}
    if value:
        try:
            value.decode()
            data = _read_json(value)
        except RecursionError:
            return Rejected("malformed_json", "the value is nested too deep")
        except ValueError as error:
            return Rejected("malformed_json", f"the value is not JSON in UTF-8: {_brief(error)}")
    return _read(attributes, {} if data is None else data)


def _read(attributes: Mapping[str, Any], data: object) -> Addressed | Rejected:
    try:
        return _read_slowly(attributes, data)
    except _Refused as refused:
        return refused.rejected


def _read_slowly(attributes: Mapping[str, Any], data: object) -> Addressed:
    if attributes.get("specversion") != "1.0":
        shown = _shown(attributes["specversion"]) if "specversion" in attributes else "absent"
        raise _Refused("not_cloudevents", f'specversion: is {shown}; it must be "1.0"')
    kind = attributes.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in TYPES):
        if not isinstance(kind, str):
            raise _Refused("invalid_attribute", f"type: {_shown(kind)} is not a string")
        raise _Refused("unknown_type", f"type: {_shown(kind)} is no type of event")
    for name in ("id", "source", "type", "subject", "time", "tenantid"):
        if name not in attributes:
            raise _Refused("missing_attribute", f"{name}: is absent")
    wrong: Reason = "invalid_attribute"
    identity = _text(attributes["id"], "id", wrong)
    source = _text(attributes["source"], "source", wrong)
    subject = _text(attributes["subject"], "subject", wrong)
    at = _time(attributes["time"], "time", wrong)
    tenant_id = _text(attributes["tenantid"], "tenantid", wrong, 128)
    if not _TENANT.fullmatch(tenant_id):
        raise _Refused(wrong, f"tenantid: {_shown(tenant_id)} has other than A-Z a-z 0-9 . _ -")
    channel = _choice(attributes.get("channel", "messenger"), Channel, "channel", wrong)
    environment = _choice(attributes.get("environment", "live"), Environment, "environment", wrong)
    sequence = attributes.get("sequence", "")
    if not isinstance(sequence, str):
        raise _Refused(wrong, f"sequence: {_shown(sequence)} is not a string")
    if len(sequence) > SEQUENCE_CHARACTERS_MAX:
        raise _Refused(
            wrong,
            f"sequence: has {len(sequence)} characters; at most {SEQUENCE_CHARACTERS_MAX} are taken",
        )
    if isinstance(data, Rejected):
        raise _Refused(data.reason, data.detail)
    if not isinstance(data, dict):
        raise _Refused("invalid_data", f"data: {_shown(data)} is not an object")
    rank = TYPES.index(attributes["type"])
    members = _members(rank, _checked_data(rank, data))
    event = Event(at, rank, source, identity, sequence, channel, environment == "live", **members)
    return Addressed(tenant_id, subject, event)


_ABSENT = object()


def _checked_data(rank: int, data: Mapping[str, object]) -> dict[str, Any]:
    wrong: Reason = "invalid_data"
    checked: dict[str, Any] = {}

    def member(name: str, default: object = _ABSENT) -> object:
        if name in data:
            return data[name]
        if default is _ABSENT:
            raise _Refused(wrong, f"data.{name}: is absent")
        return default

    def choice(name: str, literal: object, default: object = _ABSENT) -> None:
        checked[name] = _choice(member(name, default), literal, f"data.{name}", wrong)

    def truth(name: str, default: object = _ABSENT) -> None:
        value = member(name, default)
        if not isinstance(value, bool):
            raise _Refused(wrong, f"data.{name}: {_shown(value)} is neither true nor false")
        checked[name] = value

    def free_text(name: str) -> None:
        if not isinstance(data.get(name, ""), str):
            raise _Refused(wrong, f"data.{name}: {_shown(data[name])} is not a string")

    match rank:
        case 0:
            choice("initiated_by", _InitiatedBy)
        case 1:
            choice("intent", Intent, "unknown")
            free_text("classifier")
        case 2:
            choice("kind", AnswerKind)
            truth("billable", default=True)
            free_text("agent")
        case 3:
            choice("visibility", Visibility, "public")
        case 4:
            choice("cause", Cause)
        case 5:
            checked["outcome"] = _text(member("outcome"), "data.outcome", wrong, 64)
        case 6:
            choice("target", _Target)
            score = member("score")
            if isinstance(score, float) and score.is_integer():
                score = int(score)
            if not isinstance(score, int) or isinstance(score, bool) or not 1 <= score <= 5:
                raise _Refused(
                    wrong, f"data.score: {_shown(score)} is not a whole number from 1 to 5"
                )
            checked["score"] = score
            checked["intent"] = msgspec.UNSET
            if "intent" in data:
                choice("intent", Intent)
        case 7:
            truth("verified")
            free_text("model")
        case 8:
            checked["message_id"] = _text(member("message_id"), "data.message_id", wrong)
        case 9 | 10:
            choice("actor", _Actor)
        case 11:
            choice("role", _Role)
            _text(member("other"), "data.other", wrong)
            checked["last_answer_at"] = msgspec.UNSET
            if "last_answer_at" in data:
                _time(data["last_answer_at"], "data.last_answer_at", wrong)
                checked["last_answer_at"] = data["last_answer_at"]
        case 12:
            free_text("actor")
        case _:
            pass
    return checked
