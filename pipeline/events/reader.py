"""Read any event, and explain a rejection: the authority on what is accepted. Pure.

`wire` is a faster reader for ordinary events, and passes all others to this module. If the two
disagree, this module is right; `tests/properties/test_readers.py` compares them.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar, get_args

from msgspec import inspect

from pipeline.events import hints
from pipeline.events.data import DATA, Data
from pipeline.events.jsontext import json_value
from pipeline.events.model import (
    SEQUENCE_CHARACTERS_MAX,
    TENANT_ID,
    TYPES,
    Addressed,
    Channel,
    Environment,
    Event,
    Headers,
    Reason,
    Rejected,
)
from pipeline.events.times import parse_time

_ALSO = "; also "  # between the faults of one record
_FAULTS_MAX = 12

_Checked = TypeVar("_Checked")


class _RejectedError(Exception):
    """A failed check, with the `Rejected` that `_read` returns for it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.rejected = Rejected(reason, detail)


# --- JSON and headers -----------------------------------------------------------------------------


def read_structured(value: bytes) -> Addressed | Rejected:
    """Return the event of a record in structured mode: the value is the whole event as JSON."""
    if not value:
        return Rejected("malformed_json", "the value is empty")
    envelope = json_value(value)
    if isinstance(envelope, Rejected):
        return envelope
    if not isinstance(envelope, dict):
        hint = (
            "; one record is one event: send each event as its own record"
            if isinstance(envelope, list)
            else ""
        )
        detail = f"expected one JSON object, got {_kind_of(envelope)}{hint}"
        return Rejected("not_cloudevents", detail)
    attributes = {name: member for name, member in envelope.items() if member is not None}
    data = attributes.get("data", {})
    if "data_base64" in attributes and "data" not in attributes:
        data = Rejected("invalid_data", "data_base64: send data as a JSON object instead")
    return _read(attributes, data)


def hints_for(value: bytes) -> list[str]:
    """Return hints for the members of an accepted event that nothing reads, as they are misspelt."""
    envelope = json_value(value)
    if not isinstance(envelope, dict):
        return []
    attributes = {name: member for name, member in envelope.items() if member is not None}
    return hints.ignored_members(attributes, attributes.get("data"))


def read_binary(attributes: Mapping[str, Any], value: bytes) -> Addressed | Rejected:
    """Return the event of a record in binary mode: the value is `data` as JSON.

    Args:
        attributes: the attributes in the record's headers, from `binary_attributes`.
        value: the record's value.
    """
    data = json_value(value) if value else {}
    if isinstance(data, Rejected):
        return data
    return _read(attributes, {} if data is None else data)


