"""What `list` methods give. Its twin in `_sync` is written by hand: only here the first page must be awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Generic

from codexos._call import value_of
from codexos._listing import Listing, PageOf, T

if TYPE_CHECKING:
    from codexos._async.transport import AsyncTransport


class AsyncPage(PageOf[T]):
    """Iterating gives the items of this page and of all after it."""

    def __init__(self, transport: AsyncTransport, listing: Listing[T], raw: Any):
        super().__init__(listing, raw)
        self._transport = transport

    async def next_page(self) -> AsyncPage[T] | None:
        """None after the last."""
        following = self._next()
        return None if following is None else await AsyncPages(self._transport, following)

    async def __aiter__(self) -> AsyncIterator[T]:
        page: AsyncPage[T] | None = self
        while page is not None:
            for item in page.items:
                yield item
            page = await page.next_page()


class AsyncPages(Generic[T]):
    """A list that was not asked for yet: await it for the first page, or iterate over all items."""

    def __init__(self, transport: AsyncTransport, listing: Listing[T]):
        self._transport, self._listing = transport, listing

    def __await__(self) -> Generator[Any, Any, AsyncPage[T]]:
        return self._first().__await__()

    async def __aiter__(self) -> AsyncIterator[T]:
        async for item in await self:
            yield item

    async def _first(self) -> AsyncPage[T]:
        response = await self._transport.send(self._listing.call)
        return AsyncPage(self._transport, self._listing, value_of(response))


def listed(transport: AsyncTransport, listing: Listing[T]) -> AsyncPages[T]:
    return AsyncPages(transport, listing)
