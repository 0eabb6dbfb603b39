"""What `list` methods give. Written by hand, as its twin in `_async`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from codexos._call import value_of
from codexos._listing import Listing, PageOf, T

if TYPE_CHECKING:
    from codexos._sync.transport import Transport


class Page(PageOf[T]):
    """Iterating gives the items of this page and of all after it."""

    def __init__(self, transport: Transport, listing: Listing[T], raw: Any):
        super().__init__(listing, raw)
        self._transport = transport

    def next_page(self) -> Page[T] | None:
        """None after the last."""
        following = self._next()
        return None if following is None else listed(self._transport, following)

    def __iter__(self) -> Iterator[T]:
        page: Page[T] | None = self
        while page is not None:
            yield from page.items
            page = page.next_page()


def listed(transport: Transport, listing: Listing[T]) -> Page[T]:
    response = transport.send(listing.call)
    return Page(transport, listing, value_of(response))
