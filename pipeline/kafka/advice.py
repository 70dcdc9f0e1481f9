"""Find what will break later in topics that work today, and say which command fixes it. Pure."""

from collections.abc import Mapping

from pipeline.kafka.bounds import StatesEnd

AHEAD = "message.timestamp.after.max.ms"  # Kafka has it since 3.6
AHEAD_MS_MAX = 60_000
_DAY_MS = 86_400_000
_STRIPE_DAYS = 35  # Stripe accepts usage up to this age, so a bill may be corrected until then
_STATE_BYTES_MAX = 16_000_000  # the largest request that a worker writes to the changelog


def partition_problems(
    events: tuple[str, int], changelog: tuple[str, int], wanted: int
) -> list[str]:
    """Return why the partitions of the events topic and the changelog do not fit.

    Args:
        events: name and number of partitions.
        changelog: name and number of partitions.
        wanted: the number of partitions in the settings.
    """
    (name, count), (states, states_count) = events, changelog
    if count > states_count:
        return [
            (
                f"topic {name} has {count} partitions, and the changelog {states} has {states_count}: "
                f"partitions were added to {name}. A conversation's new events may be in another "
                f"partition than its history. Do not add partitions to {states}, and do not change "
                "RESMETER_TOPICS__PARTITIONS: both would split more conversations. Stop the producers "
                "and move to a new topic: docs/operate/another-log.md"
            )
        ]
    if count < states_count:
        return [
            (
                f"the changelog {states} has {states_count} partitions, and topic {name} has {count}: "
                f"each conversation's state must be in the partition of its events. Do not add "
                f"partitions to {name}. Stop all workers, set a new name in RESMETER_TOPICS__CHANGELOG "
                f"and RESMETER_TOPICS__PARTITIONS={count}, run `resmeter topics create`, reset the "
                f"group's offsets of {name} to the earliest, and start again"
            )
        ]
    if count != wanted:
        return [
            (
                f"topic {name} has {count} partitions, but the settings say {wanted}: a conversation "
                f"must stay in its partition, so set RESMETER_TOPICS__PARTITIONS={count}"
            )
        ]
    return []


def cut_changelog_problem(events: str, changelog: str, partition: int, end: StatesEnd) -> str:
    """Return what to do about a partition of the changelog that has lost its end, or everything.

    Args:
        events: the events topic.
        changelog: its name.
        partition: the partition.
        end: where it ended at the commit, and where it ends now.
    """
    return (
        f"{changelog}[{partition}] ends at offset {end.now}, and it ended at {end.at_commit} when the "
        f"workers committed {events}[{partition}]: states of its conversations are lost. The topic "
        "was made again, or lost its end in an unclean election of a leader. Without these states "
        "the worker would bill wrongly. "
        f"{rebuild_advice(events)}"
    )


def rebuild_advice(events: str) -> str:
    """Return how to make the states of a changelog again from the events."""
    return (
        f"Rebuild them from the events: stop all workers, reset the group's offsets of {events} to "
        "the earliest, and start again. Usage records that are emitted a second time have the same "
        "ids, and count once"
    )


def events_problems(
    name: str, config: Mapping[str, str], timestamps: str, seal_after_days: int, alter: str
) -> list[str]:
    """Return why events will be lost: retention by time that is too short, or retention by size.

    Args:
        name: the events topic.
        config: its configuration.
        timestamps: `CreateTime` or `LogAppendTime`, as the settings say.
        seal_after_days: the worker's setting.
        alter: a command that changes the topic's configuration, up to the key.
    """
    problems = []
    retention_ms = int(config.get("retention.ms", -1))
    needed_days = seal_after_days + _STRIPE_DAYS
    if timestamps == "CreateTime" and retention_ms != -1:
        problems.append(
            f"topic {name}: retention.ms is {retention_ms}, and its timestamps are the producers' "
            "(CreateTime): Kafka deletes a record by the time of its event. So an older one is gone "
            f"soon after it arrives, read or not. Run `{alter} retention.ms=-1`"
        )
    elif retention_ms != -1 and retention_ms < needed_days * _DAY_MS:
        problems.append(
            f"topic {name}: retention.ms is {retention_ms} ({retention_ms / _DAY_MS:.3g} days), but "
            "`resmeter audit` and `resmeter rebill` read whole conversations. A conversation is open "
            f"for {seal_after_days} days after a record, and usage can be corrected for "
            f"{_STRIPE_DAYS} days. Run `{alter} retention.ms={400 * _DAY_MS}` (at least "
            f"{needed_days} days)"
        )
    if timestamps == "CreateTime" and int(config.get(AHEAD, AHEAD_MS_MAX)) > AHEAD_MS_MAX:
        problems.append(
            f"topic {name}: {AHEAD} is {config[AHEAD]}: a producer may set a time that is further "
            "ahead than the catalog is known, and then the worker waits until that time. Run "
            f"`{alter} {AHEAD}={AHEAD_MS_MAX}`"
        )
    size = int(config.get("retention.bytes", -1))
    if size != -1:
        problems.append(
            f"topic {name}: retention.bytes is {size}: Kafka deletes records by size, however new "
            f"they are and whether or not a worker has read them. Run `{alter} retention.bytes=-1`"
        )
    return problems


def changelog_problems(name: str, config: Mapping[str, str], alter: str) -> list[str]:
    """Return why a worker cannot write a large state: it would exit, and again after each start."""
    size = int(config.get("max.message.bytes", _STATE_BYTES_MAX))
    if size >= _STATE_BYTES_MAX:
        return []
    return [
        (
            f"topic {name}: max.message.bytes is {size}, but the state of a long conversation may need "
            f"up to {_STATE_BYTES_MAX}: the worker would exit there, and again after each start. Run "
            f"`{alter} max.message.bytes={_STATE_BYTES_MAX}`"
        )
    ]


def replica_problems(name: str, config: Mapping[str, str], replicas: int, alter: str) -> list[str]:
    """Return why a topic with replicas may lose an acknowledged record, or acknowledge none."""
    in_sync = int(config.get("min.insync.replicas", 1))
    if replicas >= 3 and in_sync < 2:
        return [
            (
                f"topic {name}: min.insync.replicas is {in_sync} of {replicas} replicas: if a broker's disk "
                "fails, writes that only this broker has acknowledged are lost. Run "
                f"`{alter} min.insync.replicas=2`"
            )
        ]
    if in_sync > replicas:
        return [
            (
                f"topic {name}: min.insync.replicas is {in_sync}, but it has {replicas} replicas: no "
                f"write is acknowledged. Run `{alter} min.insync.replicas={replicas}`, or add replicas"
            )
        ]
    return []


def replica_warnings(replicas: Mapping[str, int]) -> list[str]:
    """Return a warning for topics with fewer than three replicas, which is only right in development."""
    few = {name: count for name, count in replicas.items() if count < 3}
    if not few:
        return []
    listed = ", ".join(f"{name} ({count})" for name, count in few.items())
    return [
        (
            f"fewer than 3 replicas: {listed}. If a broker's disk fails, acknowledged records may be lost. "
            "In production set RESMETER_TOPICS__REPLICATION_FACTOR=3 before `resmeter topics create`; for "
            "existing topics run kafka-reassign-partitions.sh"
        )
    ]
