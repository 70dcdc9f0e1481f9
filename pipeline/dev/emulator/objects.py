"""Keep the objects of one kind, and return them in pages. Pure."""

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.dev.emulator.params import Params, whole
from pipeline.dev.emulator.response import StripeError, not_found

Object = dict[str, Any]
PAGE = ("limit", "starting_after", "ending_before")  # the parameters of every list
PAGE_SIZE = 10
PAGE_SIZE_MAX = 100


class Objects:
    """Objects of one kind by id, in the order of their creation."""

    def __init__(self, kind: str, url: str) -> None:
        self._kind = kind
        self._url = url
        self._by_id: dict[str, Object] = {}

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._by_id

    def __iter__(self) -> Iterator[Object]:
        return iter(self._by_id.values())

    def put(self, created: Object) -> Object:
        """Keep an object; one with the same id is replaced."""
        self._by_id[created["id"]] = created
        return created

    def get(self, object_id: object) -> Object:
        """Return an object.

        Raises:
            StripeError: there is no object with this id.
        """
        found = self._by_id.get(str(object_id))
        if found is None:
            raise not_found(self._kind, str(object_id))
        return found

    def remove(self, object_id: str) -> None:
        del self._by_id[object_id]

    def page(self, params: Params, is_wanted: Callable[[Object], bool] = bool) -> Object:
        """Return a page of the objects that are wanted, newest first."""
        return page(
            [each for each in reversed(self._by_id.values()) if is_wanted(each)], params, self._url
        )


def page(objects: list[Object], params: Params, url: str) -> Object:
    """Return the page of a list that the parameters of `PAGE` select.

    https://docs.stripe.com/api/pagination

    Raises:
        StripeError: one of these parameters is invalid.
    """
    limit = whole(params, "limit") if "limit" in params else PAGE_SIZE
    if not 1 <= limit <= PAGE_SIZE_MAX:
        raise StripeError(400, "Invalid limit: it must be 1 to 100")
    place = {each["id"]: number for number, each in enumerate(objects)}
    start, end = 0, len(objects)
    for name in ("starting_after", "ending_before"):
        if name in params and params[name] not in place:
            raise StripeError(400, f"No such object: '{params[name]}'")
    if "starting_after" in params:
        start = place[params["starting_after"]] + 1
        more = start + limit < end
        chosen = objects[start : start + limit]
    elif "ending_before" in params:
        end = place[params["ending_before"]]
        more = end > limit
        chosen = objects[max(0, end - limit) : end]
    else:
        more = limit < end
        chosen = objects[:limit]
    return {"object": "list", "url": url, "data": chosen, "has_more": more}


def matches(params: Params, **names: str) -> Callable[[Object], bool]:
    """Return a filter: each parameter that is given equals the member of the object with its name."""

    def is_wanted(found: Object) -> bool:
        return all(
            params.get(parameter) is None or found.get(member) == params[parameter]
            for parameter, member in names.items()
        )

    return is_wanted
