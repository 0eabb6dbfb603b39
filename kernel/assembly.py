"""The one place that wires the kernel's parts together."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from kernel.access.access import Access
from kernel.access.secret import read_pepper
from kernel.agents.catalog import Agents
from kernel.agents.flow import Flow
from kernel.agents.graph import check, config_bytes
from kernel.clock import Clock, SystemClock
from kernel.errors import NotFound, Problem
from kernel.executions.archivist import Archivist
from kernel.executions.executions import Executions
from kernel.executions.intake import Intake
from kernel.executions.lookup import Lookup
from kernel.executions.performer import Performer
from kernel.executions.placement import Here, Placement
from kernel.executions.watch import Watch
from kernel.ids import new_id
from kernel.knowledge.chunking import cut
from kernel.knowledge.collections import Collections
from kernel.knowledge.ingestion import Ingestion
from kernel.knowledge.jobs import Jobs
from kernel.knowledge.parsing import Parsers
from kernel.knowledge.search import Search
from kernel.knowledge.sources import Surroundings
from kernel.knowledge.spec import Specs
from kernel.knowledge.uploads import Uploads
from kernel.knowledge.work import Tools
from kernel.metering.admission import Admission, Meter
from kernel.metering.books import Books
from kernel.metering.budgets import Budgets
from kernel.metering.ledger import Ledger
from kernel.metering.plans import Plans
from kernel.metering.reconcile import Reconciler
from kernel.metering.sampler import Sampler, Weigher, objects_of
from kernel.metering.tariff import Tariff
from kernel.metering.usage import Usage
from kernel.models.catalog import Catalog
from kernel.models.scripted import ScriptedModel
from kernel.models.seam import ChatModel
from kernel.nodes.contract import NodeType
from kernel.nodes.registry import registry
from kernel.nodes.sandbox import Sandbox
from kernel.outbound import Egress
from kernel.storage.archive import Archive
from kernel.storage.budgets import BudgetStore
from kernel.storage.calls import Calls
from kernel.storage.embeddings import Shelf
from kernel.storage.executions import ExecutionStore
from kernel.storage.idempotency import Idempotency
from kernel.storage.jobs import JobStore
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.meter import MeterStore
from kernel.storage.migrations import migrate
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import QueueStore
from kernel.storage.room import Room
from kernel.storage.store import Store, opened
from kernel.storage.subscriptions import Subscriptions
from kernel.storage.tickets import Tickets
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import UsageFiles
from kernel.storage.vectors import VectorStore

if TYPE_CHECKING:
    from kernel.models.embedding import Embedder  # brings numpy along

LARGE_CONFIG = 16_384
"""Bytes of a flow's configs that are checked in the event loop at most: some 50 ms at worst."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The parts of one process, all of one event loop."""

    settings: Settings
    clock: Clock
    store: Store
    subscriptions: Subscriptions
    objects: ObjectStore
    queue: QueueStore
    egress: Egress
    models: Catalog
    node_types: Mapping[str, NodeType]
    plans: Plans
    tariff: Tariff
    admission: Admission
    budgets: Budgets
    access: Access
    agents: Agents
    executions: Executions
    idempotency: Idempotency
    tickets: Tickets
    archivist: Archivist
    books: Books
    collections: Collections
    search: Search
    ingestion: Ingestion

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        local: ChatModel | None = None,
        meter: Meter | None = None,
        name: str = "api",
    ) -> AsyncGenerator["Kernel"]:
        """Connects, brings the data up to date, and listens. Raises Unavailable, DataTooNew.

        local: the local model as this process reaches it; without one it can be named but not run here.
        meter: who grants requests; without one this process asks the store itself.
        """
        clock = clock or SystemClock()
        async with opened(settings.store.url, name) as store:
            await migrate(store)
            sandbox, subscriptions = Sandbox(), Subscriptions(store)
            kernel = cls._wired(settings, clock, store, subscriptions, sandbox, local, meter)
            try:
                await kernel.access.open()
                yield kernel
            finally:
                await kernel.admission.close()
                await kernel.access.close()
                await subscriptions.close()
                await kernel.models.aclose()
                await kernel.ingestion.aclose()
                sandbox.close()

    @classmethod
    def _wired(
        cls,
        settings: Settings,
        clock: Clock,
        store: Store,
        subscriptions: Subscriptions,
        sandbox: Sandbox,
        local: ChatModel | None,
        meter: Meter | None,
    ) -> "Kernel":
        egress = Egress(settings.egress_allow, own=(settings.api.host, *settings.api.hosts))
        models = _models(settings, clock, store, egress, local)
        objects = ObjectStore(settings.root / "objects")
        knowledge, vectors = KnowledgeStore(store), VectorStore(settings.vectors.url)
        collections = Collections(knowledge, vectors, models, objects, clock)
        search = Search(collections, partial(_embedder, models, store), models)
        node_types = registry(models, egress, sandbox, search)
        check_flow = partial(_check_flow, node_types, models)
        agents = Agents(store, clock, check_flow)
        execution_store, archive = ExecutionStore(store), Archive(store, objects)
        plans = Plans(settings.metering.plans, clock)
        lookup, tariff = Lookup(execution_store, archive), Tariff.load(settings.metering.prices)
        return cls(
            settings=settings,
            clock=clock,
            store=store,
            subscriptions=subscriptions,
            objects=objects,
            queue=QueueStore(store),
            egress=egress,
            models=models,
            node_types=node_types,
            plans=plans,
            tariff=tariff,
            admission=Admission(meter or MeterStore(store)),
            budgets=Budgets(BudgetStore(store), clock),
            access=Access(store, subscriptions, clock, read_pepper(settings.root), plans),
            agents=agents,
            executions=Executions(
                store=execution_store,
                lookup=lookup,
                archive=archive,
                intake=Intake(agents, sandbox, OrderedDict()),
                objects=objects,
                watch=Watch(lookup, subscriptions, new_id("req")),
                clock=clock,
                plans=plans,
                check_flow=check_flow,
                room=Room(settings.root, settings.store.min_free_mb, clock),
            ),
            idempotency=Idempotency(store, clock),
            tickets=Tickets(store),
            archivist=Archivist(execution_store, archive, clock, settings.retention),
            books=_books(
                settings, clock, store, objects, execution_store, archive, tariff, collections.weigh
            ),
            collections=collections,
            search=search,
            ingestion=_ingestion(settings, clock, store, subscriptions, objects, egress, models, collections),
        )

    def performer(self, place: str, placement: Placement | None = None) -> Performer:
        """What a runner works with. place: the id of the cluster node it runs on; placement: the way to others."""
        return Performer(
            executions=self.executions.store,
            agents=self.agents,
            objects=self.objects,
            node_types=self.node_types,
            clock=self.clock,
            coalesce_ms=self.settings.runner.coalesce_ms,
            placed_on=place,
            placement=placement or Here(self.node_types, place),
            tariff=self.tariff,
            graphs=OrderedDict(),
        )


