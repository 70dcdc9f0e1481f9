"""Remember identifiers and idempotency keys for a day, as Stripe does. Pure.

https://docs.stripe.com/api/idempotent_requests
"""

import hashlib
from typing import Generic, NamedTuple, TypeVar

from pipeline.dev.emulator.response import Response, StripeError

KEY_CHARACTERS_MAX = 255
_T = TypeVar("_T")


class Remembered(Generic[_T]):
    """Values by key, each kept for `seconds`. All times are in seconds since the epoch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[str, tuple[_T, float]] = {}

    def __len__(self) -> int:
        """Return the number of values in memory; some of them may have expired."""
        return len(self._entries)

    def get(self, key: str, now: float) -> _T | None:
        """Return the value of a key, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        return entry[0] if entry is not None and self._is_fresh(entry[1], now) else None

    def put(self, key: str, value: _T, now: float) -> None:
        """Remember a value, and remove expired values from memory."""
        # The oldest value is first. If the clock was set back, an expired value may be behind a
        # fresh one, so `get` checks the age as well.
        while self._entries:
            oldest, (_, at) = next(iter(self._entries.items()))
            if self._is_fresh(at, now):
                break
            del self._entries[oldest]
        self._entries[key] = (value, now)

    def _is_fresh(self, at: float, now: float) -> bool:
        return now - at < self._seconds


class _First(NamedTuple):
    body_sha256: str
    response: Response


class IdempotencyKeys:
    """The first response to each idempotency key, even if it was an error."""

    def __init__(self, remembered_seconds: float) -> None:
        self._first: Remembered[_First] = Remembered(remembered_seconds)

    def __len__(self) -> int:
        return len(self._first)

    def get(self, key: str, body: bytes, now: float) -> Response | None:
        """Return the first response to a key, if there was one.

        Raises:
            StripeError: the first call with this key had another body, or the key is too long.
        """
        if len(key) > KEY_CHARACTERS_MAX:
            raise StripeError(400, "Idempotency keys can have at most 255 characters.")
        first = self._first.get(key, now)
        if first is None:
            return None
        if first.body_sha256 != _sha256(body):
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they "
                f"were first used with. Try using a key other than '{key}' if you meant to "
                "execute a different request.",
                kind="idempotency_error",
            )
        headers = {**first.response.headers, "idempotent-replayed": "true"}
        return Response(first.response.status, first.response.body, headers)

    def keep(self, key: str, body: bytes, response: Response, now: float) -> None:
        self._first.put(key, _First(_sha256(body), response), now)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
