"""Pages of lists, and how the next one is asked for: by cursor, or by number where a list has no cursors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from codexos._call import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list of the API: `name` is the array in the answer, `read` makes an item of each entry."""

    call: Call
    name: str
    read: Callable[[Any], T]


class PageOf(Generic[T]):
    """One page: `items`, `total` of all pages, and `raw` as it came."""

    def __init__(self, listing: Listing[T], raw: Mapping[str, Any]):
        self._listing = listing
        self.raw = raw
        self.items: list[T] = [listing.read(one) for one in raw[listing.name]]

    @property
    def total(self) -> int:
        return int(self.raw["pagination"]["total"])

    @property
    def has_next_page(self) -> bool:
        return self._next() is not None

    def _next(self) -> Listing[T] | None:
        query = self._listing.call.query
        if (cursor := self.raw.get("next_cursor")) is not None:
            return self._at({**query, "cursor": cursor, "page": None})
        here = self.raw["pagination"]
        if "next_cursor" in self.raw or here["page"] >= here["pages"]:
            return None
        return self._at({**query, "page": here["page"] + 1})

    def _at(self, query: Mapping[str, Any]) -> Listing[T]:
        return replace(self._listing, call=replace(self._listing.call, query=query))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.items)} of {self.total} {self._listing.name})"
