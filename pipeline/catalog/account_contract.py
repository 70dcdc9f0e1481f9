"""The contract of an account over time, as a bill needs it. Pure.

docs/reference/money.md §1.3 and §2.2: an account may get a contract, another one, or none, at any hour.
Before its first contract and after its last, the prices of its tenants' policies hold.
"""

import msgspec

from pipeline.billing.contract import Contract, Terms
from pipeline.billing.periods import DEFAULT_ANCHOR_MS
from pipeline.catalog.dated import spans
from pipeline.catalog.value import START, Catalog


def contract_of(catalog: Catalog, account: str) -> Contract | None:
    """Return all that an account's contracts say, as one contract; None: it never has one."""
    assigned = catalog.accounts.get(account, ())
    currency = begins_ms = None
    terms: list[Terms] = []
    cuts: list[int] = []
    if assigned and assigned[0].from_ms is not None:
        terms.append(Terms())
    for name, from_ms, to_ms in spans(assigned):
        if from_ms > START:
            cuts.append(from_ms)
        versions = catalog.contract_versions(name)
        if not versions:
            anchor_ms = terms[-1].anchor_ms if terms else DEFAULT_ANCHOR_MS
            terms.append(Terms(effective_from=from_ms, anchor_ms=anchor_ms))
            continue
        currency = currency or versions[0].currency
        begun = [v.terms for v in versions if v.terms.effective_from <= from_ms]
        first = begun[-1] if begun else versions[0].terms
        effective_ms = max(from_ms, first.effective_from) if not begun else from_ms
        terms.append(msgspec.structs.replace(first, effective_from=effective_ms))
        terms += [v.terms for v in versions if effective_ms < v.terms.effective_from < to_ms]
        begins_ms = effective_ms if begins_ms is None else begins_ms
    if currency is None:
        return None
    return Contract(currency, terms, account, begins_ms, cuts)
