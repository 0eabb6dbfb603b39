"""The hash chain of the audit log: who changes, removes or slips in an entry afterwards breaks it.

Entries are numbered in the step that writes them. Within a second the supervisor seals each: a MAC over the entry and
the MAC before it, under a key that is not in the store. The last number and MAC of each workspace also stand in a file,
so that a log cut short at its end is noticed too.
"""

import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson

from kernel.errors import NotFound
from kernel.storage.audit import AuditStore, Link
from kernel.storage.objects import ObjectStore

AT_ONCE = 500
MAC_BYTES = 32
START = bytes(MAC_BYTES)
"""What stands before the first MAC."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """sealed: entries that are in order. waiting: those the supervisor has not sealed yet. broken: what is wrong."""

    workspace_id: str
    sealed: int
    waiting: int
    broken: str = ""

    @property
    def whole(self) -> bool:
        return not self.broken


class Chain:
    """pepper: from `secret.read_pepper`; the chain has a key of its own, made from it."""

    def __init__(self, store: AuditStore, objects: ObjectStore, pepper: bytes):
        self._store, self._objects = store, objects
        self._key = hmac.digest(pepper, b"audit chain", "sha256")

    async def round(self) -> None:
        """Seals what is not sealed yet. Raises Unavailable."""
        for workspace_id in await self._store.unsealed():
            while await self._seal(workspace_id):
                pass

    async def verify(self, workspace_id: str) -> Verdict:
        """Walks the whole log. Raises Unavailable."""
        head, sealed, last = await self._head(workspace_id), 0, START
        async for link in self._links(workspace_id):
            if link.mac is None:
                break
            if link.entry is None:
                return Verdict(workspace_id, sealed, 0, f"entry {link.number + 1} ({link.id}) is missing")
            last = self._mac(last, link.entry)
            if not hmac.compare_digest(last, link.mac):
                return Verdict(
                    workspace_id, sealed, 0, f"entry {link.number + 1} ({link.id}) is not what was sealed"
                )
            sealed += 1
            if sealed == head[0] and not hmac.compare_digest(last, head[1]):
                return Verdict(
                    workspace_id, sealed, 0, f"entry {sealed} is not the one whose MAC was put down beside"
                )
        return await self._counted(workspace_id, sealed, head[0])

    async def _counted(self, workspace_id: str, sealed: int, head: int) -> Verdict:
        entries, numbered = await self._store.counts(workspace_id)
        broken = ""
        if sealed < head:
            broken = f"{head} entries had been sealed, and only {sealed} are left"
        elif entries != numbered:
            broken = f"there are {entries} entries, and {numbered} were written"
        return Verdict(workspace_id, sealed, numbered - sealed, broken)

    async def _seal(self, workspace_id: str) -> bool:
        """The next entries. False when there are none left, or another process was faster."""
        number, last = await self._store.sealed(workspace_id)
        links = await self._store.links(workspace_id, number, AT_ONCE)
        macs: list[bytes] = []
        for link in links:
            last = self._mac(last or START, link.entry or b"")
            macs.append(last)
        if not macs or not await self._store.seal(workspace_id, number, macs):
            return False
        head = {"sealed": number + len(macs), "mac": last.hex()}
        await self._objects.put(_path(workspace_id), orjson.dumps(head))
        return len(links) == AT_ONCE

    async def _links(self, workspace_id: str) -> AsyncIterator[Link]:
        number = 0
        while links := await self._store.links(workspace_id, number, AT_ONCE):
            for link in links:
                yield link
            number += len(links)

    async def _head(self, workspace_id: str) -> tuple[int, bytes]:
        try:
            head = orjson.loads(await self._objects.get(_path(workspace_id)))
        except NotFound:
            return 0, START
        return head["sealed"], bytes.fromhex(head["mac"])

    def _mac(self, before: bytes, entry: bytes) -> bytes:
        return hmac.digest(self._key, before + entry, "sha256")


def _path(workspace_id: str) -> str:
    return f"audit/{workspace_id}"
