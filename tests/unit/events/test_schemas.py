"""The published schemas, their examples and the readers agree."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from pipeline.events.data import DATA
from pipeline.events.model import EVENT_BYTES_MAX, FUTURE_MS_MAX, REASONS, TYPES, Rejected
from pipeline.events.times import format_time, parse_time
from pipeline.events.wire import read_record

ROOT = Path(__file__).resolve().parents[3] / "schemas"
SCHEMAS = sorted(ROOT.rglob("*.schema.json"))
EXAMPLES = sorted((ROOT / "examples").glob("conversation.*.json"))
RECORDS = sorted((ROOT / "examples").glob("usage_record*.json"))
REJECTED = sorted((ROOT / "examples" / "rejected").glob("*.json"))
# Reasons that a schema cannot check: they concern the record's key, its arrival or its JSON.
BEYOND_SCHEMA = {"key_mismatch", "future_time", "malformed_json"}
# Reasons that no example of one event can show.
BEYOND_EXAMPLE = {
    "too_large",
    "conversation_too_long",
    "too_late",
    "not_authorized",
    "wrong_partition",
}
HEADERS = [("content-type", b"application/cloudevents+json")]


def named(path: Path) -> str:
    return path.name


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@cache
def validator(relative: str) -> Draft202012Validator:
    """Return a validator of one schema; the registry has only our files, so nothing is fetched."""
    # The schemas refer to each other by file name, as in `envelope.schema.json`.
    registry: Registry[Any] = Registry().with_resources(
        (path.name, DRAFT202012.create_resource(read(path))) for path in SCHEMAS
    )
    return Draft202012Validator(read(ROOT / relative), registry=registry)


def validator_of(event: object) -> Draft202012Validator:
    """Return the validator of the event's type, or of the envelope if the type is unknown."""
    kind = event.get("type") if isinstance(event, dict) else None
    name = kind if kind in TYPES else "envelope"
    return validator(f"events/{name}.schema.json")


def pointed_at(document: Any, pointer: str) -> Any:
    for part in pointer.strip("/").split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, inner in node.items():
            if name == "$ref":
                yield inner
            else:
                yield from refs(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from refs(inner)


def rejection(
    event: object, key: bytes | None = None, arrived_at: int | None = None
) -> Rejected | None:
    """Return why an event is rejected, or None; by default its key and arrival are correct."""
    if key is None and isinstance(event, dict):
        key = f"{event.get('tenantid')}:{event.get('subject')}".encode()
    if arrived_at is None:
        try:
            arrived_at = parse_time(event["time"])  # type: ignore[index]
            # A merge arrives after the answer that it names.
            arrived_at = max(arrived_at, parse_time(event["data"]["last_answer_at"]))  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            arrived_at = arrived_at or 0
    result = read_record(json.dumps(event).encode(), key, arrived_at, HEADERS)
    return result if isinstance(result, Rejected) else None


@pytest.mark.parametrize("path", SCHEMAS, ids=named)
def test_schema_is_valid(path: Path) -> None:
    schema = read(path)

    Draft202012Validator.check_schema(schema)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"]


@pytest.mark.parametrize("path", SCHEMAS, ids=named)
def test_schemas_refer_only_to_their_neighbours(path: Path) -> None:
    for ref in refs(read(path)):
        assert (path.parent / ref).is_file()


def test_every_type_has_its_schema_and_an_example() -> None:
    expected = {f"{name}.schema.json" for name in (*TYPES, "envelope")}

    assert {path.name for path in (ROOT / "events").iterdir()} == expected
    assert {read(path)["type"] for path in EXAMPLES} == set(TYPES)
    assert read(ROOT / "events" / "envelope.schema.json")["properties"]["type"]["enum"] == [*TYPES]


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_example_fits_its_schema(path: Path) -> None:
    event = read(path)

    errors = [error.message for error in validator_of(event).iter_errors(event)]

    assert path.name.startswith(event["type"] + ".")
    assert errors == []


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_example_is_accepted(path: Path) -> None:
    assert rejection(read(path)) is None


@pytest.mark.parametrize("rank", DATA)
def test_the_schema_of_data_has_the_members_of_the_table(rank: int) -> None:
    members = msgspec.structs.fields(DATA[rank])

    data = read(ROOT / "events" / f"{TYPES[rank]}.schema.json")["properties"].get("data", {})

    assert set(data.get("properties", {})) == {member.name for member in members}
    assert set(data.get("required", [])) == {member.name for member in members if member.required}
    for member in members:
        if "enum" in data["properties"][member.name]:
            assert set(data["properties"][member.name]["enum"]) == _choices(member.type)


def _choices(form: Any) -> set[object]:
    """Return the values of a `Literal`, even inside a union with `UnsetType`."""
    literals = [inner for inner in (form, *get_args(form)) if get_origin(inner) is Literal]
    return {value for literal in literals for value in get_args(literal)}


@pytest.mark.parametrize("path", RECORDS, ids=named)
def test_usage_record_example_fits_its_schema(path: Path) -> None:
    errors = [e.message for e in validator("usage_record.schema.json").iter_errors(read(path))]

    assert errors == []


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": -1},
        {"quantity": 2},
        {"quantity": True},
        {"supersedes": "acme:c-1042:1"},
        {"evidence": []},
        {"occurred_at": "2026-05-05T09:01:00Z"},
        {"kind": "guessed"},
        {"id": "acme:c-1042:0"},
    ],
    ids=str,
)
def test_usage_record_schema_rejects(change: dict[str, object]) -> None:
    record = read(ROOT / "examples" / "usage_record.json") | change

    assert not validator("usage_record.schema.json").is_valid(record)


