"""Create and list customers. Pure."""

from collections.abc import Callable
from typing import Any

from pipeline.dev.emulator.params import Params, mapping, page
from pipeline.dev.emulator.response import Response, not_found


class Customers:
    """Customers by id, kept until the process ends."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._by_id: dict[str, dict[str, Any]] = {}

    def __contains__(self, customer_id: str) -> bool:
        return customer_id in self._by_id and "deleted" not in self._by_id[customer_id]

    def create(self, params: Params, now: float, customer_id: str | None = None) -> Response:
        """Create a customer, with the given id or a new one."""
        created_id = customer_id or self._new_id("cus")
        customer = {
            "id": created_id,
            "object": "customer",
            "created": int(now),
            "name": params.get("name"),
            "email": params.get("email"),
            "livemode": False,
            "metadata": dict(mapping(params, "metadata")),
        }
        self._by_id[created_id] = customer
        return Response(200, customer)

    def delete(self, customer_id: str) -> Response:
        """Delete a customer; meter events for it are taken and not counted."""
        self.retrieve(customer_id)
        self._by_id[customer_id] = {"id": customer_id, "object": "customer", "deleted": True}
        return Response(200, self._by_id[customer_id])

    def retrieve(self, customer_id: str) -> Response:
        if customer_id not in self._by_id:
            raise not_found("customer", customer_id)
        return Response(200, self._by_id[customer_id])

    def list(self, params: Params) -> Response:
        """Return a page of all customers, newest first."""
        return Response(200, page([*reversed(self._by_id.values())], params, "/v1/customers"))
