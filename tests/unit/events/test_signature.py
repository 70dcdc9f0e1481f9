"""A signature proves which producer wrote a record, and for which tenants it may write."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import Headers, Rejected
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign, verify

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"fedcba9876543210fedcba9876543210"
KEYS = {
    "chat-eu": Key(SECRET, frozenset({"acme", "bluejay"})),
    "all": Key(OTHER, None),
}
KEY, VALUE = b"acme:c1", b'{"specversion":"1.0"}'
STRUCTURED: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json")]
BINARY: list[tuple[str, bytes | None]] = [
    ("content-type", b"application/json"),
    ("ce_type", b"conversation.closed"),
    ("ce_id", b"e1"),
]


def signed(
    key_id: str = "chat-eu",
    secret: bytes = SECRET,
    key: bytes | None = KEY,
    value: bytes | None = VALUE,
    headers: Headers = STRUCTURED,
) -> list[tuple[str, bytes | None]]:
    return [*headers, (SIGNATURE_HEADER, sign(key_id, secret, key, value, headers))]


def why_rejected(
    headers: Headers,
    tenant_id: str = "acme",
    key: bytes | None = KEY,
    value: bytes | None = VALUE,
) -> str:
    rejected = verify(KEYS, tenant_id, key, value, headers)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "not_authorized"
    assert rejected.detail.startswith(f"{SIGNATURE_HEADER}: ")
    return rejected.detail


def test_a_record_that_was_signed_for_its_tenant_is_authorized() -> None:
    assert verify(KEYS, "acme", KEY, VALUE, signed()) is None
    assert verify(KEYS, "bluejay", KEY, VALUE, signed()) is None
    assert verify(KEYS, "anyone", KEY, VALUE, signed("all", OTHER)) is None


def test_a_signature_stays_valid_if_other_headers_are_added() -> None:
    headers = [("traceparent", b"00-1"), *signed(), ("resmeter-redrives", b"1")]

    assert verify(KEYS, "acme", KEY, VALUE, headers) is None


def test_a_signature_is_an_hmac_that_other_languages_can_compute() -> None:
    def part(content: bytes) -> bytes:
        return len(content).to_bytes(8, "big") + content

    covered = b"".join(
        map(part, [b"v1", b"chat-eu", KEY, VALUE, b"content-type", b"application/cloudevents+json"])
    )
    digest = hmac.new(SECRET, covered, hashlib.sha256).hexdigest()

    assert sign("chat-eu", SECRET, KEY, VALUE, STRUCTURED) == f"v1:chat-eu:{digest}".encode()


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([], "is missing"),
        ([*signed(), *signed()], "occurs 2 times"),
        ([(SIGNATURE_HEADER, None)], "must be v1"),
        ([(SIGNATURE_HEADER, b"v1:chat-eu:00")], "must be v1"),
        (
            [(SIGNATURE_HEADER, sign("chat-eu", SECRET, KEY, VALUE, []).replace(b"v1", b"v2"))],
            "must be v1",
        ),
        ([(SIGNATURE_HEADER, sign("chat-eu", SECRET, KEY, VALUE, []) + b"\n")], "must be v1"),
        (signed("nobody"), "names the unknown key 'nobody'"),
        (signed("chat-eu", OTHER), "does not match this record and the secret of key 'chat-eu'"),
    ],
)
def test_anything_but_a_signature_of_a_known_key_is_rejected(headers: Headers, why: str) -> None:
    assert why in why_rejected(headers)


def test_a_key_writes_only_for_its_tenants() -> None:
    assert "may not write for tenant 'zoo'" in why_rejected(signed(), tenant_id="zoo")


def test_a_producer_cannot_use_the_key_id_of_another() -> None:
    forged = sign("all", OTHER, KEY, VALUE, STRUCTURED).replace(b"all", b"chat-eu")

    assert "does not match this record" in why_rejected([*STRUCTURED, (SIGNATURE_HEADER, forged)])


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"acme:c2", VALUE, STRUCTURED),
        (KEY, VALUE + b" ", STRUCTURED),
        (KEY[:-1], KEY[-1:] + VALUE, STRUCTURED),  # the same bytes, cut elsewhere
        (None, VALUE, STRUCTURED),
        (KEY, None, STRUCTURED),
        (KEY, VALUE, []),
        (KEY, VALUE, [("content-type", b"application/json")]),
        (KEY, VALUE, [*STRUCTURED, ("ce_type", b"conversation.closed")]),
        (KEY, VALUE, [*STRUCTURED, ("CE_TYPE", b"conversation.closed")]),
    ],
)
def test_a_signature_does_not_match_another_record(
    key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    signature = sign("chat-eu", SECRET, KEY, VALUE, STRUCTURED)

    assert "does not match" in why_rejected(
        [*headers, (SIGNATURE_HEADER, signature)], key=key, value=value
    )


def test_in_binary_mode_the_headers_are_signed_in_their_order() -> None:
    signature = sign("chat-eu", SECRET, KEY, VALUE, BINARY)

    assert verify(KEYS, "acme", KEY, VALUE, [*BINARY, (SIGNATURE_HEADER, signature)]) is None
    assert "does not match" in why_rejected([*reversed(BINARY), (SIGNATURE_HEADER, signature)])


def test_an_absent_part_differs_from_an_empty_part() -> None:
    assert sign("k", SECRET, None, VALUE, []) != sign("k", SECRET, b"", VALUE, [])


_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "ce_id", "ce_type", "CE_ID", "other", SIGNATURE_HEADER]),
        st.none() | st.binary(max_size=90),
    ),
    max_size=4,
)


@given(key=st.none() | st.binary(), value=st.none() | st.binary(), headers=_HEADERS)
def test_any_record_is_rejected_without_the_secret_and_nothing_raises(
    key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    assert "resmeter-signature" in why_rejected(headers, key=key, value=value)


def test_a_key_does_not_show_its_secret() -> None:
    assert "0123" not in repr(KEYS) + str(KEYS["chat-eu"])