def _models(
    settings: Settings, clock: Clock, store: Store, egress: Egress, local: ChatModel | None
) -> Catalog:
    engines: dict[str, ChatModel] = {} if local is None else {"local": local}
    if settings.scripted_model:
        engines["scripted"] = ScriptedModel(Calls(store))
    prices = settings.metering.prices
    return Catalog(egress, settings.credentials, engines, settings.scripted_model, clock, prices=prices)


def _books(
    settings: Settings,
    clock: Clock,
    store: Store,
    objects: ObjectStore,
    executions: ExecutionStore,
    archive: Archive,
    tariff: Tariff,
    vectors: Weigher,
) -> Books:
    files = UsageFiles(objects)
    usage = UsageStore(store, files)
    return Books(
        usage=Usage(usage, tariff),
        ledger=Ledger(usage, files, clock, settings.metering),
        sampler=Sampler(usage, (usage.weigh, objects_of(objects), vectors), clock),
        reconciler=Reconciler(usage, executions, archive, clock),
    )


def _ingestion(
    settings: Settings,
    clock: Clock,
    store: Store,
    subscriptions: Subscriptions,
    objects: ObjectStore,
    egress: Egress,
    models: Catalog,
    collections: Collections,
) -> Ingestion:
    room = Room(settings.root, settings.store.min_free_mb, clock)
    uploads = Uploads(store, objects, clock, room)
    jobs = JobStore(store)

    def around(workspace_id: str) -> Surroundings:
        return Surroundings(egress, settings.ingestion, partial(uploads.open, workspace_id), _credential)

    specs = Specs(jobs, collections.store, objects, around)
    return Ingestion(
        store=jobs,
        jobs=Jobs(jobs, specs, objects, subscriptions, clock, room, settings.ingestion, models.dimension),
        uploads=uploads,
        specs=specs,
        tools=Tools(
            parsers=Parsers(settings.ingestion),
            cut=cut,
            embedder=partial(_embedder, models, store),
            vectors=collections.vectors,
            manifest=jobs,
            stale=collections.store,
            clock=clock,
            settings=settings.ingestion,
        ),
    )


def _embedder(models: Catalog, store: Store, workspace_id: str, model_id: str) -> "Embedder":
    """A model, over what the workspace has had embedded before."""
    return models.embedder(model_id, Shelf(store, workspace_id))


async def _credential(credential_id: str) -> Mapping[str, str]:
    """The vault is not here yet."""
    raise NotFound("Credential not found")


async def _check_flow(
    node_types: Mapping[str, NodeType],
    models: Catalog,
    flow: Flow,
    input_schema: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """In a thread when it will take long: regular expressions, templates and schemas are compiled."""
    if config_bytes(flow) > LARGE_CONFIG:
        return await asyncio.to_thread(check, flow, node_types, models, input_schema)
    return check(flow, node_types, models, input_schema)
