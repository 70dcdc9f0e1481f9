"""Tell the emulator's time."""

import time


class Clock:
    """The host's time, or a time that was set and advances from there.

    `ahead` is how many seconds it is ahead of the host's.
    """

    def __init__(self, now: float | None = None) -> None:
        self.ahead = 0.0
        self.set(now)

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time() + self.ahead

    def set(self, now: float | None) -> None:
        """Set the time, in seconds since the epoch; None returns to the host's."""
        self.ahead = 0.0 if now is None else now - time.time()
