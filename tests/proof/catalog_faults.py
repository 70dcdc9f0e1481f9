"""Faults around the catalog: two publishers at once, while the processes that follow it are killed."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from pipeline.catalog.entry import Additions, Assigned, TenantTerms, entries_of
from pipeline.catalog.policies import preset
from pipeline.catalog.topic import publish, whole_catalog
from tests.kafka.run import metric
from tests.proof.rig import Rig
from tests.proof.worker_faults import SLOW

_RACES = 6
_AHEAD_MS = 60_000  # from the earliest date that is valid


def catalog_changes(rig: Rig) -> None:
    rig.start("sink", "sink")
    for name in ("a", "b"):
        rig.start(name, "worker", **SLOW)
    chance = random.Random(11)
    for number in range(_RACES):
        _publish_at_once(rig, number, chance)
        rig.pause(chance.uniform(0.5, 3.0))
        rig.kill(chance.choice(["a", "b", "sink"]))
    rig.fault_is_over()
    number = whole_catalog(rig.run.settings()).number
    assert number == 1 + _RACES, f"{number} entries are valid: of each race, one must win"
    for name in ("a", "b", "sink"):
        port = rig.run.port(rig.process(name))
        rig.until(
            lambda port=port: metric(port, "resmeter_catalog_entry") == number,  # type: ignore[misc]
            f"{name} follows the catalog",
        )


def _publish_at_once(rig: Rig, number: int, chance: random.Random) -> None:
    """Let two publishers add to the same entry: a version and a tenant's policy, or the default."""
    settings = rig.run.settings()
    catalog = whole_catalog(settings)
    from_ms = int(time.time() * 1000) + catalog.lead_ms + _AHEAD_MS
    tenant_id = chance.choice(sorted(rig.load.tenants))
    version = msgspec.structs.replace(
        preset("gorgias"), name="next", version=number + 1, effective_from=from_ms
    )
    races = [
        Additions([version], tenants={tenant_id: TenantTerms((Assigned("next", from_ms),))}),
        Additions([version], default=[Assigned("next", from_ms)]),
    ]
    values = [
        entries_of(additions, catalog.digest, who, "race")
        for additions, who in zip(races, ("ada", "bob"), strict=True)
    ]
    with ThreadPoolExecutor() as publishers:
        verdicts = list(publishers.map(lambda value: publish(settings, value), values))
    reasons = [verdict.reason for (verdict,) in verdicts]
    assert sum(not reason for reason in reasons) == 1, reasons
