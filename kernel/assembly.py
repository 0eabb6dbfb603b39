"""The one place that wires the kernel's parts together."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from kernel.access.access import Access
from kernel.access.chain import Chain
from kernel.access.secret import read_pepper
from kernel.agents.catalog import Agents
from kernel.agents.judge import Judge
from kernel.clock import Clock, SystemClock
from kernel.errors import NotFound
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
from kernel.knowledge.reindex import Places, Reindexes
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
from kernel.metering.sampler import Sampler, VectorWeigher, objects_of
from kernel.metering.tariff import Tariff
from kernel.metering.usage import Usage
from kernel.models.catalog import Catalog
from kernel.models.scripted import ScriptedModel
from kernel.models.seam import ChatModel
from kernel.nodes.contract import NodeType
from kernel.nodes.registry import registry
from kernel.nodes.sandbox import Sandbox
from kernel.outbound import Egress
from kernel.sealing import Envelope
from kernel.storage.archive import Archive
from kernel.storage.audit import AuditStore
from kernel.storage.budgets import BudgetStore
from kernel.storage.calls import Calls
from kernel.storage.embedded import EmbeddedStore
from kernel.storage.embeddings import Shelf
from kernel.storage.executions import ExecutionStore
from kernel.storage.idempotency import Idempotency
from kernel.storage.jobs import JobStore
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.meter import MeterStore
from kernel.storage.migrations import migrate
from kernel.storage.objects import ObjectStore
from kernel.storage.outbox import OutboxStore
from kernel.storage.queue import QueueStore
from kernel.storage.reindex import ReindexStore
from kernel.storage.room import Room
from kernel.storage.sealed import SealedStore
from kernel.storage.store import Store, opened
from kernel.storage.subscriptions import Subscriptions
from kernel.storage.tickets import Tickets
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import UsageFiles
from kernel.storage.vault import VaultStore
from kernel.storage.vectors import VectorStore
from kernel.storage.webhooks import WebhookStore
from kernel.vault.custody import custody, prepare
from kernel.vault.oauth import Renewal
from kernel.vault.rotation import Rotation
from kernel.vault.secrets import Secrets
from kernel.vault.tokens import VaultTokens
from kernel.vault.trail import VaultTrail
from kernel.vault.vault import Vault
from kernel.webhooks.courier import Courier
from kernel.webhooks.delivery import Sender
from kernel.webhooks.events import Bodies
from kernel.webhooks.signing import Signer
from kernel.webhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from kernel.models.embedding import Embedder  # brings numpy along

Embedders = Callable[[str, str], Awaitable["Embedder"]]
"""A workspace's, by model."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all parts stand on. Each function below adds one part to it."""

    settings: Settings
    clock: Clock
    store: Store
    subscriptions: Subscriptions
    sandbox: Sandbox
    objects: ObjectStore
    egress: Egress
    envelope: Envelope
    pepper: bytes

    @classmethod
    def of(cls, settings: Settings, clock: Clock, store: Store) -> "Ground":
        return cls(
            settings=settings,
            clock=clock,
            store=store,
            subscriptions=Subscriptions(store),
            sandbox=Sandbox(),
            objects=ObjectStore(settings.root / "objects"),
            egress=Egress(settings.egress_allow, own=(settings.api.host, *settings.api.hosts)),
            envelope=Envelope(custody(settings.vault, settings.root)),
            pepper=read_pepper(settings.root),
        )

    @property
    def room(self) -> Room:
        return Room(self.settings.root, self.settings.store.min_free_mb, self.clock)


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
    secrets: Secrets
    models: Catalog
    node_types: Mapping[str, NodeType]
    plans: Plans
    tariff: Tariff
    admission: Admission
    budgets: Budgets
    access: Access
    envelope: Envelope
    vault: Vault
    webhooks: Webhooks
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
            ground = Ground.of(settings, clock, store)
            await prepare(ground.envelope.custody, SealedStore(store).total)
            kernel = cls._wired(ground, local, meter)
            try:
                await kernel.access.open()
                yield kernel
            finally:
                await kernel.admission.close()
                await kernel.access.close()
                await ground.subscriptions.close()
                await kernel.secrets.aclose()
                await kernel.models.aclose()
                await kernel.ingestion.aclose()
                ground.sandbox.close()

    @classmethod
    def _wired(cls, ground: Ground, local: ChatModel | None, meter: Meter | None) -> "Kernel":
        settings, clock, store, objects = ground.settings, ground.clock, ground.store, ground.objects
        models, secrets = _models(ground, local), _secrets(ground)
        collections = _collections(ground, models)
        embedder = partial(_embedder, models, secrets, store)
        search = Search(collections, embedder, models, EmbeddedStore(store, clock))
        node_types = registry(models, ground.egress, ground.sandbox, search)
        judge = Judge(node_types, models, secrets.known)
        agents = Agents(store, clock, judge)
        execution_store, archive = ExecutionStore(store), Archive(store, objects)
        lookup = Lookup(execution_store, archive)
        plans, tariff = Plans(settings.metering.plans, clock), Tariff.load(settings.metering.prices)
        access = Access(store, ground.subscriptions, clock, ground.pepper, plans)
        webhooks = _webhooks(ground, access)
        return cls(
            settings=settings,
            clock=clock,
            store=store,
            subscriptions=ground.subscriptions,
            objects=objects,
            queue=QueueStore(store),
            egress=ground.egress,
            secrets=secrets,
            models=models,
            node_types=node_types,
            plans=plans,
            tariff=tariff,
            admission=Admission(meter or MeterStore(store)),
            budgets=Budgets(BudgetStore(store), clock),
            access=access,
            envelope=ground.envelope,
            vault=_vault(ground, access),
            webhooks=webhooks,
            agents=agents,
            executions=_executions(ground, execution_store, lookup, archive, agents, judge, plans, webhooks),
            idempotency=Idempotency(store, clock, ground.pepper),
            tickets=Tickets(store),
            archivist=Archivist(execution_store, archive, clock, settings.retention),
            books=_books(ground, execution_store, archive, tariff, collections.weigh),
            collections=collections,
            search=search,
            ingestion=_ingestion(ground, models, secrets, embedder, collections),
        )

    def chain(self) -> Chain:
        """The audit log's, for those who seal and verify it."""
        return Chain(AuditStore(self.store), self.objects, read_pepper(self.settings.root))

    def bodies(self) -> Bodies:
        """What a courier sends."""
        return Bodies(partial(_known_execution, self.executions))

    def courier(self, name: str, shards: Iterable[int]) -> Courier:
        """name: new with each life of it."""
        mine, signer = self.settings.webhooks, Signer(self.envelope, self.clock)
        sender = Sender(self.egress, signer, self.clock, mine.timeout_s)
        parts = (OutboxStore(self.store), self.bodies(), sender, self.clock)
        return Courier(name, *parts, shards, mine.in_flight, mine.per_endpoint)

    def rotation(self) -> Rotation:
        """Of the key-encryption keys."""
        return Rotation(SealedStore(self.store), self.envelope)

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
            placement=placement or Here(self.node_types, self.secrets, place),
            tariff=self.tariff,
            secrets=self.secrets,
            graphs=OrderedDict(),
        )


