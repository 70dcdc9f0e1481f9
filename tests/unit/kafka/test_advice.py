"""`topics check` names what will break later, and what to run; nothing it says makes it worse."""

import pytest

from pipeline.kafka.advice import (
    changelog_problems,
    events_problems,
    partition_problems,
    replica_problems,
    replica_warnings,
)

DAY = 86_400_000


def test_added_partitions_are_named_and_nobody_is_told_to_add_more() -> None:
    for wanted in (4, 6):
        (problem,) = partition_problems(("events", 6), ("states", 4), wanted)

        assert "partitions were added to events" in problem
        assert "RESMETER_TOPICS__PARTITIONS=" not in problem
        assert "Do not add partitions to states" in problem


def test_a_changelog_with_other_partitions_is_replaced_and_not_followed() -> None:
    (problem,) = partition_problems(("events", 4), ("states", 6), 6)

    assert "Do not add partitions to events" in problem
    assert "RESMETER_TOPICS__PARTITIONS=4" in problem


def test_a_setting_that_differs_from_both_topics_is_to_be_changed() -> None:
    assert partition_problems(("events", 4), ("states", 4), 4) == []
    (problem,) = partition_problems(("events", 4), ("states", 4), 5)
    assert "set RESMETER_TOPICS__PARTITIONS=4" in problem


@pytest.mark.parametrize("days", [1, 7, 79])
def test_retention_shorter_than_what_a_rebill_reads_is_named(days: int) -> None:
    config = {"retention.ms": str(days * DAY)}

    (problem,) = events_problems("events", config, "LogAppendTime", 45, "alter")

    assert "resmeter rebill" in problem
    assert f"`alter retention.ms={400 * DAY}`" in problem
    assert events_problems("events", {"retention.ms": str(80 * DAY)}, "LogAppendTime", 45, "") == []
    assert events_problems("events", {"retention.ms": "-1"}, "LogAppendTime", 45, "") == []


def test_a_createtime_topic_with_any_retention_is_named() -> None:
    config = {"retention.ms": str(400 * DAY)}

    (problem,) = events_problems("events", config, "CreateTime", 45, "alter")

    assert "the time of its event" in problem
    assert "`alter retention.ms=-1`" in problem


def test_retention_by_size_is_named() -> None:
    config = {"retention.ms": "-1", "retention.bytes": "1000"}

    (problem,) = events_problems("events", config, "CreateTime", 45, "alter")

    assert "`alter retention.bytes=-1`" in problem


def test_a_changelog_that_takes_no_large_state_is_named() -> None:
    (problem,) = changelog_problems("states", {"max.message.bytes": "1048588"}, "alter")

    assert "`alter max.message.bytes=16000000`" in problem
    assert changelog_problems("states", {"max.message.bytes": "16000000"}, "alter") == []


def test_replicas_that_need_not_be_in_sync_are_named() -> None:
    (problem,) = replica_problems("events", {"min.insync.replicas": "1"}, 3, "alter")

    assert "`alter min.insync.replicas=2`" in problem
    assert replica_problems("events", {"min.insync.replicas": "2"}, 3, "alter") == []
    assert replica_problems("events", {"min.insync.replicas": "1"}, 1, "alter") == []
    assert (
        "no write is acknowledged"
        in replica_problems("events", {"min.insync.replicas": "2"}, 1, "alter")[0]
    )


def test_topics_with_few_replicas_get_a_warning() -> None:
    (warning,) = replica_warnings({"events": 1, "states": 3})

    assert "events (1)" in warning
    assert "states" not in warning
    assert replica_warnings({"events": 3}) == []


def test_times_that_producers_may_set_far_ahead_are_named() -> None:
    config = {"retention.ms": "-1", "message.timestamp.after.max.ms": "3600000"}

    (problem,) = events_problems("events", config, "CreateTime", 45, "alter")

    assert "Run `alter message.timestamp.after.max.ms=60000`" in problem
    assert events_problems("events", config, "LogAppendTime", 45, "alter") == []
    # Brokers before 3.6 do not have it.
    assert events_problems("events", {"retention.ms": "-1"}, "CreateTime", 45, "alter") == []
