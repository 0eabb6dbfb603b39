"""The parts of ingestion, as one: what callers order, and what drivers and workers do it with."""

from dataclasses import dataclass
from functools import partial

from kernel.knowledge.jobs import Jobs
from kernel.knowledge.listing import Listing
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.remaking import Remaking, documents_of, remake_batch
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.spec import Specs
from kernel.knowledge.uploads import Uploads
from kernel.knowledge.work import Block, Order, Tools
from kernel.storage.jobs import JobStore, Lease
from kernel.storage.reindex import ReindexStore

MOST_LOST = 2
"""Drivers that may be lost with a job before it is kept away from them."""


@dataclass(frozen=True, slots=True)
class Ingestion:
    store: JobStore
    jobs: Jobs
    uploads: Uploads
    specs: Specs
    tools: Tools
    reindexes: ReindexStore

    async def begin(self, lease: Lease, cluster: Cluster, lost: int = 0) -> Run:
        """A claimed job, ready to be performed. lost: drivers that have ended with it since it last got on.

        Raises NotFound when it or its collection is gone.
        """
        spec, order = await self.specs.open(lease)
        ahead = cluster.blocks * self.tools.settings.block
        if spec.reindex is not None:
            listing = Listing(partial(documents_of, self.store, lease), 1, ahead)
            return Remaking(
                *(order, False, listing, self.tools, self.store, self.specs, cluster),
                at_home=lost < MOST_LOST,
                store=self.reindexes,
                collections=self.specs.collections,
                making=spec.reindex.making,
            )
        listing = Listing(self.specs.walk(spec, order), len(order.sources), ahead)
        parts = (self.tools, self.store, self.specs, cluster)
        return Run(order, spec.sync, listing, *parts, at_home=lost < MOST_LOST)

    async def aclose(self) -> None:
        self.tools.parsers.close()
        await self.tools.vectors.aclose()

    async def take_in(self, order: Order, block: Block) -> None:
        """See `ingest_batch`, and of a re-index `remake_batch`."""
        if order.was is None:
            await ingest_batch(self.tools, order, block)
        else:
            await remake_batch(self.tools, self.reindexes, order, block)
