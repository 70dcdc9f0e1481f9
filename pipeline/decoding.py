"""Decode JSON that others may have written, so that no bytes raise anything but a `ValueError`. Pure."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def json_decoder(of: type[_T]) -> Callable[[bytes | str], _T]:
    """Return a function that decodes a value of this type.

    It raises a `ValueError` for bytes that are not such a value. msgspec's own decoder raises a
    `RecursionError` for deeply nested ones: one such record would end its reader at each start.
    """
    decode = msgspec.json.Decoder(of).decode

    def decode_any(value: bytes | str) -> _T:
        try:
            return decode(value)
        except RecursionError:
            raise msgspec.DecodeError("it is nested too deeply") from None

    return decode_any
