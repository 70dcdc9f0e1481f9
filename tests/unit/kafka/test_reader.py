"""Reading the headers of a record never ends the process, whatever their names are."""

from typing import Any, cast

from confluent_kafka import Message

from pipeline.events.model import UNREADABLE_HEADER, Rejected
from pipeline.events.wire import read_event
from pipeline.kafka.reader import headers_of


class _Broken:
    """A message as confluent-kafka gives it where the name of a header is not UTF-8."""

    def headers(self) -> None:
        raise SystemError("returned a result with an exception set")


def test_a_record_with_an_unreadable_header_is_rejected_by_every_reader() -> None:
    headers = headers_of(cast("Any", _Broken()))

    assert headers == [UNREADABLE_HEADER]
    rejected = read_event(b"{}", headers)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "invalid_attribute"


def test_a_record_without_headers_has_none() -> None:
    assert headers_of(Message(topic="t", value=b"x")) == []
