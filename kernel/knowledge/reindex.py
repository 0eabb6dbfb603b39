"""Orders for a re-index: a job that makes the vectors of a collection anew, by another model, in other chunks, or for
another metric, while the old ones stay in use until it is done. `kernel.knowledge.remaking` performs it."""

from collections.abc import Callable
from dataclasses import dataclass

from configs.settings import Ingestion as Settings
from kernel.clock import Clock
from kernel.errors import Conflict, NotFound
from kernel.ids import new_id
from kernel.knowledge.record import CollectionRecord, Item, Making
from kernel.knowledge.spec import MOST_ACTIVE, Reindex, Spec
from kernel.storage.chunks import place
from kernel.storage.jobs import NewJob
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.reindex import ReindexStore, Target, under_way
from kernel.storage.room import Room
from kernel.storage.vectors import VectorStore

MADE_WITHIN_MS = 600_000
"""Vectors that no record has in use by then are dropped."""


@dataclass(frozen=True, slots=True)
class Places:
    """Makes vectors for collections. dimension: of those of a model."""

    store: KnowledgeStore
    vectors: VectorStore
    dimension: Callable[[str], int]
    clock: Clock

    async def make(self, ws: str, collection_id: str, number: int, making: Making) -> str:
        """Their name. They are empty, and dropped again unless the collection comes to have them in use."""
        name = place(collection_id, number)
        await self.store.intend(ws, name, self.clock.now_ms() + MADE_WITHIN_MS)
        await self.vectors.create(name, self.dimension(making.embedding_model), making.metric)
        return name


@dataclass(frozen=True, slots=True)
class Reindexes:
    store: ReindexStore
    places: Places
    room: Room
    settings: Settings

    async def order(
        self,
        ws: str,
        record: CollectionRecord,
        item: Item,
        *,
        key_id: str = "",
        retry_of: str = "",
        idempotency_record: str = "",
    ) -> str | None:
        """Accepts a job that makes of the collection what the item says; its name and description change at once.

        Returns the job's id, None when the collection is not as it was read. Raises NotFound, Conflict (name, or one is
        under way already), RateLimitError, Unavailable.
        """
        if record.stored.reindex:
            raise under_way(record.stored.reindex)
        self.room.check()
        collections, now = self.places.store, self.places.clock.now_ms()
        number = await collections.number(ws, record.id)
        target = Target(
            item.making.encode(), number, await self.places.make(ws, record.id, number, item.making)
        )
        spec = Spec(sources=[], count=0, reindex=Reindex(making=item.making, number=number))
        is_small = record.stored.documents <= self.settings.inline_documents
        new = NewJob(
            *(ws, new_id("job"), record.id, spec.encode()),
            "small" if is_small else "large",
            key_id,
            now,
            MOST_ACTIVE,
            *(retry_of, idempotency_record),
        )
        stays = item.remade(record.item.making, item.updated_at)
        names = (record.item.name, item.name)
        accepted = await self.store.create(new, record.stored, names, stays.encode(), target)
        return new.job_id if accepted else None

    async def again(
        self, ws: str, collection_id: str, making: Making, key_id: str, retry_of: str, idempotency_record: str
    ) -> str:
        """The same once more. Raises what `order` raises, Conflict also when the collection is made this way by now."""
        while True:
            stored = await self.places.store.collection(ws, collection_id)
            if stored is None:
                raise NotFound("Collection not found")
            record = CollectionRecord.of(stored)
            if record.item.making == making:
                raise Conflict("The collection is made this way already: there is nothing to try again")
            item = record.item.remade(making, self.places.clock.now_ms())
            who = {"key_id": key_id, "retry_of": retry_of, "idempotency_record": idempotency_record}
            if job_id := await self.order(ws, record, item, **who):
                return job_id
