"""Create, change and list products. Pure.

https://docs.stripe.com/api/products
"""

from collections.abc import Callable

from pipeline.dev.emulator.objects import PAGE, Object, Objects
from pipeline.dev.emulator.params import Params, check_names, flag, required, with_metadata
from pipeline.dev.emulator.response import StripeError

_TEXTS = {"description", "statement_descriptor", "tax_code", "unit_label", "url"}


class Products:
    """Products by id."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._products = Objects("product", "/v1/products")

    def create(self, params: Params, now: float) -> Object:
        """Create a product, with the given id or a new one.

        Raises:
            StripeError: a parameter is missing or unknown, or there is a product with this id.
        """
        check_names(params, {"id", "name", "active", "metadata", *_TEXTS})
        name = required(params, "name")
        product_id = str(params.get("id") or self._new_id("prod"))
        if product_id in self._products:
            raise StripeError(
                400, f"Product already exists: {product_id}", code="resource_already_exists"
            )
        return self._products.put(
            {
                "id": product_id,
                "object": "product",
                "active": flag(params, "active", default=True),
                "created": int(now),
                "default_price": None,
                "images": [],
                "livemode": False,
                "marketing_features": [],
                "metadata": with_metadata({}, params),
                "name": name,
                "package_dimensions": None,
                "shippable": None,
                "type": "service",
                "updated": int(now),
                **{text: params.get(text) or None for text in sorted(_TEXTS)},
            }
        )

    def update(self, product_id: str, params: Params, now: float) -> Object:
        product = self._products.get(product_id)
        check_names(params, {"name", "active", "metadata", *_TEXTS})
        product["metadata"] = with_metadata(product["metadata"], params)
        product["active"] = flag(params, "active", default=product["active"])
        product |= {text: params[text] or None for text in {"name", *_TEXTS} & set(params)}
        product["updated"] = int(now)
        return product

    def get(self, product_id: object) -> Object:
        return self._products.get(product_id)

    def listing(self, params: Params) -> Object:
        """Return a page of the products; `active` and `ids` filter them."""
        check_names(params, {"active", "ids", *PAGE})
        ids = set(dict(params.get("ids") or {}).values())
        active = flag(params, "active", default=True) if "active" in params else None
        return self._products.page(
            params,
            lambda each: active in {None, each["active"]} and (not ids or each["id"] in ids),
        )
