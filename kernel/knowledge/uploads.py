"""Files that callers send to be taken in later. They live a week.

Stored: `upload` (hash): name, size, version (of its content), media_type, collection; the file in the object store.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from kernel.clock import Clock
from kernel.errors import NotFound
from kernel.ids import first_id_at, is_id
from kernel.knowledge.sources import Upload
from kernel.knowledge.spec import folder
from kernel.storage import keys
from kernel.storage.idempotency import superseded
from kernel.storage.objects import ObjectStore
from kernel.storage.room import Room
from kernel.storage.store import Store

KEEP_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class UploadRecord:
    id: str
    name: str
    size: int

    def shown(self) -> dict[str, str | int]:
        return {"id": self.id, "name": self.name, "size": self.size}


@dataclass(frozen=True, slots=True)
class Uploads:
    store: Store
    objects: ObjectStore
    clock: Clock
    room: Room

    async def write(
        self, workspace_id: str, collection_id: str, upload_id: str, parts: AsyncIterator[bytes]
    ) -> None:
        """The file, as it arrives. Raises Unavailable, and whatever `parts` raises: then nothing is left of it."""
        self.room.check()
        place = folder(workspace_id, collection_id, "uploads")
        await self._sweep(place)
        await self.objects.put_stream(f"{place}/{upload_id}", parts)

    async def discard(self, workspace_id: str, collection_id: str, upload_id: str) -> None:
        await self.objects.delete(f"{folder(workspace_id, collection_id, 'uploads')}/{upload_id}")

    async def record(
        self,
        workspace_id: str,
        collection_id: str,
        upload: UploadRecord,
        version: str,
        media_type: str,
        idempotency_record: str,
    ) -> None:
        """Makes a written file known. Raises NotFound when the collection is gone meanwhile, Conflict."""
        args = (workspace_id, upload.id, collection_id, upload.name, upload.size, version, media_type)
        state = await self.store.run("upload_create", workspace_id, *args, KEEP_MS, idempotency_record)
        if state == b"gone":
            raise NotFound("Collection not found")
        if state == b"superseded":
            raise superseded()

    async def get(self, workspace_id: str, upload_id: str) -> UploadRecord:
        """Raises NotFound."""
        found = await self._read(workspace_id, upload_id)
        return UploadRecord(upload_id, found["name"], int(found["size"]))

    async def open(self, workspace_id: str, upload_id: str) -> Upload:
        """As sources read it. Raises NotFound."""
        found = await self._read(workspace_id, upload_id)
        path = f"{folder(workspace_id, found['collection'], 'uploads')}/{upload_id}"
        return Upload(
            name=found["name"],
            size=int(found["size"]),
            version=found["version"],
            read=partial(self.objects.get, path),
            media_type=found["media_type"] or None,
        )

    async def _read(self, workspace_id: str, upload_id: str) -> dict[str, str]:
        flat = []
        if is_id("upload", upload_id):
            flat = await self.store.call("HGETALL", keys.key("upload", workspace_id, id=upload_id))
        if not flat:
            raise NotFound("Upload not found")
        return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}

    async def _sweep(self, place: str) -> None:
        """Deletes the files of a collection that have had their time; their names tell when they came."""
        oldest = first_id_at("upload", self.clock.now_ms() - KEEP_MS)
        old = [name for name in await self.objects.names(place) if name.strip(".") < oldest]
        await asyncio.gather(*(self.objects.delete(f"{place}/{name}") for name in old))
