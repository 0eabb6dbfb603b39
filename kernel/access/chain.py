"""The hash chain of the audit log: who changes, removes or slips in an entry afterwards breaks it.

Entries are numbered in the step that writes them. Within a second the supervisor seals each: a MAC over the entry and
the MAC before it, under a key that is not in the store. The last number and MAC of each workspace also stand in a file,
so that a log cut short at its end is noticed too.
"""

import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import structlog

from kernel.errors import NotFound
from kernel.storage.audit import AuditStore, Link
from kernel.storage.objects import ObjectStore

log = structlog.get_logger()

AT_ONCE = 500
FOLDER = "audit"
SEALED_NONE = (0, b"")


class Forged(Exception):
    """What is in the store is not what was sealed."""


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
            try:
                while await self._seal(workspace_id):
                    pass
            except Forged as problem:
                log.error("audit log is not what was sealed", workspace_id=workspace_id, problem=str(problem))

    async def verify(self, workspace_id: str) -> Verdict:
        """Walks the whole log. Raises Unavailable."""
        head, sealed, last = await self._head(workspace_id), 0, self._start(workspace_id)
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

    async def known(self) -> list[str]:
        """Workspaces whose logs were ever sealed, by the files: also those that the store knows nothing of any more."""
        return sorted(await self._objects.names(FOLDER))

    async def _counted(self, workspace_id: str, sealed: int, head: int) -> Verdict:
        entries, numbered = await self._store.counts(workspace_id)
        broken = ""
        if sealed < head:
            broken = f"{head} entries had been sealed, and only {sealed} are left"
        elif entries != numbered:
            broken = f"there are {entries} entries, and {numbered} were written"
        return Verdict(workspace_id, sealed, numbered - sealed, broken)

    async def _seal(self, workspace_id: str) -> bool:
        """The next entries. False when there are none left, or another process was faster.

        Raises Forged when the chain does not hold what was put down beside: that is never put right by sealing on.
        """
        number, last = await self._store.sealed(workspace_id)
        await self._check_head(workspace_id, number)
        links = await self._store.links(workspace_id, number, AT_ONCE)
        macs: list[bytes] = []
        for link in links:
            last = self._mac(last or self._start(workspace_id), link.entry or b"")
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
            return SEALED_NONE
        return head["sealed"], bytes.fromhex(head["mac"])

    async def _check_head(self, workspace_id: str, number: int) -> None:
        count, mac = await self._head(workspace_id)
        if number < count:
            raise Forged(f"{count} entries had been sealed, and only {number} are left")
        if count and not hmac.compare_digest(mac, await self._store.mac(workspace_id, count - 1)):
            raise Forged(f"entry {count} has another MAC than the one that was put down beside")

    def _start(self, workspace_id: str) -> bytes:
        """What stands before the first MAC: one workspace's log is no other's."""
        return hmac.digest(self._key, workspace_id.encode(), "sha256")

    def _mac(self, before: bytes, entry: bytes) -> bytes:
        return hmac.digest(self._key, before + entry, "sha256")


def _path(workspace_id: str) -> str:
    return f"{FOLDER}/{workspace_id}"