def _vault(ground: Ground, access: Access) -> Vault:
    store, clock = VaultStore(ground.store), ground.clock
    trail = VaultTrail(store, access.trail)
    tokens = VaultTokens(store, trail, clock, ground.pepper)
    return Vault(store, ground.envelope, trail, tokens, clock, ground.egress.check_url)


def _webhooks(ground: Ground, access: Access) -> Webhooks:
    store = WebhookStore(ground.store)
    return Webhooks(store, ground.envelope, access.trail, ground.egress.check_url, ground.clock)


async def _known_execution(
    executions: Executions, workspace_id: str, execution_id: str
) -> Mapping[str, Any] | None:
    try:
        return await executions.get(workspace_id, execution_id)
    except NotFound:
        return None


def _models(ground: Ground, local: ChatModel | None) -> Catalog:
    settings = ground.settings
    engines: dict[str, ChatModel] = {} if local is None else {"local": local}
    if settings.scripted_model:
        engines["scripted"] = ScriptedModel(Calls(ground.store))
    prices = settings.metering.prices
    return Catalog(
        ground.egress, settings.credentials, engines, settings.scripted_model, ground.clock, prices=prices
    )


def _executions(
    ground: Ground,
    store: ExecutionStore,
    lookup: Lookup,
    archive: Archive,
    agents: Agents,
    judge: Judge,
    plans: Plans,
    webhooks: Webhooks,
) -> Executions:
    return Executions(
        store=store,
        lookup=lookup,
        archive=archive,
        intake=Intake(agents, ground.sandbox, OrderedDict()),
        objects=ground.objects,
        watch=Watch(lookup, ground.subscriptions, new_id("req")),
        clock=ground.clock,
        plans=plans,
        judge=judge,
        room=ground.room,
        webhooks=webhooks,
    )


