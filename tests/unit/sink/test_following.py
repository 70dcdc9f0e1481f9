"""A sink bills by the newest catalog, and keeps the one that it knows while it cannot read."""

import pytest

from pipeline.catalog.value import Catalog
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.sink.following import BillingCatalog
from tests.support.tenants import tenants_with


class Topic:
    """A topic whose catalog a test changes."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.is_away = False
        self.cut = 0

    def refresh(self) -> Catalog:
        if self.is_away:
            raise UnavailableError("no broker")
        return self.catalog


@pytest.fixture
def topic() -> Topic:
    return Topic(tenants_with({}).catalog)


async def test_a_customer_is_billed_after_the_next_reading(topic: Topic) -> None:
    times = [0.0]
    billing = BillingCatalog(topic, "none", lambda: times[-1])
    with_acme = tenants_with({"acme": "cus_1"}, meters={"resolution": "m"}).catalog
    topic.catalog = Catalog(
        **{name: getattr(with_acme, name) for name in Catalog.__struct_fields__}
        | {"digests": ("a", "b")}
    )

    await billing.refresh()
    assert billing.tenants.customer_for("acme", 0) is None
    times.append(11.0)
    await billing.refresh()

    assert billing.tenants.customer_for("acme", 0) == "cus_1"
    assert billing.tenants.event_name_for("resolution") == "m"
    assert billing.age_seconds == 0


async def test_while_the_topic_cannot_be_read_the_known_catalog_stays_and_its_age_rises(
    topic: Topic,
) -> None:
    times = [0.0]
    billing = BillingCatalog(topic, "none", lambda: times[-1])
    known = billing.tenants
    topic.is_away = True

    times.append(60.0)
    await billing.refresh()

    assert billing.tenants is known
    assert billing.age_seconds == 60


def test_a_topic_without_a_catalog_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="run topics create"):
        BillingCatalog(Topic(Catalog()), "run topics create")
