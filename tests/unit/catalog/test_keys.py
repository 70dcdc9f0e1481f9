"""Keys come into force at their dates, and a process knows which secrets it lacks."""

import pytest

from pipeline.catalog.producers import Producer, load_ring
from pipeline.catalog.value import NEVER, START, DatedGrant
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
        (1_000, NEVER, "producers.new: RESMETER_CONFIG says nothing about its secret"),
    ]
    assert keys.at(1_000) == {}


def test_the_secret_of_a_revoked_key_is_needed_for_what_arrived_before_and_for_nothing_else() -> (
    None
):
    _, (missing,) = load_ring({"old": (OLD, NOBODY)}, {})

    assert missing.is_revoked
    assert (missing.from_ms, missing.until_ms) == (START, 2_000)
    (needed,) = load_ring({"old": (OLD,)}, {})[1]
    assert (needed.from_ms, needed.until_ms) == (START, NEVER)


def test_a_secret_is_needed_since_its_key_signs_and_not_since_its_tenants_changed() -> None:
    """Otherwise a worker without it rejects the events of today, until the change is in force."""
    narrower = DatedGrant(("acme",), 5_000, 4)

    def needed(*grants: DatedGrant) -> list[tuple[int, int]]:
        return [(each.from_ms, each.until_ms) for each in load_ring({"key": grants}, {})[1]]

    assert needed(OLD, narrower) == [(START, NEVER)]
    assert needed(NEW, narrower) == [(1_000, NEVER)]
    assert needed(OLD, NOBODY, narrower) == [(START, 2_000), (5_000, NEVER)]
