"""Tell the emulator's time."""

import time


class Clock:
    """The host's time, or a time that was set and advances from there."""

    def __init__(self, now: float | None = None) -> None:
        self._ahead = 0.0
        self.set(now)

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time() + self._ahead

    def set(self, now: float | None) -> None:
        """Set the time, in seconds since the epoch; None returns to the host's."""
        self._ahead = 0.0 if now is None else now - time.time()
