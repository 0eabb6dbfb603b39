"""The way of a block of documents into a collection: fetch, parse, chunk, embed, write, and only then show.

Every step can be done again. Chunks are written under ids that follow from document and version; the manifest then
changes for the whole block in one step, and with it the job's counts. So whatever dies, and wherever, the same block
run again comes to the same end.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from kernel.errors import Unavailable
from kernel.knowledge.contract import document_id
from kernel.knowledge.reading import Reader, Ready
from kernel.knowledge.work import Block, DocumentDone, Listed, Order, Tools
from kernel.knowledge.writing import Writer
from kernel.storage.jobs import JobLost, Settled

PARALLEL = 8
"""Documents of a block that are fetched and parsed at once."""
MOST_CLASHES = 5
HELD_EVERY_S = 1.0
"""How often a block under way makes sure that its job goes on."""


async def ingest_batch(tools: Tools, order: Order, block: Block) -> list[DocumentDone]:
    """Takes a block in; each of its documents fails alone.

    Raises JobLost, VectorsMoved, and a retryable CodexError when it is to be run again.
    """
    batch = _Batch(tools, order, block)
    working = asyncio.create_task(batch.run())
    try:
        await tools.manifest.check(order.lease)
        while not (await asyncio.wait({working}, timeout=HELD_EVERY_S))[0]:
            await tools.manifest.check(order.lease)
        return working.result()
    except (JobLost, asyncio.CancelledError):
        await _stop(working)
        await batch.withdraw()
        raise
    finally:
        await _stop(working)


async def _stop(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Batch:
    """One run of a block."""

    def __init__(self, tools: Tools, order: Order, block: Block):
        self._tools, self._order, self._block = tools, order, block
        self._reader, self._writer = Reader(tools, order), Writer(tools, order)

    async def run(self) -> list[DocumentDone]:
        every: dict[str, Listed] = {}
        for one in self._block.listed:
            every.setdefault(self._id(one), one)
        todo: Mapping[str, Listed] = every
        settled: dict[str, Settled] = {}
        for _ in range(MOST_CLASHES):
            settled |= await self._settle(todo)
            if not (clashes := await self._commit(settled)):
                if any(one.outcome == "done" and one.before for one in settled.values()):
                    await self._writer.clear()
                return [_shown(one) for one in settled.values()]
            todo = {document: every[document] for document in clashes}
        raise Unavailable("Its documents change faster than they can be written", {"reason": "clashes"})

    async def withdraw(self) -> None:
        """Takes back what was written, once its job has ended: nobody will ever show it."""
        try:
            return await self._tools.manifest.check(self._order.lease)
        except JobLost as lost:
            if not lost.ended:
                return
        written = self._writer.written
        entries = await self._entries(list(written))
        live = {document: orjson.loads(entry)["version"] for document, entry in entries.items()}
        await self._writer.delete([pair for pair in written.items() if live.get(pair[0]) != pair[1]])

    async def _settle(self, todo: Mapping[str, Listed]) -> dict[str, Settled]:
        known = await self._entries(list(todo))
        settled: dict[str, Settled] = {}
        group: list[Ready] = []
        async with aclosing(self._prepared(todo, known)) as prepared:
            async for one in prepared:
                if isinstance(one, Settled):
                    settled[one.document_id] = one
                    continue
                group.append(one)
                if sum(len(ready.chunks) for ready in group) >= self._writer.group:
                    settled |= await self._writer.write(group)
                    group = []
        return settled | (await self._writer.write(group) if group else {})

    async def _prepared(
        self, todo: Mapping[str, Listed], known: Mapping[str, bytes]
    ) -> AsyncGenerator[Ready | Settled]:
        """As they come, a few under way at once."""
        waiting = iter(todo.items())
        under_way: set[asyncio.Task[Ready | Settled]] = set()
        try:
            while True:
                while len(under_way) < PARALLEL and (item := next(waiting, None)):
                    under_way.add(asyncio.create_task(self._reader.prepare(*item, known.get(item[0]))))
                if not under_way:
                    return
                ended, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    under_way.remove(task)
                    yield task.result()
        finally:
            await asyncio.gather(*map(_stop, under_way))

    async def _entries(self, documents: list[str]) -> dict[str, bytes]:
        lease = self._order.lease
        return await self._tools.manifest.entries(lease.workspace_id, lease.collection_id, documents)

    async def _commit(self, settled: Mapping[str, Settled]) -> list[str]:
        """A document that stands in the block twice counts twice, the second time as skipped."""
        rows, seen, now = [], set(), self._tools.clock.now_ms()
        for listed in self._block.listed:
            one = settled[self._id(listed)]
            rows.append(Settled(one.document_id, "skipped", one.note) if one.document_id in seen else one)
            seen.add(one.document_id)
        live = self._order.place.live
        embedded = self._writer.embedded
        return await self._tools.manifest.commit(
            self._order.lease, self._block.number, now, live, rows, embedded
        )

    def _id(self, listed: Listed) -> str:
        return document_id(self._order.lease.collection_id, listed.found.location)


def _shown(one: Settled) -> DocumentDone:
    said = orjson.loads(one.note)
    outcome = "done" if one.outcome == "kept" else one.outcome
    return DocumentDone(one.document_id, said["location"], outcome, one.chunks, one.size, said.get("reason"))
