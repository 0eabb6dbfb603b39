"""The parts of ingestion, as one: what callers order, and what drivers and workers do it with."""

from dataclasses import dataclass
from functools import partial

from kernel.knowledge.jobs import Jobs
from kernel.knowledge.listing import Listing
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.reindex import Reindexes
from kernel.knowledge.remaking import Remaking, documents_of, remake_batch
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.spec import Specs
from kernel.knowledge.uploads import Uploads
from kernel.knowledge.work import Block, Order, Tools
from kernel.storage.jobs import JobStore, Lease


@dataclass(frozen=True, slots=True)
class Ingestion:
    store: JobStore
    jobs: Jobs
    uploads: Uploads
    specs: Specs
    tools: Tools
    reindexes: Reindexes

    async def begin(self, lease: Lease, cluster: Cluster) -> Run:
        """A claimed job, ready to be performed. Raises NotFound when it or its collection is gone."""
        spec, order = await self.specs.open(lease)
        ahead = cluster.blocks * self.tools.settings.block
        if spec.reindex is not None:
            listing = Listing(partial(documents_of, self.store, lease), 1, ahead)
            seams = order, False, listing, self.tools, self.store, self.specs, cluster
            return Remaking(*seams, reindexes=self.reindexes, making=spec.reindex.making)
        listing = Listing(self.specs.walk(spec, order), len(order.sources), ahead)
        return Run(order, spec.sync, listing, self.tools, self.store, self.specs, cluster)

    async def aclose(self) -> None:
        self.tools.parsers.close()
        await self.tools.vectors.aclose()

    async def take_in(self, order: Order, block: Block) -> None:
        """See `ingest_batch`, and of a re-index `remake_batch`."""
        if order.was is None:
            await ingest_batch(self.tools, order, block)
        else:
            await remake_batch(self.tools, self.reindexes.store, order, block)
