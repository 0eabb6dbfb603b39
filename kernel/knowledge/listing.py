"""What the sources of a job list, read ahead a little and handed out in blocks. Never more in memory than that."""

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from hashlib import blake2b

from kernel.knowledge.contract import Found, SourceError, document_id
from kernel.knowledge.work import Block, Listed

FLUSH_S = 0.5
"""Documents do not wait longer than this for others to be handed out with."""
BLOCK_BYTES = 32_000_000
GUESSED_BYTES = 100_000
"""What a document counts whose size is not known."""

Walk = Callable[[int], AsyncIterator[Found]]
"""The documents of the source of that number."""


class Listing:
    """problems: what went wrong, by the number of the source. count: documents found so far. ended: that is all."""

    def __init__(self, walk: Walk, sources: int, ahead: int):
        self._walk, self._sources, self._ahead = walk, sources, ahead
        self._waiting: deque[Listed] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self.problems: dict[int, str] = {}
        self.count = 0
        self.ended = False

    async def take(self, most: int) -> list[Listed]:
        """The next ones; none at the end. Raises what a source raised that is no SourceError."""
        loop, most = asyncio.get_running_loop(), min(most, self._ahead)
        self._pump = self._pump or asyncio.create_task(self._read())
        deadline: float | None = None
        while len(self._waiting) < most and not self.ended:
            if self._waiting and deadline is None:
                deadline = loop.time() + FLUSH_S
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                break
        if self.ended and not self._waiting:
            await self._pump
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._room.set()
        return taken

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _read(self) -> None:
        try:
            for source in range(self._sources):
                try:
                    async for found in self._walk(source):
                        await self._add(Listed(source, found))
                except SourceError as error:
                    self.problems[source] = str(error)
        finally:
            self.ended = True
            self._news.set()

    async def _add(self, listed: Listed) -> None:
        while len(self._waiting) >= self._ahead:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(listed)
        self.count += 1
        self._news.set()


def in_blocks(listed: Iterable[Listed], size: int, first: int) -> list[Block]:
    """Blocks of up to `size` documents and some megabytes, numbered from `first`."""
    blocks: list[Block] = []
    some: list[Listed] = []
    weight = 0
    for one in listed:
        if some and (len(some) >= size or weight + weight_of(one) > BLOCK_BYTES):
            blocks.append(Block(first + len(blocks), some))
            some, weight = [], 0
        some.append(one)
        weight += weight_of(one)
    return [*blocks, Block(first + len(blocks), some)] if some else blocks


def weight_of(listed: Listed) -> int:
    return GUESSED_BYTES if listed.found.size is None else listed.found.size


class Seen:
    """Which documents were listed, in eight bytes each: two of them are taken for one less than once in 10^7 jobs of a
    million documents."""

    def __init__(self) -> None:
        self._marks = array("Q")

    def add(self, collection_id: str, listed: Sequence[Listed]) -> None:
        self._marks.extend(_mark(document_id(collection_id, one.found.location)) for one in listed)

    def close(self) -> Callable[[str], bool]:
        """Whether a document is among them."""
        from numpy import frombuffer, searchsorted, sort, uint64

        marks = sort(frombuffer(self._marks, dtype=uint64)) if self._marks else None

        def contains(document: str) -> bool:
            if marks is None:
                return False
            mark = _mark(document)
            at = int(searchsorted(marks, uint64(mark)))
            return at < len(marks) and int(marks[at]) == mark

        return contains


def _mark(document: str) -> int:
    return int.from_bytes(blake2b(document.encode(), digest_size=8).digest(), "big")
