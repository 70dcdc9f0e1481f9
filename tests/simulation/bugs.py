"""Plant bugs one at a time in a copy of the project, and check that the simulator finds each.

    python -m tests.simulation.bugs [--seeds 500]

The bugs are mistakes that people make in systems like this one. The exit status is 3 if the
simulator misses one.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]


class Bug(NamedTuple):
    """A mistake: its name, its file, and the correct code with its wrong replacement."""

    name: str
    file: str
    right: str
    wrong: str
    world: str = "conversations"  # where it is searched for


BUGS = (
    Bug(
        "a reversal takes nothing back on a statement",
        "pipeline/billing/units.py",
        "        taken.taken_back = True\n",
        "",
    ),
    Bug(
        "a record that arrives after its meter event was adopted is pending",
        "pipeline/ledger/records.py",
        "            _link_awaited(connection, [row[0] for row in rows])\n",
        "",
    ),
    Bug(
        "a reversal in the journal is looked for under its own time, not under that of its charge",
        "pipeline/ledger/adoption.py",
        "pending.time_of_unit(record, charge)",
        "u.occurred_at",
    ),
    Bug(
        "a meter event of a lost ledger is sent however old it is",
        "pipeline/ledger/leases.py",
        "        is_old = min(vouched_at, perhaps_counted_at or vouched_at) < remembered_from_ms\n",
        "        is_old = (perhaps_counted_at or remembered_from_ms) < remembered_from_ms\n",
    ),
    Bug(
        "the intake does not notice that the database has lost commits",
        "pipeline/sink/intake.py",
        "        if moved:\n            self._rewind_to_ledger(consumer, Moved(moved))\n",
        "",
    ),
    Bug(
        "the offset counts as done before the results are acknowledged",
        "pipeline/stream/effects.py",
        "        # 1. Results first.",
        "        if done is not None:\n            self.done[number] = done\n        # 1. Results first.",
    ),
    Bug(
        "the state is written before the usage records",
        "pipeline/stream/effects.py",
        "        if result.outputs or result.dead_letters:\n",
        "        if result.states:\n"
        "            await self._outputs.write_states(number, result.states)\n"
        "        if result.outputs or result.dead_letters:\n",
    ),
    Bug(
        "batches complete in the order of their acknowledgements, not of their offsets",
        "pipeline/stream/effects.py",
        "            await asyncio.wait([before])\n"
        "            if before.cancelled() or before.exception() is not None:\n"
        "                return\n",
        "            pass\n",
    ),
    Bug(
        "a record that the client cannot read ends its batch",
        "pipeline/stream/record_format.py",
        "            yield from parse_records(self._raw, skip=read)\n",
        "            return\n",
    ),
    Bug(
        "a worker continues after damage that nobody has stepped over",
        "pipeline/stream/runner.py",
        "            self.damages.stop(number, batch)\n            return None\n",
        "            return batch.next_offset\n",
    ),
    Bug(
        "a broken producer ends the worker for everybody",
        "pipeline/stream/runner.py",
        "if limit.is_exceeded and self._worker.dead_letters_end_worker:",
        "if limit.is_exceeded:",
    ),
    Bug(
        "recovery takes the last state written, even an older one from a paused worker",
        "pipeline/stream/state.py",
        "    if other is None:\n",
        "    if True:\n",
    ),
    Bug(
        "a timer fires while a follow-up waits in the backlog",
        "pipeline/stream/runner.py",
        "if not (self._is_read(position, probe) and self._is_quiet(number)):",
        "if False:",
    ),
    Bug(
        "an end offset of the wrong isolation: a timer overtakes an open transaction",
        "pipeline/stream/runner.py",
        "Probe(n, clock_ms, bounds[n].high, generation)",
        "Probe(n, clock_ms, bounds[n].stable, generation)",
    ),
    Bug(
        "the end is asked for before the clock",
        "pipeline/stream/runner.py",
        "        clock_ms = await self.watermarks.read_clocks(partitions, self.arrived_ms)\n"
        "        bounds = await self._log.bounds(due)\n",
        "        bounds = await self._log.bounds(due)\n"
        "        clock_ms = await self.watermarks.read_clocks(partitions, self.arrived_ms)\n",
    ),
    Bug(
        "a timer goes by the fastest of the brokers' clocks",
        "pipeline/stream/clocks.py",
        "self._read_ms = min(readings)",
        "self._read_ms = max(readings)",
    ),
    Bug(
        "a record that is older than the clock is not noticed",
        "pipeline/stream/clocks.py",
        "        if behind_ms <= self._behind_ms.get(number, 0):\n",
        "        if True:\n",
    ),
    Bug(
        "a worker does not ask whether the topic is another one of the same name",
        "pipeline/stream/basis.py",
        "    if basis.topic_id and topic.topic_id and basis.topic_id != topic.topic_id:\n",
        "    if False:\n",
    ),
    Bug(
        "a worker does not ask whether the end of the log is cut",
        "pipeline/stream/basis.py",
        "    elif read_up_to is not None and read_up_to > bounds.high:\n",
        "    elif False:\n",
    ),
    Bug(
        "lost records are forgotten at a restart",
        "pipeline/stream/recovery.py",
        "                basis = newest_basis(stored, basis)\n",
        "",
    ),
    Bug(
        "a gap in the changelog counts as states of our own",
        "pipeline/stream/readback.py",
        "    if written and (-1 if known is None else known) == written.start - 1:\n",
        "    if written:\n",
    ),
    Bug(
        "nobody fences a partition",
        "pipeline/stream/ownership.py",
        "            await asyncio.gather(*map(self._fence, numbers))\n",
        "            pass\n",
    ),
    Bug(
        "a worker that is fenced takes the partition back",
        "pipeline/stream/effects.py",
        "            offsets = await self._outputs.write_states(number, result.states)\n",
        "            try:\n"
        "                offsets = await self._outputs.write_states(number, result.states)\n"
        "            except Exception:\n"
        "                await self._outputs.fence(number)\n"
        "                offsets = await self._outputs.write_states(number, result.states)\n",
    ),
    Bug(
        "an owner without work lets the brokers forget its epoch",
        "pipeline/stream/ownership.py",
        "                await self._outputs.renew_fence(number)\n"
        "                if self._is_moving(generation):\n"
        "                    return  # if another worker owns the partition now, writing would end the process\n"
        "                _, offsets = await self._outputs.read_clock(number, basis_of(partition))\n"
        "                host.states_written(number, offsets)\n",
        "                pass\n",
    ),
    Bug(
        "what is newest and not last is not written again",
        "pipeline/stream/recovery.py",
        "                    behind.add(key)\n",
        "                    pass\n",
    ),
    Bug(
        "the fence record takes the place of the basis",
        "pipeline/stream/fence.py",
        'FENCE_KEY = b"\\x00fence"\n',
        'FENCE_KEY = b""\n',
    ),
    Bug(
        "recovery does not fill the due queue",
        "pipeline/stream/partition.py",
        "                self.due_queue.add(key, due_ms)\n            if not is_sealed",
        "                pass\n            if not is_sealed",
    ),
    Bug(
        "an event that a producer sends twice counts twice",
        "pipeline/usage/conversation.py",
        "known = self._find(event, pending, recall)",
        "known = None",
    ),
    Bug(
        "a conversation is sealed when a timer reaches it, not when the log says",
        "pipeline/usage/conversation.py",
        "finds_sealed = timestamp >= self.arrival_ms + seal_after_ms\n",
        "finds_sealed = False\n",
    ),
    Bug(
        "a usage record takes its time from the host's clock",
        "pipeline/usage/emission.py",
        "                occurred_at=transition.at,\n",
        "                occurred_at=__import__('time').time_ns() // 1_000_000,\n",
    ),
    Bug(
        "the ledger moves the offset in a separate transaction",
        "pipeline/ledger/records.py",
        "        # 2. The records.",
        "    with ledger.writing() as connection:\n        # 2. The records.",
    ),
    Bug(
        "a grouped record stays pending",
        "pipeline/ledger/adoption.py",
        "            deleted = pending.delete_pending(self._connection, planned)\n",
        "            deleted = len(planned)\n",
    ),
    Bug(
        "each attempt gives a meter event a new identifier",
        "pipeline/sink/dispatcher.py",
        "        conclusion = await self._call(event, lease, now_ms + self._lease_ms)",
        "        import uuid\n"
        "        event_ = msgspec.structs.replace(event, identifier=uuid.uuid4().hex)\n"
        "        lease_ = msgspec.structs.replace(lease, idempotency_key=uuid.uuid4().hex)\n"
        "        conclusion = await self._call(event_, lease_, now_ms + self._lease_ms)",
    ),
    Bug(
        "a retry is sent with a new timestamp",
        "pipeline/sink/dispatcher.py",
        "        conclusion = await self._call(event, lease, now_ms + self._lease_ms)",
        "        event_ = msgspec.structs.replace(event, timestamp=self._now_ms() // 1000)\n"
        "        conclusion = await self._call(event_, lease, now_ms + self._lease_ms)",
    ),
    Bug(
        "a duplicate after a lost response counts as a rejection",
        "pipeline/sink/stripe/responses.py",
        'return "duplicate" if perhaps_counted else "collision"',
        'return "rejected"',
    ),
    Bug(
        "the lease of a dead sink never expires",
        "pipeline/ledger/leases.py",
        "or_(_is_free(now_ms), m.owner == owner)",
        "or_(m.lease_until < 1, m.owner == owner)",
    ),
    Bug(
        "the 23 hours count from the last call, not from the first that may have counted",
        "pipeline/ledger/leases.py",
        "func.min(attempt.c.at)",
        "func.max(attempt.c.at)",
    ),
    Bug(
        "a meter event counts as withdrawn before Stripe has answered",
        "pipeline/ledger/leases.py",
        '    if lease.call == "withdraw" and result in ("rejected", "collision"):\n',
        '    if lease.call == "withdraw" and result in ("failed", "foreign"):\n'
        '        return "withdrawn"\n'
        '    if lease.call == "withdraw" and result in ("rejected", "collision"):\n',
    ),
    Bug(
        "a refusal to cancel says that the meter event counts, whatever earlier calls did",
        "pipeline/ledger/leases.py",
        'return "uncertain" if lease.perhaps_counted else "delivered"',
        'return "delivered"',
    ),
    Bug(
        "the usage records of a withdrawn meter event stay in it",
        "pipeline/ledger/adoption.py",
        '        if item.state == "withdrawn":\n            free_records',
        '        if item.state == "nothing":\n            free_records',
    ),
    Bug(
        "a usage record conflicts only if its outcome, quantity or time differs",
        "pipeline/ledger/records.py",
        "            if row[:_CONTENT_SIZE] != stored:",
        "            if any(row[n] != stored[n] for n in (3, 4, 7)):",
    ),
    Bug(
        "a proxy's answer rejects a meter event",
        "pipeline/sink/stripe/responses.py",
        '        return "foreign"\n    if status is None:',
        '        return "rejected"\n    if status is None:',
    ),
    Bug(
        "a proxy's answer counts as a call that Stripe did not count",
        "pipeline/ledger/entries.py",
        '    "failed",\n    "foreign",\n    "delivered",',
        '    "failed",\n    "delivered",',
    ),
    Bug(
        "an uncertain meter event stays among those that are sent",
        "pipeline/ledger/leases.py",
        '_move(connection, event, "uncertain")',
        '_move(connection, event, "sent")',
    ),
    Bug(
        "what Stripe may have counted is released without a look at its sums",
        "pipeline/ledger/decisions.py",
        "if _is_perhaps_counted(row) and not decision.stripe_checked:",
        "if False:",
    ),
    Bug(
        "an operator decides while a call is under way",
        "pipeline/ledger/decisions.py",
        "        if decision.at < row.lease_until <= decision.at + HOUR_MS:  # no lease is longer\n",
        "        if False:\n",
    ),
    Bug(
        "a release leaves its usage records with the old meter event",
        "pipeline/ledger/decisions.py",
        ".values(identifier=to)",
        ".values(identifier=identifier)",
    ),
    Bug(
        "a partition keeps the timelines that it has looked up",
        "pipeline/stream/partition.py",
        "        self._timeline = cache(timeline_for)\n",
        '        self._timeline = getattr(self, "_timeline", None) or cache(timeline_for)\n',
    ),
    Bug(
        "an entry of the catalog that is dated within the lead is valid",
        "pipeline/catalog/log.py",
        "appended_ms + catalog.lead_ms",
        "appended_ms",
    ),
    Bug(
        "a reversal lessens what the period has in which it comes",
        "pipeline/ledger/pending.py",
        ".values(occurred_at=c.occurred_at, missing_charge=None)",
        ".values(missing_charge=None)",
        "months",
    ),
    Bug(
        "a large correction does not wait for a person",
        "pipeline/billing/approvals.py",
        "            needs_approval=major > amount_max\n",
        "            needs_approval=False\n",
        "months",
    ),
)


@click.command()
@click.option("--seeds", default=1_000, show_default=True, help="Most random runs for each bug.")
@click.option(
    "--exhaustive",
    default=3,
    show_default=True,
    help="Number of histories to kill before and after each of their effects, one kill a run.",
)
@click.option("--only", help="Only bugs whose name contains this text.")
def main(seeds: int, exhaustive: int, only: str | None) -> None:
    """Plant each bug in a copy of the project, and run the simulator on it."""
    if _try(_NO_BUG, 1, 0) is not None:
        raise click.ClickException("the simulator fails without a planted bug: fix that first")
    table = Table("planted", "found by", "first sign", title="Planted bugs")
    missed = 0
    for bug in BUGS:
        if only and only not in bug.name:
            continue
        discovery = _try(bug, seeds, exhaustive)
        missed += discovery is None
        table.add_row(bug.name, *(discovery or ("NOT FOUND", "")))
    Console(width=160).print(table)
    sys.exit(3 if missed else 0)


_NO_BUG = Bug("nothing", "pipeline/__init__.py", "", "")


def _try(bug: Bug, seeds: int, exhaustive: int) -> tuple[str, str] | None:
    """Run the simulator on a bug; return the run that failed and its first sign, or None."""
    with tempfile.TemporaryDirectory(prefix="resmeter-bug-") as folder:
        copy = Path(folder)
        for part in ("pipeline", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / bug.file
        text = file.read_text()
        file.write_text(text.replace(bug.right, bug.wrong))
        command = ["-m", "tests.simulation", "--world", bug.world]
        command += ["--seeds", str(seeds), "--exhaustive", str(exhaustive)]
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    seed = re.search(r"seed (\d+)", done.stdout)
    killed = re.search(r"kill at effect (\d+)", done.stdout)
    finder = f"seed {seed[1]}" if seed else "an error"
    if killed:
        finder += f", killed at effect {killed[1]}"
    signs = [line for line in lines if not line.startswith((" ", "seed", "killed", "kill at"))]
    return finder, (signs[0] if seed and signs else lines[-1])[:90]


if __name__ == "__main__":
    main()
