"""Orders for a re-index: a job that makes the vectors of a collection anew, by another model, in other chunks, or for
another metric, while the old ones stay in use until it is done. `kernel.knowledge.remaking` performs it."""

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


@dataclass(frozen=True, slots=True)
class Asker:
    """Who orders a job. idempotency_record: '' for none. mb_per_day: what the workspace may take in, None any."""

    workspace_id: str
    key_id: str
    idempotency_record: str = ""
    mb_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Reindexes:
    store: ReindexStore
    collections: KnowledgeStore
    clock: Clock
    room: Room
    settings: Settings

    async def order(self, asker: Asker, record: CollectionRecord, item: Item, retry_of: str = "") -> str | None:
        """Accepts a job that makes of the collection what the item says; its name and description change at once.

        Returns the job's id, None when the collection is not as it was read. Raises NotFound, Conflict (name, or another
        one is under way), RateLimitError, Unavailable.
        """
        if record.stored.reindex:
            raise under_way(record.stored.reindex)
        self.room.check()
        ws, job_id = asker.workspace_id, new_id("job")
        number = await self.collections.number(ws, record.id)
        spec = Spec(sources=[], count=0, reindex=Reindex(making=item.making, number=number))
        small = record.stored.documents <= self.settings.inline_documents
        limits = (self.clock.now_ms(), MOST_ACTIVE, retry_of, asker.idempotency_record)
        new = NewJob(
            *(ws, job_id, record.id, spec.encode(), "small" if small else "large", asker.key_id, *limits)
        )
        stays = item.remade(record.item.making, item.updated_at)
        target = Target(item.making.encode(), number, place(record.id, number))
        names = (record.item.name, item.name)
        accepted = await self.store.create(new, record.stored, names, stays.encode(), target)
        return job_id if accepted else None

    async def again(self, asker: Asker, collection_id: str, making: Making, retry_of: str) -> str:
        """The same once more. Raises what `order` raises, Conflict also when the collection is made this way by now."""
        while True:
            stored = await self.collections.collection(asker.workspace_id, collection_id)
            if stored is None:
                raise NotFound("Collection not found")
            record = CollectionRecord.of(stored)
            if record.item.making == making:
                raise Conflict("The collection is made this way already: there is nothing to try again")
            item = record.item.remade(making, self.clock.now_ms())
            if job_id := await self.order(asker, record, item, retry_of):
                return job_id
