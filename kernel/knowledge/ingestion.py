"""The parts of ingestion, as one: what callers order, and what drivers and workers do it with."""

from collections.abc import Sequence
from dataclasses import dataclass

from kernel.knowledge.jobs import Jobs
from kernel.knowledge.listing import Listing
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.spec import Specs
from kernel.knowledge.uploads import Uploads
from kernel.knowledge.work import Block, DocumentDone, Order, Tools
from kernel.storage.jobs import JobStore, Lease


@dataclass(frozen=True, slots=True)
class Ingestion:
    store: JobStore
    jobs: Jobs
    uploads: Uploads
    specs: Specs
    tools: Tools

    async def begin(self, lease: Lease, cluster: Cluster) -> Run:
        """A claimed job, ready to be performed. Raises NotFound when it or its collection is gone."""
        spec, order = await self.specs.open(lease)
        settings = self.tools.settings
        ahead = cluster.blocks * settings.block
        listing = Listing(self.specs.walk(spec, order), len(order.sources), ahead)
        return Run(order, spec.sync, listing, self.tools, self.store, self.specs, cluster)

    async def aclose(self) -> None:
        self.tools.parsers.close()
        await self.tools.vectors.aclose()

    async def take_in(self, order: Order, block: Block) -> Sequence[DocumentDone]:
        """See `ingest_batch`."""
        return await ingest_batch(self.tools, order, block)