def unreadable_name(name: str) -> Rejected | None:
    """Return what is wrong with the name of a header, or None if it is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        found = name.encode("utf-8", "surrogateescape")
        return Rejected(
            "invalid_attribute",
            f"the name of a header is not UTF-8: its bytes are {found[:40].hex(' ')}; the names of "
            "headers must be text",
        )
    return None


def binary_attributes(headers: Headers) -> dict[str, Any] | Rejected | None:
    """Return the attributes in the headers, or None if the record is in structured mode."""
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


class _Faults:
    """What is wrong with a record, in the order of the checks. The first gives the reason."""

    def __init__(self) -> None:
        self.found: list[Rejected] = []

    def add(self, reason: Reason, detail: str) -> None:
        self.found.append(Rejected(reason, detail))

    def checked(self, check: Callable[..., _Checked], *arguments: Any) -> _Checked | None:
        """Return what a check returns; note what it raises."""
        try:
            return check(*arguments)
        except _RejectedError as error:
            self.found.append(error.rejected)
            return None

    def rejected(self, hints: Sequence[str]) -> Rejected:
        """Return all faults and hints as one rejection."""
        first = self.found[0]
        details = [fault.detail for fault in self.found]
        details += [hint for hint in hints if hint not in details]
        if len(details) > _FAULTS_MAX:
            details[_FAULTS_MAX:] = [f"{len(details) - _FAULTS_MAX} more"]
        return Rejected(first.reason, _ALSO.join(details))


def _read(attributes: Mapping[str, Any], data: object) -> Addressed | Rejected:
    faults = _Faults()
    addressed = _checked_event(attributes, data, faults)
    return addressed or faults.rejected(hints.ignored_members(attributes, data))


def _checked_event(
    attributes: Mapping[str, Any], data: object, faults: _Faults
) -> Addressed | None:
    rank = _check_envelope(attributes, faults)
    wrong: Reason = "invalid_attribute"

    def text(name: str, longest: int = 256) -> str:
        if name not in attributes:
            return ""  # noted already
        return faults.checked(_identifier, attributes[name], name, wrong, longest) or ""

    event_id, source, conversation_id = text("id"), text("source"), text("subject")
    at = 0
    if "time" in attributes:
        at = faults.checked(_time, attributes["time"], "time", wrong) or 0
    tenant_id = text("tenantid", 128)
    if tenant_id and not TENANT_ID.fullmatch(tenant_id):
        faults.add(
            wrong, f"tenantid: is {_brief(tenant_id)}; it may contain only A-Z a-z 0-9 . _ -"
        )
    choice = (get_args(Channel), "channel", wrong)
    channel = faults.checked(_choice, attributes.get("channel", "messenger"), *choice)
    choice = (get_args(Environment), "environment", wrong)
    environment = faults.checked(_choice, attributes.get("environment", "live"), *choice)
    sequence = faults.checked(_sequence, attributes.get("sequence", ""))
    members: dict[str, Any] = {}
    if isinstance(data, Rejected):
        faults.found.append(data)
    elif not isinstance(data, dict):
        faults.add("invalid_data", f"data: expected a JSON object, got {_kind_of(data)}")
    elif rank is not None:
        members = _checked_members(rank, data, faults)
    if faults.found or rank is None or sequence is None or channel is None:
        return None
    event = Event(
        at=at,
        rank=rank,
        source=source,
        id=event_id,
        sequence=sequence,
        channel=channel,
        is_live=environment == "live",
        **members,
    )
    return Addressed(tenant_id, conversation_id, event)


def _check_envelope(attributes: Mapping[str, Any], faults: _Faults) -> int | None:
    """Check version, type and required attributes; return the rank of the type if there is one."""
    if attributes.get("specversion") != "1.0":
        found = _brief(attributes["specversion"]) if "specversion" in attributes else "missing"
        hint = (
            ""
            if "specversion" in attributes
            else hints.missing_attribute("specversion", attributes)
        )
        faults.add("not_cloudevents", f'specversion: is {found}; it must be "1.0"{hint}')
    rank = None
    name = attributes.get("type")
    if name is not None and faults.checked(_string, name, "type", "invalid_attribute") is not None:
        if name in TYPES:
            rank = TYPES.index(name)
        else:
            faults.add("unknown_type", f"type: unknown event type {_suggested(name)}")
    for required in hints.REQUIRED:
        if required not in attributes:
            hint = hints.missing_attribute(required, attributes)
            faults.add("missing_attribute", f"{required}: is missing{hint}")
    return rank


@lru_cache(1_000)  # a producer that uses a wrong name usually repeats it in every event
def _suggested(name: str) -> str:
    """Return an unknown type name for a message, with the known name that was probably meant."""
    full_name = f"conversation.{name}"
    close = [full_name] if full_name in TYPES else get_close_matches(name[:60], TYPES, 1, 0.8)
    return _brief(name) + (f"; did you mean {close[0]!r}?" if close else "")


# --- data -----------------------------------------------------------------------------------------


def _checked_members(rank: int, data: Mapping[str, object], faults: _Faults) -> dict[str, Any]:
    """Return the members of `Event` that `data` sets, if its class accepts every member."""
    form = DATA[rank]
    before = len(faults.found)
    checked: dict[str, Any] = {}
    for field in _FIELDS[form]:
        if field.name in data:
            name = f"data.{field.name}"
            checked[field.name] = faults.checked(_checked, data[field.name], field.type, name)
        elif field.required:
            hint = hints.missing(field.name, [known.name for known in _FIELDS[form]], data)
            faults.add("invalid_data", f"data.{field.name}: is missing{hint}")
    return {} if len(faults.found) > before else form(**checked).members()


def _fields_of(form: type[Data]) -> Sequence[inspect.Field]:
    described = inspect.type_info(form)
    assert isinstance(described, inspect.StructType)
    return described.fields


_FIELDS = {form: _fields_of(form) for form in DATA.values()}


def _checked(value: object, form: inspect.Type, name: str) -> object:
    """Check a member of `data` against the type that its class declares, and return it."""
    reason: Reason = "invalid_data"
    match form:
        case inspect.LiteralType(values=choices):
            return _choice(value, choices, name, reason)
        case inspect.BoolType():
            if not isinstance(value, bool):
                raise _RejectedError(
                    reason, f"{name}: is {_brief(value)}; it must be true or false"
                )
            return value
        case inspect.IntType(ge=int(lowest), le=int(highest)):
            return _whole_number(value, lowest, highest, name, reason)
        case inspect.StrType(max_length=int(longest)):
            return _identifier(value, name, reason, longest)
        case inspect.Metadata(extra={"format": "RFC 3339"}):
            _time(value, name, reason)
            return value
        case inspect.StrType():
            return _string(value, name, reason)
        case _:
            raise TypeError(f"{name}: this reader has no check for {form}")


# --- values ---------------------------------------------------------------------------------------


def _string(value: object, name: str, reason: Reason) -> str:
    if not isinstance(value, str):
        kind = "an RFC 3339 time in a string" if name == "time" else "a string"
        raise _RejectedError(reason, f"{name}: is {_brief(value)}; it must be {kind}")
    return value


def _identifier(value: object, name: str, reason: Reason, longest: int = 256) -> str:
    text = _string(value, name, reason)
    if not 1 <= len(text) <= longest:
        raise _RejectedError(
            reason, f"{name}: has {len(text)} characters; it must have 1 to {longest}"
        )
    if "\0" in text:
        raise _RejectedError(reason, f"{name}: contains a NUL character; remove it")
    return text


def _sequence(value: object) -> str:
    text = _string(value, "sequence", "invalid_attribute")
    if len(text) > SEQUENCE_CHARACTERS_MAX:
        detail = f"has {len(text)} characters; the limit is {SEQUENCE_CHARACTERS_MAX}"
        raise _RejectedError("invalid_attribute", f"sequence: {detail}")
    return text


def _choice(value: object, choices: Sequence[Any], name: str, reason: Reason) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _RejectedError(
            reason, f"{name}: is {_brief(value)}; it must be one of {', '.join(choices)}"
        )
    # Return the literal itself, not the equal text. msgspec leaves a member out of an encoding only
    # if it is the same object as the default, and both readers must give the same bytes.
    return choices[choices.index(value)]


def _whole_number(value: object, lowest: int, highest: int, name: str, reason: Reason) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise _RejectedError(
            reason,
            f"{name}: is {_brief(value)}; it must be a whole number from {lowest} to {highest}",
        )
    return value


def _time(value: object, name: str, reason: Reason) -> int:
    text = _string(value, name, reason)
    try:
        return parse_time(text)
    except ValueError as error:
        raise _RejectedError(reason, f"{name}: {error}") from None


def _brief(value: object) -> str:
    """Return a value as a message shows it: at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind_of(value: object) -> str:
    """Describe, for a message, a value that is not the expected object."""
    match value:
        case []:
            return "an empty array"
        case list():
            return f"an array of {len(value)}"
        case str():
            return f"the string {_brief(value)}"
        case _:
            return _brief(value)
