"""What a sealed conversation keeps of its history: a part of the stored form. Pure."""

import msgspec


class Seal(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is kept of a dropped history.

    Until a new history begins, only `answer_offset` is set, because the `Conversation` itself still
    has the newest event and the fold of the dropped history.
    """

    answer_offset: int | None = None  # of the standing answer: evidence for later records
    newest_at: int = 0  # this and the next two: the newest event of the dropped history
    newest_sequence: str = ""
    newest_rank: int = 0
    fold: bytes = b""  # encoded; the events of the new history are applied to this fold

    @property
    def newest(self) -> tuple[int, str, int]:
        return (self.newest_at, self.newest_sequence, self.newest_rank)
