"""The ledger remembers under which entry of the catalog it was priced: the same on both databases."""

import pytest

from pipeline.catalog.value import Catalog, Touched
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, priced_under
from tests.support.ledger import T0, record, stored

FIRST = Catalog(digests=("a1",))
SECOND = Catalog(digests=("a1", "a2"))
OTHER = Catalog(digests=("a1", "b2"))


def test_a_ledger_takes_any_catalog_until_it_was_priced_under_one(ledger: Ledger) -> None:
    priced_under.check(ledger, FIRST)

    assert priced_under.head(ledger) == (0, "")


def test_a_ledger_moves_on_with_the_catalog_and_never_back(ledger: Ledger) -> None:
    for catalog in (FIRST, SECOND, SECOND, FIRST):
        priced_under.remember(ledger, catalog)

    assert priced_under.head(ledger) == (2, "a2")


@pytest.mark.parametrize("catalog", [FIRST, OTHER, Catalog()], ids=["older", "other", "none"])
def test_a_catalog_without_the_entry_is_refused_with_what_it_touches(
    ledger: Ledger, catalog: Catalog
) -> None:
    stored(ledger, record("c1"), record("c2"))
    priced_under.remember(ledger, SECOND)

    with pytest.raises(ConfigurationError) as raised:
        priced_under.check(ledger, catalog)

    message = str(raised.value)
    assert "was priced under entry 2 (a2) of the catalog, 2 of its conversations" in message
    assert "resmeter catalog restore FILE" in message


def test_a_ledger_that_forgets_the_catalog_takes_another(ledger: Ledger) -> None:
    priced_under.remember(ledger, SECOND)

    priced_under.forget(ledger)

    priced_under.remember(ledger, OTHER)
    assert priced_under.head(ledger) == (2, "b2")


@pytest.mark.parametrize(
    ("touched", "count"),
    [
        ([Touched()], 3),
        ([Touched(policy="fin-2026", version=1)], 3),
        ([Touched(policy="fin-2026", version=2)], 0),
        ([Touched("acme")], 2),
        ([Touched("bluejay"), Touched("acme")], 3),
        ([Touched("acme", from_ms=T0 + 5)], 1),
        ([], 0),
    ],
)
def test_conversations_that_a_change_of_the_past_would_touch_are_counted_once(
    ledger: Ledger, touched: list[Touched], count: int
) -> None:
    stored(
        ledger,
        record("c1", 1),
        record("c1", 2),
        record("c2", at=T0 + 5),
        record("c1", tenant_id="bluejay"),
    )

    assert priced_under.conversations(ledger, touched) == count
