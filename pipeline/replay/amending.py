"""Enter in the catalog what a rebill plan decides a past time by.

From then on, audits and plans go by it, whatever happens to the plan's file. Workers do not: what
they decided stays in the ledger, and the plan's corrections beside it.
"""

import msgspec

from pipeline.catalog.entry import AMENDING_FORM, Amendment, Entry, amending
from pipeline.catalog.log import Void, accept
from pipeline.catalog.topic import publish, whole_catalog
from pipeline.catalog.value import Catalog, when
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.replay.planfile import Header


def check_amendment(catalog: Catalog, amendment: Amendment, now_ms: int) -> None:
    """Check that the catalog would accept an amendment.

    Raises:
        ConfigurationError: it would not, and why.
    """
    if amendment.to_ms > now_ms:
        raise ConfigurationError(
            [
                (
                    f"--to {when(amendment.to_ms)} is not past yet. Publish the right version for the "
                    "time from now on (`resmeter catalog apply`), and plan up to the moment at which it "
                    "came into force"
                )
            ]
        )
    entry = Entry(parent=catalog.digest, who="", why="", form=AMENDING_FORM, amends=amendment)
    accepted = accept(catalog, entry, now_ms, "")
    if isinstance(accepted, Void):
        raise ConfigurationError([f"--policy: {accepted.reason}"])


def enter_amendment(settings: Settings, header: Header, *, is_outdated_allowed: bool) -> None:
    """Enter in the catalog what a plan amends, unless it has been entered.

    Args:
        settings: broker and topics.
        header: of the plan.
        is_outdated_allowed: the plan has nothing to write any more.

    Raises:
        ConfigurationError: the catalog is not the one that the plan was made under, or another plan
            has amended it since.
        UnavailableError: somebody else published at the same moment, or no broker responds.
    """
    if header.catalog is msgspec.UNSET:
        return
    catalog = whole_catalog(settings)
    if not catalog.has(header.catalog):
        raise ConfigurationError(
            [f"plan {header.id} was made under another catalog: make a new plan"]
        )
    later = catalog.amendments_after(header.catalog[0], header.tenant, but=header.id)
    if later and not is_outdated_allowed:
        raise ConfigurationError(
            [
                (
                    f"plan {later[0].amendment.plan} was applied after plan {header.id} was made "
                    f"(entry {later[0].number} of the catalog): make a new plan"
                )
            ]
        )
    amendment = header.amendment
    is_entered = any(each.amendment.plan == header.id for each in catalog.amendments)
    if amendment is None or header.policy is msgspec.UNSET or is_entered:
        return
    value = amending(catalog.digest, amendment, header.policy.who, header.policy.reason)
    (verdict,) = publish(settings, [value])
    if verdict.reason:
        raise UnavailableError(
            f"the catalog did not accept what plan {header.id} amends: {verdict.reason}. Apply the "
            "plan again"
        )
