"""The catalog as a log of entries: what an entry adds, and whether it is valid. Pure.

Every reader of the log applies `read` to its records in order, and so has the same catalog:

- An entry names its parent, the digest of the valid entry before it. So of two publishers one wins.
- What an entry dates must be later than its own append time by the lead, and must not change what
  has been in force. So an entry that arrives late is void, instead of late.
- A void entry is void for everybody and for ever.

The first entries, the beginning, are exempt from the lead. They may be undated.
"""

from typing import NamedTuple

import msgspec

from pipeline.catalog.account_log import (
    accounts_after,
    accounts_without,
    dates_of,
    orphan_of,
    problem_of_accounts,
)
from pipeline.catalog.dated import changes_the_past, in_order, merged, with_added, without
from pipeline.catalog.entry import AMENDING_FORM, FORM, Entry, digest_of
from pipeline.catalog.value import (
    LEAD_MS_MIN,
    NEVER,
    START,
    Catalog,
    DatedAmendment,
    DatedAssignment,
    DatedGrant,
    DatedVersion,
    has_other_terms,
    when,
)
from pipeline.decoding import json_decoder
from pipeline.errors import UnknownEntryError


class Appended(NamedTuple):
    """A record of the catalog's topic.

    `restored` is set on a record that `resmeter catalog restore` wrote: the digest of the last entry
    to restore, and when the entry was appended at first.
    """

    offset: int
    appended_ms: int
    value: bytes
    restored: tuple[str, int] | None = None


class Verdict(NamedTuple):
    """What a record of the topic came to; an entry with a `reason` is void."""

    record: Appended
    entry: Entry | None
    number: int
    digest: str
    appended_ms: int
    reason: str = ""


class Void(NamedTuple):
    """Why an entry is void."""

    reason: str


def read(catalog: Catalog, record: Appended) -> tuple[Catalog, Verdict]:
    """Apply a record of the topic; return the catalog after it, and what became of the record.

    Raises:
        UnknownEntryError: a newer version of resmeter wrote the record.
    """
    digest = digest_of(record.value)
    at_ms = record.appended_ms

    def void(reason: str, entry: Entry | None = None) -> tuple[Catalog, Verdict]:
        return catalog, Verdict(record, entry, 0, digest, at_ms, reason)

    if at_ms < 0:
        return void("the broker did not set its time: the topic must have LogAppendTime")
    formed = _formed(record.value)
    if formed is not None and formed.form > FORM and formed.parent == catalog.digest:
        raise UnknownEntryError(
            f"offset {record.offset} of the catalog's topic has an entry of form {formed.form}, and "
            f"this version reads forms up to {FORM}: install the version that wrote it"
        )
    try:
        entry = _decode(record.value)
    except ValueError as error:
        return void(f"it is not an entry of a catalog: {error}")
    before, restoring = catalog, ""
    if not catalog.is_whole:
        if record.restored is not None:
            restoring, at_ms = record.restored
            if entry.parent and catalog.restoring != restoring:
                return void("it belongs to another restoration", entry)
        elif catalog.restoring and entry.parent:
            return void("a restoration is under way", entry)
        if not entry.parent:
            before = Catalog()  # an unfinished beginning counts for nothing
    accepted = accept(before, entry, at_ms, digest)
    if isinstance(accepted, Void):
        return void(accepted.reason, entry)
    accepted = msgspec.structs.replace(
        accepted, restoring="" if accepted.digest == restoring else restoring
    )
    return accepted, Verdict(record, entry, accepted.number, digest, at_ms)


class _Formed(msgspec.Struct):
    form: int
    parent: str


def _formed(value: bytes) -> _Formed | None:
    try:
        return _decode_formed(value)
    except ValueError:
        return None


_decode = json_decoder(Entry)
_decode_formed = json_decoder(_Formed)


