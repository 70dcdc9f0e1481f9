"""The journal decides which meter event has a usage record, whatever several runs write to it.

The second implementation, `held`, reads the whole journal again for each question.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise, permutations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.billing.reading import entered_grants, read_grant_lines
from pipeline.ledger.entries import Decided
from pipeline.ledger.journal import (
    Conclusion,
    Decision,
    Entry,
    Item,
    Plan,
    Renewal,
    Takeover,
    View,
    Withdrawal,
    apply,
    customers_of,
    touched,
)
from pipeline.ledger.journal_encoding import ENTRY_BYTES, decode_entry, encode_items
from pipeline.ledger.month_entries import Approval, Closing, Granted, MonthItem, accounts_of
from pipeline.ledger.standing import HANDED_OVER, Standing

RUNS = ["a", "b", "c"]
RECORDS = ["u1", "u2", "u3", "u4", "u5"]
GROUPS = [
    tuple(group)
    for size in (1, 2, 3)
    for group in permutations(RECORDS, size)
    if list(group) == sorted(group)
]


def plan(records: tuple[str, ...], value: int = 1, *, since: int | None = None) -> Plan:
    return Plan(
        identifier=f"rm_{'_'.join(records)}",
        tenant_id="acme",
        customer="cus_1",
        outcome="resolution",
        event_name="m",
        hour=1,
        value=value,
        timestamp=3600,
        body_sha256="",
        records=records,
        called_since=since,
    )


IDENTIFIERS = [plan(group).identifier for group in GROUPS]
identifiers = st.sampled_from(IDENTIFIERS) | st.sampled_from([f"{i}_r1" for i in IDENTIFIERS])


def decision(identifier: str, *, releases: bool) -> Decision:
    again = f"{identifier}_r1" if releases else None
    decided = Decided(
        at=1,
        action="release" if releases else "settle",
        identifier=identifier,
        replaced_by=again,
        state="rejected",
        who="ann",
        reason="because",
        stripe_checked=True,
    )
    if again is None:
        return Decision(decided)
    return Decision(decided, msgspec.structs.replace(plan(()), identifier=again))


accounts = st.sampled_from(["acme", "acme", "bluejay", "a\0b"])
times = st.integers(0, 5)


def grant(account: str, name: str, created_at: int, kind: str) -> Granted:
    line: dict[str, object] = {"kind": kind, "created_at": created_at}
    line |= {"grant": name, "takes": "0.00"} if kind == "void" else {"id": name, "amount": "1.00"}
    if kind == "credit_note":
        line |= {"invoice": "in_1", "of_period": 0}
    return Granted(account, json.dumps(line))


month_items: st.SearchStrategy[MonthItem] = st.one_of(
    st.builds(
        Closing,
        account=accounts,
        period_start=times,
        period_end=st.sampled_from([3_600_000, 3_600_001]),
        closed_at=times,
        topic=st.just("usage.records"),
        topic_id=st.sampled_from(["", "one"]),
        customer=st.sampled_from(["", "cus_1", "cus_2"]),
        offsets=st.dictionaries(st.integers(0, 2), times),
        grants=st.sampled_from([0, 0, 1, 2]),
        statement=st.sampled_from(["{}", '{"closing":{"carried":"-1.50"}}']),
        rejections=st.sampled_from([0, 0, 0, 1]),
        waived=st.lists(times, max_size=2).map(tuple),
    ),
    st.builds(
        grant,
        accounts,
        st.sampled_from(["g", "h"]),
        times,
        st.sampled_from(["credit", "credit_note", "void", "nonsense"]),
    ),
    st.builds(
        Approval,
        id=st.sampled_from(["p", "q"]),
        account=accounts,
        period_start=times,
        what=st.sampled_from(["adjusted", "unmatched"]),
        of_period=times,
        amount=times,
        verdict=st.sampled_from(["approved", "rejected"]),
        who=st.just("ann"),
        reason=st.just("because"),
        at=times,
    ),
)
items: st.SearchStrategy[Item] = st.one_of(
    month_items,
    st.builds(
        plan,
        st.sampled_from(GROUPS),
        st.sampled_from([0, 1, 1, 2]),
        since=st.sampled_from([None, None, 0, 5]),
    ),
    st.builds(Conclusion, identifiers, st.sampled_from(["delivered", "delivered", "rejected"])),
    st.builds(Conclusion, identifiers, st.sampled_from(["withdrawn", "withdrawn", "kept"])),
    st.builds(Withdrawal, identifiers, st.sampled_from([0, 3, 40, 40])),
    st.builds(decision, st.sampled_from(IDENTIFIERS), releases=st.booleans()),
    st.builds(Takeover, st.lists(identifiers, max_size=3).map(tuple)),
    st.builds(
        Renewal, st.lists(identifiers, max_size=3).map(tuple), st.integers(0, 40), st.booleans()
    ),
)
journals = st.lists(
    st.builds(
        lambda run, part: Entry(run=run, items=tuple(part)),
        st.sampled_from(RUNS),
        st.lists(items, min_size=1, max_size=4),
    ),
    max_size=12,
)


def folded(journal: list[Entry]) -> View:
    view = View({}, {})
    for at, entry in enumerate(journal):
        apply(view, entry, at)
    return view


# The states in which an operator may decide.
UNDECIDED = {"planned", "rejected", "withdrawing"}


# --- a second implementation, from the sentences of the reference ---------------------------------


def flat(journal: list[Entry]) -> Iterator[tuple[int, str, Item]]:
    for at, entry in enumerate(journal):
        for item in entry.items:
            yield at, entry.run, item


def closed_before(journal: list[Entry], number: int) -> bool:
    """Return whether the hour of all plans is closed for their customer before an item.

    Which closings are valid depends on no plan.
    """
    view = View({}, {})
    for at, run, item in list(flat(journal))[:number]:
        if isinstance(item, MonthItem):
            (verdict,) = apply(view, Entry(run=run, items=(item,)), at)
            if (
                verdict.why is None
                and isinstance(item, Closing)
                and (item.customer, item.period_end) == ("cus_1", 3_600_001)
            ):
                return True
    return False


def held(journal: list[Entry]) -> dict[str, str]:
    """Return the first plan of each record.

    A plan counts if all its records are free before it, and its period is open. They are free again once
    the meter event that has them is withdrawn.
    """
    taken: dict[str, str] = {}
    known: set[str] = set()
    for number, (_, _, item) in enumerate(flat(journal)):
        before = list(flat(journal))[:number]
        if isinstance(item, Decision) and item.replacement is not None:
            state = state_before(item.decided.identifier, before, known)
            if state in UNDECIDED and not closed_before(journal, number):
                known.add(item.replacement.identifier)
        if isinstance(item, Conclusion):
            state = state_before(item.identifier, before, known)
            if item.state == "withdrawn" and state in {"withdrawing", "kept"}:
                first = item.identifier.removesuffix("_r1")
                taken = {record: of for record, of in taken.items() if of != first}
        if not isinstance(item, Plan) or item.identifier in known:
            continue
        is_free = not any(record in taken for record in item.records)
        if is_free and not closed_before(journal, number):
            known.add(item.identifier)
            for record in item.records:
                taken[record] = item.identifier
    return taken


def state_before(
    identifier: str, before: list[tuple[int, str, Item]], known: set[str]
) -> str | None:
    """Return the state of a meter event from the items about it alone, in their order."""
    if identifier not in known:
        return None
    state = "planned"
    for at, _, item in before:
        if isinstance(item, Plan) and item.identifier == identifier and item.value == 0:
            return "netted"
        if isinstance(item, Conclusion) and item.identifier == identifier:
            if item.state == "delivered" and state in {"planned", "rejected"}:
                state = "delivered"
            elif item.state == "rejected" and state == "planned":
                state = "rejected"
            elif item.state == "withdrawn" and state in {"withdrawing", "kept"}:
                state = "withdrawn"
            elif item.state == "kept" and state == "withdrawing":
                state = "kept"
        if isinstance(item, Withdrawal) and item.identifier == identifier and at < item.until:
            state = "withdrawing" if state == "delivered" else state
        if (
            isinstance(item, Decision)
            and item.decided.identifier == identifier
            and state in UNDECIDED
        ):
            state = "settled" if item.replacement is None else "released"
    return state


# --- properties -----------------------------------------------------------------------------------


@given(journals)
def test_each_record_belongs_to_the_first_plan_whose_records_were_all_free(
    journal: list[Entry],
) -> None:
    assert folded(journal).holders == held(journal)


@given(journals)
def test_no_two_valid_plans_share_a_record_unless_the_first_was_withdrawn(
    journal: list[Entry],
) -> None:
    view = View({}, {})
    valid: list[Plan] = []
    for at, entry in enumerate(journal):
        for verdict in apply(view, entry, at):
            item = verdict.item
            if verdict.why is None and isinstance(item, Plan):
                valid.append(item)
            if verdict.why is None and isinstance(item, Conclusion) and item.state == "withdrawn":
                first = item.identifier.removesuffix("_r1")
                valid = [each for each in valid if each.identifier != first]

        records = [record for each in valid for record in each.records]
        assert len(records) == len(set(records))


@given(journals)
def test_a_meter_event_is_withdrawn_once_and_only_if_it_was_delivered(
    journal: list[Entry],
) -> None:
    view = View({}, {})
    withdrawn: list[str] = []
    for at, entry in enumerate(journal):
        for item in entry.items:
            before = dict(view.standings)
            (verdict,) = apply(view, Entry(run=entry.run, items=(item,)), at)
            if verdict.why is None and isinstance(item, Withdrawal):
                assert before[item.identifier].state == "delivered"
                assert at < item.until
                withdrawn.append(item.identifier)

    assert len(withdrawn) == len(set(withdrawn))


@given(journals, st.data())
def test_it_does_not_matter_where_a_ledger_begins_to_read_again(
    journal: list[Entry], data: st.DataObject
) -> None:
    """A restored ledger has applied a part of the journal, and goes on from there."""
    cut = data.draw(st.integers(0, len(journal)))
    restored = folded(journal[:cut])
    for at, entry in enumerate(journal[cut:], cut):
        apply(restored, entry, at)

    assert restored == folded(journal)


@given(journals)
def test_entries_depend_only_on_what_they_touch(journal: list[Entry]) -> None:
    """A ledger reads the rows that `touched` names, and no others."""
    full = View({}, {})
    for at, entry in enumerate(journal):
        names, records = touched([entry])
        part = View(
            {k: v for k, v in full.standings.items() if k in names},
            {k: v for k, v in full.holders.items() if k in records},
            {k: deepcopy(v) for k, v in full.accounts.items() if k in accounts_of(entry.items)},
            {k: v for k, v in full.closed_until.items() if k in customers_of([entry])},
        )
        verdicts = apply(part, entry, at)

        assert verdicts == apply(full, entry, at)
        assert part.accounts.items() <= full.accounts.items()
        assert part.closed_until.items() <= full.closed_until.items()
        assert part.standings.items() <= full.standings.items()


@given(journals)
def test_a_run_vouches_again_only_while_no_other_run_may_call(journal: list[Entry]) -> None:
    view = View({}, {})
    callers: dict[str, set[str]] = {}  # runs that may have called since the last vouching
    for at, entry in enumerate(journal):
        for item in entry.items:
            before = dict(view.standings)
            apply(view, Entry(run=entry.run, items=(item,)), at)
            for identifier, standing in view.standings.items():
                if identifier not in before:
                    callers[identifier] = {entry.run}
                elif isinstance(item, Takeover) and identifier in item.identifiers:
                    if before[identifier].voucher == HANDED_OVER:
                        callers[identifier] = set()
                    callers[identifier] |= {entry.run}
                if isinstance(item, Withdrawal) and item.identifier == identifier:
                    if before[identifier].state != standing.state:
                        callers[identifier] = {entry.run}
                elif before.get(identifier, standing).vouched_at != standing.vouched_at:
                    assert callers[identifier] == {entry.run}
                    assert before[identifier].vouched_at < standing.vouched_at <= at


@given(journals)
def test_periods_are_closed_once_in_order_and_know_every_grant_before(
    journal: list[Entry],
) -> None:
    view = View({}, {})
    valid: dict[str, list[MonthItem]] = {}
    for at, entry in enumerate(journal):
        for verdict in apply(view, entry, at):
            if verdict.why is None and isinstance(verdict.item, MonthItem):
                valid.setdefault(verdict.item.account, []).append(verdict.item)

    for items_of in valid.values():
        closings = [each for each in items_of if isinstance(each, Closing)]
        for before, after in pairwise(closings):
            assert before.period_start < after.period_start
            assert before.closed_at < after.closed_at
        approvals = [each.id for each in items_of if isinstance(each, Approval)]
        assert len(approvals) == len(set(approvals))
        last, lines = 0, list[dict[str, int]]()
        for each in items_of:
            if isinstance(each, Closing):
                assert each.grants == len(lines)
                last = each.closed_at
            elif isinstance(each, Granted):
                lines.append(json.loads(each.line))
                assert lines[-1]["created_at"] >= last
        labelled, problems = read_grant_lines(
            (str(n), json.dumps(x).encode()) for n, x in enumerate(lines)
        )
        assert (problems, entered_grants(labelled, "", "usd")[1]) == ([], [])


@given(st.lists(items, max_size=30))
def test_entries_are_read_as_they_were_written(written: list[Item]) -> None:
    entries = [decode_entry(value) for value in encode_items("a", written)]

    assert [item for entry in entries if entry is not None for item in entry.items] == written


def test_many_items_become_entries_of_limited_size() -> None:
    many = [plan((f"record-{n}-{'x' * 200}",)) for n in range(5_000)]

    values = encode_items("a", many)

    assert len(values) > 1
    assert max(map(len, values)) < ENTRY_BYTES + 1_000


def test_a_standing_is_what_its_plan_says_at_first() -> None:
    view = View({}, {})

    apply(view, Entry(run="a", items=(plan(("u1",)), plan(("u2",), since=3), plan(("u3",), 0))), 9)

    assert list(view.standings.values()) == [
        Standing("planned", 9, "a"),
        Standing("planned", 3, None),
        Standing("netted", 9, "a"),
    ]
