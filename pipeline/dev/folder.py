"""Take a data folder for one broker at a time, across processes."""

import fcntl
import os
from pathlib import Path

from pipeline.errors import UnavailableError

_NAME = "in-use"


class FolderInUse:
    """A lock on a folder. A child that inherits `descriptor` holds the lock too, until it ends.

    The file in the folder says who holds the lock, for the error of the next process.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            OSError: the file cannot be written.
            UnavailableError: another process has the lock; the message names it.
        """
        self.descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 200, 0).decode("utf-8", "replace").strip()
            os.close(self.descriptor)
            raise UnavailableError(
                f"Kafka's data folder {folder} is in use by {holder or 'another process'}: connect "
                "to that broker, or stop it, or choose another --data-dir"
            ) from None
        self.say(f"process {os.getpid()}")

    def say(self, holder: str) -> None:
        """Store who holds the lock: "process 123, a broker at 127.0.0.1:9092"."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, holder.encode(), 0)

    def release(self) -> None:
        """Release the lock, once no child holds it."""
        os.close(self.descriptor)
