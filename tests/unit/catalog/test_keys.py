"""Keys come into force at their dates, and a process knows which secrets it lacks."""

import pytest

from pipeline.catalog.producers import Producer, load_ring
from pipeline.catalog.value import START, DatedGrant
from pipeline.events.signature import Key, KeyRing

SECRET = "0123456789abcdef" * 2
OLD, NEW = DatedGrant(None, None, 1), DatedGrant(("acme",), 1_000, 2)
NOBODY = DatedGrant((), 2_000, 3)


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Producer]:
    monkeypatch.setenv("THE_SECRET", SECRET)
    return {key_id: Producer(key_id, None, "THE_SECRET") for key_id in ("old", "new")}


def test_a_key_signs_for_its_tenants_from_its_date_until_it_is_revoked(
    producers: dict[str, Producer],
) -> None:
    keys, missing = load_ring({"old": (OLD, NOBODY), "new": (NEW,)}, producers)

    assert not missing
    assert list(keys.at(999) or {}) == ["old"]
    assert keys.at(1_000) == {
        "old": Key(SECRET.encode(), None),
        "new": Key(SECRET.encode(), frozenset({"acme"})),
    }
    assert list(keys.at(2_000) or {}) == ["new"]


def test_before_the_first_key_and_after_the_last_no_signature_is_required(
    producers: dict[str, Producer],
) -> None:
    keys, _ = load_ring({"new": (NEW, NOBODY)}, producers)

    assert keys.requires_signatures
    assert keys.at(999) is None
    assert keys.at(2_000) is None
    assert not KeyRing([]).requires_signatures


def test_a_secret_that_is_missing_is_named_with_its_date_and_nothing_is_trusted_instead(
    producers: dict[str, Producer],
) -> None:
    del producers["new"]

    keys, missing = load_ring({"new": (NEW,)}, producers)

    assert missing == [
        (1_000, "producers.new: RESMETER_CONFIG says nothing about its secret"),
    ]
    assert keys.at(1_000) == {}


def test_a_key_that_signs_for_nobody_any_more_needs_no_secret() -> None:
    _, missing = load_ring({"old": (OLD, NOBODY)}, {})

    assert missing == []
    assert load_ring({"old": (OLD,)}, {})[1][0][0] == START


def test_a_secret_is_needed_since_its_key_signs_and_not_since_its_tenants_changed() -> None:
    """Otherwise a worker without it rejects the events of today, until the change is in force."""
    narrower = DatedGrant(("acme",), 5_000, 4)

    def needed_from(*grants: DatedGrant) -> int:
        return load_ring({"key": grants}, {})[1][0][0]

    assert needed_from(OLD, narrower) == START
    assert needed_from(NEW, narrower) == 1_000
    assert needed_from(OLD, NOBODY, narrower) == 5_000
