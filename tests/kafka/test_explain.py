"""`resmeter explain` reads the events topic, and says why a conversation is not billed."""

import json
import time
from typing import Any

from tests.kafka.run import Run
from tests.support.events import AT, KEY, event, resolved


def test_a_conversation_without_a_charge_is_explained_from_the_topic(run: Run) -> None:
    now = int(time.time() * 1000)
    question, answer, _ = resolved("c1")
    asked_now = event("m1", at=now, intent="help_request", subject="c3")
    answered_now = event("a1", "ai_message", now, kind="answer", subject="c3")
    wrong = event("m9", at=AT + 3, intent="thanks", subject="c2")
    run.produce(
        [
            question,
            answer,
            (KEY, event("m2", at=AT + 2, intent="help_request"), AT + 2),
            (KEY, event("m3", at=AT + 3, intent="thanks"), AT + 3),
            (b"acme:c2", b"{garbage", AT),
            (b"acme:elsewhere", wrong, AT),
            *resolved("c4"),
        ]
    )
    worker = run.start("worker")
    run.until_decided(worker, 9)
    worker.stop()
    run.produce(
        [
            (KEY, event("m4", at=AT + 4, intent="holding"), AT + 4),
            (b"acme:c3", asked_now, now),
            (b"acme:c3", answered_now, now),
        ]
    )
    run.done("ledger", "upgrade")

    def reason(conversation: str) -> dict[str, Any]:
        account = json.loads(run.done("explain", "acme", conversation, "--json"))
        assert (account["net"], account["records"]) == ({}, [])
        answer: dict[str, Any] = account["why_not"]
        return answer

    cleared = reason("c1")
    assert (cleared["reason"], cleared["event"]) == ("answer_cleared", "m2")
    assert (cleared["events"], cleared["rejected"]) == (4, {"invalid_data": 1})
    assert cleared["notes"] == ["The worker has not read its newest event yet"]
    rejected = reason("c2")
    assert rejected["reason"] == "rejected"
    assert rejected["rejected"] == {"invalid_data": 1, "malformed_json": 1}
    assert reason("c3")["reason"] == "window_open"
    owed = reason("c4")
    assert (owed["reason"], owed["owed"], owed["notes"]) == ("owed", {"resolution": 1}, [])
    enforced = run.done("explain", "acme", "c1", RESMETER_TOPICS__PARTITIONER="murmur2")
    assert "Why not      Event m2 of " in enforced
    unknown = run.resmeter("explain", "acme", "c9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "has no event of it: check both ids" in unknown.stderr
    unread = run.resmeter("explain", "acme", "c1", RESMETER_TOPICS__EVENTS="no.such.topic")
    assert (unread.returncode, unread.stdout) == (1, "")
    assert "no.such.topic cannot say why: Kafka at " in unread.stderr