def accept(catalog: Catalog, entry: Entry, appended_ms: int, digest: str) -> Catalog | Void:
    """Return the catalog with an entry, or why the entry is void.

    Args:
        catalog: the entries before.
        entry: the next entry of the log.
        appended_ms: when the broker appended it.
        digest: the digest of the entry.
    """
    if not entry.parent and catalog.number:
        return Void("the catalog has a beginning already")
    if entry.parent != catalog.digest:
        return Void(
            "another entry was published first: this one follows "
            f"{entry.parent[:12]}, and the last entry is {catalog.digest[:12] or 'none'}"
        )
    if not catalog.number and entry.lead_ms < LEAD_MS_MIN:
        return Void(f"its lead is {entry.lead_ms} ms; it must be at least {LEAD_MS_MIN} ms")
    from_ms = START if not catalog.is_begun else appended_ms + catalog.lead_ms
    if entry.withdraws:
        withdrawn = _without(catalog, entry.withdraws, from_ms)
        if isinstance(withdrawn, Void):
            return withdrawn
        catalog = withdrawn
    reason = (
        _problem_of_versions(catalog, entry, from_ms)
        or _problem_of_assignments(catalog, entry, from_ms)
        or _problem_of_keys(entry, from_ms)
        or problem_of_accounts(catalog, entry, from_ms)
        or _problem_of_amendment(catalog, entry, appended_ms)
    )
    return Void(reason) if reason else _with_entry(catalog, entry, digest)


def problem_of(catalog: Catalog, value: bytes, now_ms: int) -> str:
    """Return why an entry would be void if it was appended now; "" if it would be valid."""
    accepted = accept(catalog, _decode(value), now_ms, "")
    return accepted.reason if isinstance(accepted, Void) else ""


# --- what makes an entry void ---------------------------------------------------------------------


def _problem_of_versions(catalog: Catalog, entry: Entry, from_ms: int) -> str:
    for policy in entry.policies:
        name = f"version {policy.version} of {policy.name}"
        if (policy.name, policy.version) in catalog.versions:
            return f"the catalog has {name} already; a version never changes"
        if has_other_terms(catalog.terms_of(policy.name, policy.version), policy):
            return f"a rebill plan has used {name} with other terms; a version never changes"
        if "default" not in policy.window:
            return f"{name} has no window for other channels (window.default)"
        since_ms = max(policy.effective_from, catalog.first_assigned(policy.name))
        if since_ms < from_ms:
            return f"{name} would be in force from {when(policy.effective_from)}, {changes_the_past(from_ms)}"
    return ""


def _problem_of_assignments(catalog: Catalog, entry: Entry, from_ms: int) -> str:
    known = {name for name, _ in catalog.versions} | {policy.name for policy in entry.policies}
    parts = [("the default policy", catalog.default, entry.default)] + [
        (f"tenant {tenant_id}", catalog.assigned.get(tenant_id, ()), terms.assigned)
        for tenant_id, terms in entry.tenants.items()
    ]
    for whose, before, added in parts:
        for assigned in added:
            if assigned.name not in known:
                return f"{whose}: the catalog has no policy {assigned.name}"
            is_first = from_ms == START and not before and assigned is added[0]
            if assigned.from_ms is None and not is_first:
                return f"{whose}: {assigned.name} has no date"
            if assigned.from_ms is not None and assigned.from_ms < from_ms:
                since = when(assigned.from_ms)
                return f"{whose}: {assigned.name} from {since}, {changes_the_past(from_ms)}"
    return ""


def _problem_of_keys(entry: Entry, from_ms: int) -> str:
    for key_id, grant in entry.keys.items():
        if (START if grant.from_ms is None else grant.from_ms) < from_ms:
            return f"the key {key_id} from {when(grant.from_ms)}, {changes_the_past(from_ms)}"
    return ""


def _problem_of_amendment(catalog: Catalog, entry: Entry, appended_ms: int) -> str:
    amends = entry.amends
    if amends is None:
        return ""
    policy = amends.policy
    if (
        entry.form < AMENDING_FORM
        or not catalog.is_begun
        or amends.from_ms >= amends.to_ms
        or "default" not in policy.window
    ):
        return "`resmeter rebill apply` did not write it"
    if amends.to_ms > appended_ms:
        return f"plan {amends.plan} amends until {when(amends.to_ms)}, which is not past yet"
    if any(each.amendment.plan == amends.plan for each in catalog.amendments):
        return f"plan {amends.plan} was published before"
    if has_other_terms(catalog.terms_of(policy.name, policy.version), policy):
        return (
            f"the catalog has version {policy.version} of {policy.name} with other terms; a version "
            "never changes"
        )
    return ""