def _books(
    ground: Ground, executions: ExecutionStore, archive: Archive, tariff: Tariff, vectors: VectorWeigher
) -> Books:
    files, settings = UsageFiles(ground.objects), ground.settings.metering
    usage = UsageStore(ground.store, files)
    return Books(
        usage=Usage(usage, tariff),
        ledger=Ledger(usage, files, ground.clock, settings),
        sampler=Sampler(usage, (usage.weigh, objects_of(ground.objects)), vectors, ground.clock),
        reconciler=Reconciler(usage, executions, archive, ground.clock),
    )


def _secrets(ground: Ground) -> Secrets:
    store = VaultStore(ground.store)
    renewal = Renewal(store, ground.envelope, ground.egress, ground.clock)
    return Secrets(store, ground.envelope, renewal, ground.settings.vault.environment)


def _collections(ground: Ground, models: Catalog) -> Collections:
    store, vectors = KnowledgeStore(ground.store), VectorStore(ground.settings.vectors.url)
    places = Places(store, vectors, models.dimension, ground.clock)
    reindexes = Reindexes(ReindexStore(ground.store), places, ground.room, ground.settings.ingestion)
    return Collections(store, vectors, models, ground.objects, ground.clock, reindexes)


def _ingestion(
    ground: Ground, models: Catalog, secrets: Secrets, embedder: Embedders, collections: Collections
) -> Ingestion:
    store, objects, clock, settings = ground.store, ground.objects, ground.clock, ground.settings.ingestion
    uploads = Uploads(store, objects, clock, ground.room)
    jobs, reindexes = JobStore(store), collections.reindexes

    def around(workspace_id: str) -> Surroundings:
        return Surroundings(
            ground.egress,
            settings,
            partial(uploads.open, workspace_id),
            partial(secrets.fields, workspace_id, "ingestion"),
        )

    specs = Specs(jobs, collections.store, objects, around)
    return Ingestion(
        store=jobs,
        jobs=Jobs(
            *(jobs, specs, objects, ground.subscriptions, clock, ground.room, settings),
            dimension=models.dimension,
            reindexes=reindexes,
        ),
        uploads=uploads,
        specs=specs,
        tools=Tools(
            parsers=Parsers(settings),
            cut=cut,
            embedder=embedder,
            cost=models.cost,
            vectors=collections.vectors,
            manifest=jobs,
            stale=collections.store,
            clock=clock,
            settings=settings,
        ),
        reindexes=reindexes.store,
    )


async def _embedder(
    models: Catalog, secrets: Secrets, store: Store, workspace_id: str, model_id: str
) -> "Embedder":
    """A model, with the workspace's own key if it has one, over what the workspace has had embedded before."""
    provider = models.credential(model_id)
    key = await secrets.provider_key(workspace_id, provider, "embedding") if provider else None
    return models.embedder(model_id, Shelf(store, workspace_id), key)
