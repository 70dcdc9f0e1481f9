"""A ledger is billed by one catalog: the same on SQLite and PostgreSQL."""

import msgspec
import pytest

from pipeline.catalog.value import Catalog
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, catalog_head
from pipeline.sink.following import BillingCatalog
from tests.support.tenants import tenants_with


class _Topic:
    def __init__(self, *digests: str) -> None:
        catalog = tenants_with({"acme": "cus_1"}).catalog
        self.catalog = msgspec.structs.replace(catalog, digests=digests)

    def refresh(self) -> Catalog:
        return self.catalog


def test_a_ledger_is_billed_by_no_catalog_without_the_entry_that_it_was_billed_by(
    ledger: Ledger,
) -> None:
    BillingCatalog(_Topic("a", "b"), "").keep(ledger)

    for digests in (("a",), ("a", "x"), ("x", "y", "z")):
        with pytest.raises(ConfigurationError, match=r"was billed by entry 2 \(b\)") as refused:
            BillingCatalog(_Topic(*digests), "").keep(ledger)
        assert "resmeter catalog restore FILE" in str(refused.value)
    BillingCatalog(_Topic("a", "b", "c"), "").keep(ledger)
    assert catalog_head.head(ledger) == (3, "c")


def test_a_sink_that_is_behind_another_one_reads_the_catalog_again(ledger: Ledger) -> None:
    topic = _Topic("a")
    behind = BillingCatalog(topic, "")
    BillingCatalog(_Topic("a", "b"), "").keep(ledger)
    topic.catalog = _Topic("a", "b", "c").catalog

    behind.keep(ledger)

    assert behind.tenants.catalog.number == 3
    assert catalog_head.head(ledger) == (3, "c")


def test_a_ledger_takes_any_catalog_after_it_has_forgotten_the_one_before(ledger: Ledger) -> None:
    BillingCatalog(_Topic("a", "b"), "").keep(ledger)

    catalog_head.forget(ledger)

    BillingCatalog(_Topic("x"), "").keep(ledger)
    assert catalog_head.head(ledger) == (1, "x")


def test_only_one_of_two_sinks_remembers_an_entry_first(ledger: Ledger) -> None:
    assert catalog_head.remember(ledger, (0, ""), (1, "a"))
    assert not catalog_head.remember(ledger, (0, ""), (1, "b"))
    assert catalog_head.remember(ledger, (1, "a"), (2, "b"))
    assert not catalog_head.remember(ledger, (1, "a"), (3, "c"))
    assert catalog_head.head(ledger) == (2, "b")