def test_every_reason_that_one_event_can_show_has_an_example() -> None:
    assert {read(path)["reason"] for path in REJECTED} == set(REASONS) - BEYOND_EXAMPLE


@pytest.mark.parametrize("path", REJECTED, ids=named)
def test_rejected_example_fails_its_schema_if_a_schema_can_check_its_reason(path: Path) -> None:
    example = read(path)
    if "event" not in example:
        return

    valid = validator_of(example["event"]).is_valid(example["event"])

    assert path.name.startswith(example["reason"] + ".")
    assert valid == (example["reason"] in BEYOND_SCHEMA)


@pytest.mark.parametrize("path", REJECTED, ids=named)
def test_rejected_example_is_rejected_for_its_reason(path: Path) -> None:
    example = read(path)
    key = example["key"].encode() if "key" in example else None
    arrived_at = parse_time(example["arrived_at"]) if "arrived_at" in example else None

    if "text" in example:
        result = read_record(example["text"].encode(), key, 0, HEADERS)
        rejected = result if isinstance(result, Rejected) else None
    else:
        rejected = rejection(example["event"], key, arrived_at)

    assert rejected is not None
    assert rejected.reason == example["reason"]
    assert re.search(rf"(^|\W){re.escape(example['detail_names'])}\b", rejected.detail)


def test_an_event_at_the_size_limit_is_accepted_and_one_byte_more_is_too_large() -> None:
    event = read(ROOT / "examples" / "conversation.customer_message.json")
    event["data"]["note"] = ""
    event["data"]["note"] = "x" * (EVENT_BYTES_MAX - len(json.dumps(event)))

    assert rejection(event) is None

    event["data"]["note"] += "x"
    rejected = rejection(event)

    assert rejected is not None
    assert rejected.reason == "too_large"


def test_five_minutes_ahead_is_accepted_and_a_millisecond_more_is_future_time() -> None:
    example = read(ROOT / "examples" / "rejected" / "future_time.json")
    arrived_at = parse_time(example["arrived_at"])
    event = example["event"] | {"time": format_time(arrived_at + FUTURE_MS_MAX)}

    assert rejection(event, arrived_at=arrived_at) is None

    rejected = rejection(example["event"], arrived_at=arrived_at)

    assert rejected is not None
    assert rejected.reason == "future_time"


ODD: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    3.0,
    4.5,
    6,
    "",
    "x",
    "unknown",
    "a\0b",
    "é" * 64,
    "é" * 65,
    "é" * 128,
    "é" * 256,
    "é" * 257,
    "a" * 128,
    "a" * 129,
    "2026-05-04T09:00:00Z",
    "2026-05-04t09:00:00.123456789+23:59",
    "2026-05-04T09:00:60Z",
    "2026-05-04 09:00:00Z",
    "2026-13-04T09:00:00Z",
    "2026-05-04T09:00:00+24:00",
    [],
    {},
    {"a": 1},
)


def variants(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the event with each attribute and each member of its data changed, or left out."""
    data = event.get("data", {})
    known = set(event) | {"channel", "environment", "sequence", "data", "data_base64"}
    for name in sorted(known):
        for value in ODD:
            # Another type has another schema, which its own examples cover.
            if name != "type":
                yield f"{name}={value!r}", event | {name: value}
        yield f"no {name}", {key: value for key, value in event.items() if key != name}
    for name in sorted({*data, "intent", "billable", "visibility", "last_answer_at", "other"}):
        for value in ODD:
            yield f"data.{name}={value!r}", event | {"data": data | {name: value}}
        rest = {key: value for key, value in data.items() if key != name}
        yield f"no data.{name}", event | {"data": rest}


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_schema_and_readers_agree_on_every_change(path: Path) -> None:
    differences = []
    for change, event in variants(read(path)):
        rejected = rejection(event)
        if (rejected is None) != validator_of(event).is_valid(event):
            differences.append((change, rejected))

    assert differences == []


def test_asyncapi_describes_all_four_topics() -> None:
    document = yaml.safe_load((ROOT / "asyncapi.yaml").read_text())

    addresses = {channel["address"] for channel in document["channels"].values()}

    assert document["asyncapi"].startswith("3.")
    assert addresses == {
        "conversation.events",
        "resmeter-conversations-changelog",
        "usage.records",
        "conversation.events.dlq",
    }
    events = document["channels"]["conversationEvents"]["messages"]
    assert {document["components"]["messages"][name]["name"] for name in events} == set(TYPES)


def test_every_reference_in_asyncapi_resolves() -> None:
    document = yaml.safe_load((ROOT / "asyncapi.yaml").read_text())

    references = list(refs(document))

    assert references
    for ref in references:
        file, _, pointer = ref.partition("#")
        if file:
            assert (ROOT / file).is_file(), ref
        target = read(ROOT / file) if file else document
        if pointer:
            assert pointed_at(target, pointer) is not None, ref


def test_dead_letter_headers_are_the_same_in_prose_and_in_asyncapi() -> None:
    document = yaml.safe_load((ROOT / "asyncapi.yaml").read_text())
    headers = document["components"]["messages"]["deadLetter"]["headers"]
    prose = (ROOT.parent / "docs" / "reference" / "dead-letter-format.md").read_text()

    assert set(headers["required"]) == set(headers["properties"]) - {"resmeter-cut"}
    assert set(re.findall(r"`(resmeter-[a-z]+)`", prose)) == set(headers["properties"])
    assert set(headers["properties"]["resmeter-reason"]["enum"]) == set(REASONS)
    assert set(re.findall(r"^\| `([a-z_]+)` \|", prose, re.MULTILINE)) == set(REASONS)
