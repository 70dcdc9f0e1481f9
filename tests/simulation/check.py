"""Check the properties that every run must have at its end, whatever failed during the run."""

from collections import Counter
from typing import Any

import orjson

from pipeline.events.model import Rejected
from pipeline.events.wire import read_record
from tests.oracle.catalog import OracleTimeline
from tests.oracle.usage import Oracle
from tests.simulation.histories import CUSTOMERS, DAMAGED, SEAL_AFTER, History
from tests.simulation.run import Outcome
from tests.support.tenants import tenants_with

_FAR = 10**15


def problems(history: History, outcome: Outcome) -> list[str]:
    """Return a sentence for each property that an outcome violates."""
    expected, letters, events = _expected(history, outcome)
    have = {key: row[:-1] for key, row in outcome.records.items()}
    faults = _unlike(expected, have)
    if outcome.clocks_seen:  # silence was settled too early, and corrected
        faults = _unlike(_net(expected), _net(have))
        if not outcome.counts.get("clocks") and not outcome.counts.get("hidden clocks"):
            faults.append("a worker saw clocks that differ, and there was only one")
        # A paused worker and its successor may have a part of the partitions each.
        if outcome.counts.get("all clocks") and not outcome.counts["shared"]:
            faults.append("a worker that could read all clocks did not wait for the slowest")
    faults += [
        f"written with {len(values)} contents: {key}"
        for key, values in outcome.emitted.items()
        if len(values) > 1
    ]
    if outcome.quarantined != outcome.conflicts:
        faults.append(
            f"{outcome.quarantined} usage records are quarantined, not {outcome.conflicts}"
        )
    faults += [f"no evidence: {key}" for key, row in have.items() if not orjson.loads(row[7])]
    faults += _reversals(outcome)
    faults += _billed(history, outcome)
    if outcome.dead_letters != letters:
        faults.append(f"dead letters: {sorted(outcome.dead_letters)}, not {sorted(letters)}")
    faults += [
        f"reported as lost, and was not: {place}" for place in outcome.reported - outcome.deleted
    ]
    stored = {key: events.get(key) if n is None else n for key, n in outcome.events.items()}
    if stored != events:
        faults.append(f"events in the states: {outcome.events}, not {events}")
    return faults


def _unlike(expected: dict[str, Any], have: dict[str, Any]) -> list[str]:
    faults = [f"lost: {key} {expected[key]}" for key in sorted(expected.keys() - have.keys())]
    faults += [f"not owed: {key} {have[key]}" for key in sorted(have.keys() - expected.keys())]
    return faults + [
        f"wrong: {key} is {have[key]}, not {expected[key]}"
        for key in sorted(have.keys() & expected.keys())
        if have[key] != expected[key]
    ]


def _net(records: dict[str, tuple[object, ...]]) -> dict[str, int]:
    """Return the units of each conversation and outcome, without zeros."""
    net: Counter[str] = Counter()
    for key, row in records.items():
        net[f"{key.rpartition(':')[0]} {row[0]}"] += int(str(row[1]))
    return {name: units for name, units in net.items() if units}


def _expected(
    history: History, run: Outcome
) -> tuple[dict[str, tuple[object, ...]], set[tuple[int, int]], dict[bytes, int]]:
    """Return what the oracle derives: usage records, dead letters, and numbers of events by key.

    The dead letters are partition and offset of the rejected records.
    """
    oracles: dict[bytes, Oracle] = {}
    catalog = history.catalog.oracle()
    letters: set[tuple[int, int]] = set()
    offsets: dict[int, int] = {}
    for sent in history.sent:
        offset = offsets.get(sent.partition, 0)
        offsets[sent.partition] = offset + 1
        if (sent.partition, offset) in run.deleted or sent.value == DAMAGED:
            continue
        at = run.arrived[sent.partition, offset]
        decoded = read_record(sent.value, sent.key, at, sent.headers)
        if isinstance(decoded, Rejected):
            letters.add((sent.partition, offset))
            continue
        timeline = OracleTimeline(
            catalog, sent.key.decode().partition(":")[0], history.catalog.policies
        )
        oracle = oracles.setdefault(sent.key, Oracle(timeline, sent.key.decode(), SEAL_AFTER))
        before = len(oracle.too_late)
        oracle.receive(decoded.event, at)
        if len(oracle.too_late) > before:
            letters.add((sent.partition, offset))
    records: dict[str, tuple[object, ...]] = {}
    for oracle in oracles.values():
        oracle.tick(_FAR)
        for (
            key,
            outcome,
            quantity,
            kind,
            reason,
            at,
            policy,
            evidence,
            supersedes,
        ) in oracle.records:
            records[key] = (
                outcome,
                quantity,
                kind,
                reason,
                at,
                *policy,
                orjson.dumps(evidence).decode(),
                supersedes,
            )
    return records, letters, {key: oracle.held for key, oracle in oracles.items()}


def _reversals(outcome: Outcome) -> list[str]:
    """Check that every -1 reverses a charge in the ledger, and that no charge is reversed twice."""
    faults: list[str] = []
    reversed_: set[object] = set()
    for key, row in outcome.records.items():
        if row[1] == -1:
            if row[8] in reversed_ or row[8] not in outcome.records:
                faults.append(f"reverses a charge that is absent or already reversed: {key}")
            reversed_.add(row[8])
    return faults


def _billed(history: History, outcome: Outcome) -> list[str]:
    """Check that each unit owed is delivered, pending or uncertain, and what Stripe has.

    Stripe has what was delivered, and may have what is uncertain.
    """
    tenants = tenants_with(CUSTOMERS, history.catalog.policies.values())
    owed: dict[tuple[str, str], int] = {}
    for key, row in outcome.records.items():
        tenant_and_outcome = (key.split(":", 1)[0], str(row[0]))
        owed[tenant_and_outcome] = owed.get(tenant_and_outcome, 0) + int(str(row[1]))
    faults = [
        f"identifier counted {times} times: {identifier}"
        for identifier, times in outcome.identifiers.items()
        if times > 1
    ]
    for tenant_id, units in outcome.stated.items():
        of_tenant = sum(number for (of, _), number in owed.items() if of == tenant_id)
        if units != of_tenant:
            faults.append(f"{tenant_id}: {units} units on the statement, {of_tenant} owed")
    at_stripe: dict[tuple[str, str], int] = {}
    for (customer, name, _), units in outcome.stripe.items():
        at_stripe[customer, name] = at_stripe.get((customer, name), 0) + units
    for (tenant_id, name), units in owed.items():
        pending = outcome.pending.get((tenant_id, name), 0)
        delivered = outcome.delivered.get((tenant_id, name), 0)
        uncertain = outcome.uncertain.get((tenant_id, name), 0)
        if delivered + pending + uncertain != units:
            faults.append(
                f"{tenant_id} {name}: owed {units}, delivered {delivered} + {pending} + {uncertain}"
            )
        if tenant_id not in CUSTOMERS:
            if delivered:
                faults.append(f"{tenant_id} {name}: delivered without a customer")
            continue
        if pending > 0:
            faults.append(f"{tenant_id} {name}: {pending} units are still pending")
        counted = at_stripe.get((CUSTOMERS[tenant_id], tenants.event_name_for(name)), 0)
        if not delivered <= counted <= delivered + uncertain:
            faults.append(f"{tenant_id} {name}: Stripe has {counted}, the ledger {delivered}")
    return faults
