"""What is newest in a changelog counts, and what is newest and not last is written again."""

from pipeline.stream.basis import Basis, encode_basis
from pipeline.stream.recovery import Recovery
from tests.support.events import Record

KEY = b"acme:c1"
CLOCK = b""
OLD, NEW = (order.to_bytes(8, "big") + bytes(21) + b"payload" for order in (3, 5))
BASIS, NEWER_BASIS = Basis("topic", 4), Basis("topic", 4, ((0, 2),), None, 1)


def _read(
    *records: tuple[bytes, bytes | None],
) -> tuple[dict[bytes, bytes], Basis | None, Recovery]:
    recovery, states = Recovery(), dict[bytes, bytes]()
    basis = recovery.read([Record(n, 0, *record) for n, record in enumerate(records)], states, None)
    return states, basis, recovery


def test_a_state_that_is_newest_and_last_is_not_written_again() -> None:
    states, basis, recovery = _read((KEY, OLD), (KEY, NEW))

    assert states == {KEY: NEW}
    assert recovery.take_behind(states, basis).is_empty


def test_a_state_that_an_older_version_follows_is_written_again_once() -> None:
    states, basis, recovery = _read((KEY, NEW), (KEY, OLD))

    assert states == {KEY: NEW}
    assert recovery.take_behind(states, basis).states == [(KEY, NEW)]
    assert recovery.take_behind(states, basis).is_empty


def test_a_state_that_was_written_again_is_last() -> None:
    states, basis, recovery = _read((KEY, NEW), (KEY, OLD), (KEY, NEW))

    assert recovery.take_behind(states, basis).is_empty


def test_an_older_version_that_is_read_later_is_noticed_too() -> None:
    states, basis, recovery = _read((KEY, NEW))

    recovery.read([Record(1, 0, KEY, OLD)], states, basis)

    assert recovery.take_behind(states, basis).states == [(KEY, NEW)]


def test_a_basis_that_an_empty_or_older_clock_record_follows_is_written_again() -> None:
    for last in (b"", encode_basis(BASIS)):
        states, basis, recovery = _read((CLOCK, encode_basis(NEWER_BASIS)), (CLOCK, last))

        assert basis == NEWER_BASIS
        assert recovery.take_behind(states, basis).states == [(CLOCK, encode_basis(NEWER_BASIS))]


def test_empty_clock_records_alone_leave_nothing_to_write() -> None:
    states, basis, recovery = _read((CLOCK, b""), (CLOCK, b""))

    assert basis is None
    assert recovery.take_behind(states, basis).is_empty


def test_a_fence_record_changes_neither_states_nor_basis() -> None:
    states, basis, recovery = _read(
        (KEY, NEW), (CLOCK, encode_basis(BASIS)), (b"\x00fence", None), (b"\x00fence", None)
    )

    assert (states, basis) == ({KEY: NEW}, BASIS)
    assert recovery.take_behind(states, basis).is_empty
