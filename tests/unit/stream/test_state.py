"""A stored conversation reads back unchanged, and headers say which version is newer."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import DEFAULT, preset
from pipeline.errors import UnknownStateError
from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    EVENTS_IN_CONVERSATION_MAX,
    MERGED,
    UNDELIVERED,
    Event,
)
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from pipeline.stream.state import (
    HAS_ANSWER_ID,
    HAS_SEAL,
    ORDER_BYTES,
    check_form,
    decode_state,
    due_arrival_ms_of,
    encode_state,
    header_of,
    is_sealed,
    last_arrival_ms_of,
    newest,
    next_offset_of,
)
from pipeline.usage.conversation import Conversation
from pipeline.usage.record import UsageRecord


class StoredRecord(NamedTuple):
    key: bytes
    value: bytes
    offset: int = 0
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


TIMELINE = Timeline([preset(DEFAULT)])
T0 = 1_777_885_200_000
DAY_MS = 86_400_000
GRACE_MS = 600_000


def conversation(*events: Event) -> Conversation:
    built = Conversation()
    for offset, event in enumerate(events):
        built.receive("acme", "c-1", [(offset, event.at, event)], TIMELINE)
    return built


def question(at: int = T0, identity: str = "m1") -> Event:
    return Event(at, CUSTOMER_MESSAGE, "/s", identity, intent="help_request")


def answer(at: int = T0 + 1, identity: str = "m2") -> Event:
    return Event(at, AI_MESSAGE, "/s", identity, kind="answer")


def form_of(stored: bytes) -> int:
    _, _, _, form, _ = header_of(stored)
    return form


def long_conversation() -> Conversation:
    return conversation(*(question(T0 + n, f"message-{n:032d}") for n in range(1000)))


# --- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "original",
    [Conversation(), conversation(question()), conversation(question(), answer())],
    ids=["new", "asked", "answered"],
)
def test_a_conversation_reads_back_unchanged(original: Conversation) -> None:
    assert decode_state(encode_state(7, original)) == original


def test_a_long_conversation_is_packed_and_reads_back_unchanged() -> None:
    original = long_conversation()

    stored = encode_state(1000, original)

    assert len(stored) < len(msgspec.msgpack.encode(original)) / 2
    assert decode_state(stored) == original
    assert next_offset_of(stored) == 1000


def test_a_restored_conversation_continues_as_the_original() -> None:
    original = conversation(question(), answer())
    again = decode_state(encode_state(2, original))
    thanks = Event(T0 + 2, CUSTOMER_MESSAGE, "/s", "m3", intent="confirmation")

    emitted = [
        each.receive("acme", "c-1", [(2, thanks.at, thanks)], TIMELINE).records
        for each in (original, again)
    ]

    assert emitted[0] == emitted[1]
    assert [record.reason for record in emitted[0]] == ["confirmed"]
    assert encode_state(3, original) == encode_state(3, again)


def test_equal_conversations_have_equal_bytes() -> None:
    one, other = (encode_state(2, conversation(question(), answer())) for _ in range(2))

    assert one == other


# --- the header -----------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1))
def test_the_header_has_the_offset_of_the_next_record(offset: int) -> None:
    assert next_offset_of(encode_state(offset, Conversation())) == offset


def test_the_header_has_the_time_at_which_silence_is_settled() -> None:
    assert (
        due_arrival_ms_of(encode_state(2, conversation(question(), answer())))
        == T0 + 1 + DAY_MS + GRACE_MS
    )


@pytest.mark.parametrize(
    "original", [Conversation(), conversation(question())], ids=["new", "asked"]
)
def test_nothing_is_due_without_a_standing_answer(original: Conversation) -> None:
    assert due_arrival_ms_of(encode_state(1, original)) is None


@pytest.mark.parametrize("due", [0, -1, -(2**40)])
def test_a_deadline_before_1970_is_always_due(due: int) -> None:
    stored = encode_state(1, Conversation(due_arrival_ms=due))

    assert due_arrival_ms_of(stored) == 1
    assert decode_state(stored).due_arrival_ms == due


# --- which is newer -------------------------------------------------------------------------------


def state(next_offset: int, emitted: int) -> bytes:
    return encode_state(next_offset, Conversation(emitted=emitted))


@given(
    st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)),
    st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)),
)
def test_the_newer_version_has_the_later_offset_then_more_usage_records(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert newest(state(*one), state(*other)) == state(*max(one, other))
    assert newest(state(*other), state(*one)) == state(*max(one, other))


def test_a_timer_makes_a_newer_version_of_one_offset() -> None:
    original = conversation(question(), answer())
    before = encode_state(2, original)
    due = due_arrival_ms_of(before)
    assert due is not None

    emitted = original.settle("acme", "c-1", due, TIMELINE)
    after = encode_state(2, original)

    assert len(emitted) == 1
    assert newest(before, after) == newest(after, before) == after


def test_equal_versions_keep_the_first() -> None:
    one, other = state(5, 1), state(5, 1) + b"other"

    assert one[:ORDER_BYTES] == other[:ORDER_BYTES]
    assert newest(one, other) == one
    assert newest(other, one) == other


def test_a_single_version_is_the_newest() -> None:
    assert newest(state(5, 1), None) == state(5, 1)


# --- forms that a newer version writes ------------------------------------------------------------


def with_form(form: int) -> bytes:
    stored = bytearray(state(5, 1))
    stored[20] = form
    return bytes(stored)


@pytest.mark.parametrize(("form", "bits"), [(32, "32"), (0x81, "128"), (0x7F, "32, 64")])
def test_an_unknown_form_bit_is_rejected_with_its_number(form: int, bits: str) -> None:
    partition = Partition("conversation.events", 0, lambda _: TIMELINE)
    records = [StoredRecord(b"acme:c-1", state(5, 1)), StoredRecord(b"acme:c-2", with_form(form))]

    with pytest.raises(UnknownStateError, match=rf"'acme:c-2' has form bit {bits}, which"):
        partition.restore(records)


@pytest.mark.parametrize("form", range(8))
def test_every_known_form_is_restored(form: int) -> None:
    partition = Partition("conversation.events", 0, lambda _: TIMELINE)

    partition.restore([StoredRecord(b"acme:c-1", with_form(form))])

    assert partition.states == {b"acme:c-1": with_form(form)}


@pytest.mark.parametrize("size", [0, 20, 28, 29])
def test_a_state_with_nothing_behind_its_header_is_refused_by_name(size: int) -> None:
    message = f"'acme:c-1' has {size} bytes; a state has more than 29"

    with pytest.raises(UnknownStateError, match=message):
        check_form(state(5, 1)[:size], b"acme:c-1")


# --- sealed ---------------------------------------------------------------------------------------


def sealed() -> Conversation:
    quiet = conversation(question(), answer())
    quiet.seal()
    return quiet


def reopened() -> Conversation:
    resumed, later = sealed(), T0 + 90 * DAY_MS
    resumed.receive("acme", "c-1", [(2, later, question(later, "m3"))], TIMELINE)
    return resumed


@pytest.mark.parametrize("original", [sealed(), reopened()], ids=["sealed", "reopened"])
def test_a_sealed_conversation_reads_back_unchanged(original: Conversation) -> None:
    assert decode_state(encode_state(3, original)) == original


def test_the_header_shows_a_sealed_history_and_a_new_one_after_it() -> None:
    states = [encode_state(3, each) for each in (conversation(question()), sealed(), reopened())]

    assert [is_sealed(state) for state in states] == [False, True, False]
    assert [form_of(state) & HAS_SEAL for state in states] == [0, HAS_SEAL, HAS_SEAL]
    assert [last_arrival_ms_of(state) for state in states] == [T0, T0 + 1, T0 + 90 * DAY_MS]


def test_a_sealed_state_is_short_however_many_events_there_were() -> None:
    original = long_conversation()
    original.seal()

    assert len(encode_state(1000, original)) < 100


def test_at_one_offset_the_sealed_version_is_newer() -> None:
    before, after = encode_state(2, conversation(question(), answer())), encode_state(2, sealed())

    assert newest(before, after) == newest(after, before) == after


def test_sealing_keeps_the_offset_of_the_standing_answer() -> None:
    later = question(T0 + 90 * DAY_MS, "m3")

    received = sealed().receive("acme", "c-1", [(2, later.at, later)], TIMELINE)

    assert [record.evidence for record in received.records] == [("m2",), ("m3",)]
    assert received.offsets == ((1,), (2,))


# --- an answer with two ids -----------------------------------------------------------------------


def merge(answer_id: str = "a7") -> Event:
    return Event(
        T0 + 1, MERGED, "/s", "x1", last_answer_at=T0, message_id=answer_id, channel="email"
    )


def test_a_merge_that_names_its_answer_has_a_form_bit_that_older_versions_refuse() -> None:
    named, plain = conversation(question(), merge()), conversation(question(), merge(""))

    assert form_of(encode_state(2, named)) & HAS_ANSWER_ID
    assert not form_of(encode_state(2, plain)) & HAS_ANSWER_ID
    assert decode_state(encode_state(2, named)) == named


def test_the_form_bit_stays_as_long_as_the_answer_may_still_be_undelivered() -> None:
    named = conversation(question(), merge())
    named.seal()
    later = question(T0 + 90 * DAY_MS, "m3")
    named.receive("acme", "c-1", [(2, later.at, later)], TIMELINE)

    assert form_of(encode_state(3, named)) & HAS_ANSWER_ID


@pytest.mark.parametrize("is_sealed_first", [False, True])
@pytest.mark.parametrize("message_id", ["a7", "x1"])
def test_an_undelivered_mail_of_a_merged_answer_takes_its_charge_back(
    message_id: str, is_sealed_first: bool
) -> None:
    merged = conversation(question(), merge())
    merged.settle("acme", "c-1", T0 + 2 * DAY_MS, TIMELINE)
    if is_sealed_first:
        merged.seal()
    merged = decode_state(encode_state(2, merged))
    bounce = Event(T0 + 90 * DAY_MS, UNDELIVERED, "/s", "u1", message_id=message_id)

    received = merged.receive("acme", "c-1", [(2, bounce.at, bounce)], TIMELINE)

    assert [(r.quantity, r.reason, r.evidence) for r in received.records[-1:]] == [
        (-1, "undelivered", ("u1",))
    ]


# --- bounds ---------------------------------------------------------------------------------------


def test_a_state_with_the_longest_texts_fits_into_a_kafka_record() -> None:
    draw = random.Random(1)

    def text() -> str:
        return "".join(chr(draw.randrange(0x10000, 0x10FFFF)) for _ in range(256))

    longest, records, taken = Conversation(), list[UsageRecord](), 0
    for n in range(EVENTS_IN_CONVERSATION_MAX):
        # A unit is charged and reversed again and again, so that the state keeps much evidence.
        kind, more = (
            (CUSTOMER_MESSAGE, {"intent": "help_request"}),
            (AI_MESSAGE, {"kind": "answer"}),
            (CUSTOMER_MESSAGE, {"intent": "confirmation"}),
        )[n % 3]
        event = Event(T0 + n, kind, "/s", text(), **more)  # type: ignore[arg-type]
        received = longest.receive("acme", "c-1", [(n, T0 + n, event)], TIMELINE)
        records += received.records
        if received.too_long:
            break
        taken += 1

    assert 2_000 < taken < EVENTS_IN_CONVERSATION_MAX
    assert len(records) > 1_000
    assert len(encode_state(taken, longest)) < 15_000_000


def test_ten_thousand_ordinary_events_fit_into_a_history() -> None:
    full = Conversation()
    arrivals = [
        (n, T0 + n, question(T0 + n, f"{n:08x}-7c1d-4f3a-9d2e-{n:012x}"))
        for n in range(EVENTS_IN_CONVERSATION_MAX)
    ]

    received = full.receive("acme", "c-1", arrivals, TIMELINE)

    assert received.too_long == ()
    assert full.events == EVENTS_IN_CONVERSATION_MAX