# --- what an entry changes ------------------------------------------------------------------------


def _without(catalog: Catalog, withdrawn: str, from_ms: int) -> Catalog | Void:
    """Take back what an entry has dated, if nothing of it can be in force yet."""
    if withdrawn not in catalog.digests:
        return Void(f"the catalog has no entry {withdrawn[:12]} to withdraw")
    number = catalog.digests.index(withdrawn) + 1
    dates: list[tuple[str, int]] = [
        (f"version {v} of {name}", max(known.policy.effective_from, catalog.first_assigned(name)))
        for (name, v), known in catalog.versions.items()
        if known.number == number
    ]
    dated: list[tuple[str, tuple[DatedAssignment, ...] | tuple[DatedGrant, ...]]] = [
        ("the default policy", catalog.default),
        *((f"tenant {tenant_id}", of) for tenant_id, of in catalog.assigned.items()),
        *((f"the key {key_id}", grants) for key_id, grants in catalog.keys.items()),
    ]
    dates += [
        (whose, START if each.from_ms is None else each.from_ms)
        for whose, parts in dated
        for each in parts
        if each.number == number
    ]
    dates += dates_of(catalog, number)
    if not dates:
        return Void(f"entry {number} has nothing that waits for a date")
    whose, first_ms = min(dates, key=lambda dated: dated[1])
    if first_ms < from_ms:
        return Void(
            f"entry {number} has {whose} from {when(first_ms)}, {changes_the_past(from_ms)}"
        )
    left = msgspec.structs.replace(
        catalog,
        versions={at: v for at, v in catalog.versions.items() if v.number != number},
        default=tuple(each for each in catalog.default if each.number != number),
        assigned=without(catalog.assigned, number),
        keys=without(catalog.keys, number),
        **accounts_without(catalog, number),
    )
    gone = {known.policy.name for known in catalog.versions.values()} - {
        known.policy.name for known in left.versions.values()
    }
    for name in sorted(gone):
        if left.first_assigned(name) < NEVER:
            return Void(f"a later entry assigns {name}, which entry {number} brought")
    if name := orphan_of(catalog, left):
        return Void(f"a later entry assigns contract {name}, which entry {number} brought")
    return left


def _with_entry(catalog: Catalog, entry: Entry, digest: str) -> Catalog | Void:
    number = catalog.number + 1
    assigned, customers = catalog.assigned, catalog.customers
    after = msgspec.structs.replace(
        catalog,
        digests=(*catalog.digests, digest),
        lead_ms=catalog.lead_ms if catalog.number else entry.lead_ms,
        is_begun=catalog.is_begun or not entry.goes_on,
        versions=merged(
            catalog.versions,
            {(p.name, p.version): DatedVersion(p, number) for p in entry.policies},
        ),
        default=with_added(catalog.default, entry.default, number),
        assigned=merged(
            assigned,
            {
                tenant_id: with_added(assigned.get(tenant_id, ()), given.assigned, number)
                for tenant_id, given in entry.tenants.items()
                if given.assigned
            },
        ),
        customers=merged(
            customers,
            {t: given.customer for t, given in entry.tenants.items() if given.customer is not None},
        ),
        meters=merged(catalog.meters, entry.meters),
        keys=merged(
            catalog.keys,
            {
                key_id: in_order(
                    (
                        *catalog.keys.get(key_id, ()),
                        DatedGrant(grant.tenants, grant.from_ms, number),
                    )
                )
                for key_id, grant in entry.keys.items()
            },
        ),
        **accounts_after(catalog, entry, number),
        amendments=catalog.amendments
        if entry.amends is None
        else (*catalog.amendments, DatedAmendment(entry.amends, number, entry.who, entry.why)),
    )
    if not after.default or after.default[0].from_ms is not None:
        return Void("it leaves tenants without a policy: a beginning assigns the default policy")
    return after
