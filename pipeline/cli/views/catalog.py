"""Print a plan for the catalog, what is in force, and the log of its entries."""

from collections.abc import Iterable

import click
from rich.table import Table

from pipeline.catalog.charges import holdings
from pipeline.catalog.declared import CatalogPlan, named_tenants
from pipeline.catalog.entry import Amendment, ContractVersion
from pipeline.catalog.log import Verdict
from pipeline.catalog.value import NEVER, Catalog, when
from pipeline.cli.output import as_written, count_of, print_table, print_text, visible

_ANY = "(all others)"


def print_plan(plan: CatalogPlan, touched: int | None) -> None:
    """Print what would change, what stays although the files lack it, and what is refused.

    `touched`: how many conversations with usage the refused parts would have touched, if known.
    """
    for change in plan.changes:
        print_text(f"+ {change}", "  ")
    for note in plan.notes:
        print_text(f"- {note}", "  ")
    for refused in plan.refused:
        print_text(f"refused: {refused}", "  ", err=True)
    if touched is not None:
        print_text(
            f"{count_of(touched, 'conversation')} in the ledger would have been touched. To put a past "
            "time right: resmeter rebill plan --policy",
            "  ",
            err=True,
        )
    if not (plan.changes or plan.refused):
        click.echo("nothing would change", err=True)


def print_catalog(catalog: Catalog, at_ms: int, tenant_id: str | None) -> None:
    """Print the policies and customers in force at a time, of all tenants or of one."""
    if tenant_id is not None:
        _print_tenant(catalog, at_ms, tenant_id)
        return
    table = Table(box=None, pad_edge=False)
    has_accounts = bool(catalog.accounts or catalog.members)
    accounts = ("account", "contract") if has_accounts else ()
    for name in ("tenant", "policy", "from", *accounts, "customer"):
        table.add_column(name)
    tenants = {*catalog.assigned, *catalog.customers, *catalog.accounts, *catalog.members}
    for name in [_ANY, *sorted(tenants)]:
        policy, since = _in_force(catalog, "" if name == _ANY else name, at_ms)
        account = catalog.account_of(name, at_ms)
        held = [h.version for h in holdings(catalog, account) if h.from_ms <= at_ms < h.to_ms]
        contract = _contract(held[0]) if held else ""
        of_accounts = (account if name != _ANY else "", contract) if has_accounts else ()
        table.add_row(
            as_written(name),
            as_written(policy),
            since,
            *map(as_written, of_accounts),
            as_written(catalog.customers.get(account, "")),
        )
    print_table(table)
    for key_id, grants in sorted(catalog.keys.items()):
        signed = [grant.tenants for grant in grants if (grant.from_ms or 0) <= at_ms]
        if signed and signed[-1] != ():
            named = "all tenants" if signed[-1] is None else ", ".join(signed[-1] or ())
            click.echo(f"the key {visible(key_id)} signs for {visible(named)}")
    click.echo(
        f"at {when(at_ms)}, by entry {catalog.number} ({catalog.digest[:12]})",
        err=True,
    )


def _print_tenant(catalog: Catalog, at_ms: int, tenant_id: str) -> None:
    if not any(
        tenant_id in named for named in (catalog.assigned, catalog.customers, catalog.members)
    ):
        said = f"the catalog does not name tenant {tenant_id}: what all others have holds"
        print_text(said, err=True)
    timeline = catalog.timeline_of(tenant_id)
    current = timeline.at(at_ms)
    for policy, from_ms in timeline.begins():
        mark = "*" if policy is current else " "
        print_text(f"{mark} {policy.name} version {policy.version} from {when(from_ms)}", "  ")
    for amended in catalog.amendments_of(tenant_id):
        print_text(f"  {_amends(amended.amendment)}: {amended.who}, {amended.why}", "  ")
    for each in catalog.members.get(tenant_id, ()):
        mark = "*" if each.name == catalog.account_of(tenant_id, at_ms) else " "
        print_text(f"{mark} in account {each.name} from {when(each.from_ms)}", "  ")
    account = catalog.account_of(tenant_id, at_ms)
    for held in holdings(catalog, account):
        mark = "*" if held.from_ms <= at_ms < held.to_ms else " "
        until = f" to {when(held.to_ms)}" if held.to_ms < NEVER else ""
        print_text(f"{mark} {_contract(held.version)} from {when(held.from_ms)}{until}", "  ")
    customer = catalog.customers.get(account)
    print_text(f"  billed to {customer or 'nobody: its usage is parked'}", "  ")


def _contract(version: ContractVersion) -> str:
    return f"contract {version.name} version {version.version}"


def _amends(amendment: Amendment) -> str:
    policy = amendment.policy
    return (
        f"rebilled under {policy.name} version {policy.version} from {when(amendment.from_ms)} to "
        f"{when(amendment.to_ms)} (plan {amendment.plan})"
    )


def _in_force(catalog: Catalog, tenant_id: str, at_ms: int) -> tuple[str, str]:
    timeline = catalog.timeline_of(tenant_id)
    policy = timeline.at(at_ms)
    since = [from_ms for of, from_ms in timeline.begins() if of is policy and from_ms <= at_ms]
    return f"{policy.name} version {policy.version}", when(since[-1])


def print_log(verdicts: Iterable[Verdict]) -> None:
    """Print a line for each record of the topic, with what it adds or why it is void."""
    for verdict in verdicts:
        name = f"{verdict.number}" if verdict.number else "void"
        entry = verdict.entry
        who = f"{entry.who}: {entry.why}" if entry is not None else ""
        what = verdict.reason or _added(verdict)
        print_text(
            f"{name} {verdict.digest[:12]} {when(verdict.appended_ms)} {who}; {what}",
            "  ",
        )


def _added(verdict: Verdict) -> str:
    entry = verdict.entry
    if entry is None:
        return ""
    if entry.withdraws:
        return f"withdraws {entry.withdraws[:12]}"
    if entry.amends is not None:
        return f"{entry.amends.tenant_id or 'all tenants'} {_amends(entry.amends)}"
    parts = [
        f"{policy.name} version {policy.version} from {when(policy.effective_from)}"
        for policy in entry.policies
    ]
    parts += [f"default policy {a.name} from {when(a.from_ms)}" for a in entry.default]
    if entry.tenants:
        parts.append(named_tenants(sorted(entry.tenants)))
    parts += [
        f"{_contract(each)} from {when(each.terms.effective_from)}" for each in entry.contracts
    ]
    if entry.accounts:
        parts.append(count_of(len(entry.accounts), "account"))
    if entry.members:
        parts.append(f"the accounts of {count_of(len(entry.members), 'tenant')}")
    parts += [f"meter of {outcome}" for outcome in entry.meters]
    parts += [f"key {key_id} from {when(grant.from_ms)}" for key_id, grant in entry.keys.items()]
    return "; ".join(parts)
