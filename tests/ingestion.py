"""Ingestion on a real store with a source, parser, embedder and vector store in memory, which can be made to fail."""

from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from configs.settings import Ingestion
from kernel.clock import ManualClock
from kernel.errors import NotFound
from kernel.ids import new_id
from kernel.knowledge.contract import (
    Chunk,
    DocumentError,
    Fetched,
    Found,
    Part,
    Row,
    SourceError,
    content_version,
    document_id,
)
from kernel.knowledge.listing import Listing, Walk
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block, Listed, Order, Place, Tools
from kernel.models.seam import Tokens
from kernel.storage import keys
from kernel.storage.chunks import Kept
from kernel.storage.jobs import Claim, JobStore, Lease, NewJob, Room
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.store import Store

WS = "ws_" + "0" * 26
COLLECTION = "col_" + "0" * 26
SHARD = keys.shard_of(WS)
PLACE = Place("c_test_1", "1", "words", 1000, 0, "characters")
LEASE_MS = 60_000


class Crash(BaseException):
    """A process that dies: nothing catches it."""


@dataclass
class Documents:
    """A source of texts by location. versioned: it tells versions when it lists. fails: it cannot be listed."""

    texts: dict[str, str]
    versioned: bool = True
    fails: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    listed_twice: Sequence[str] = ()

    async def list(self) -> AsyncIterator[Found]:
        for location in [*self.texts, *self.listed_twice]:
            text = self.texts[location]
            version = content_version(text.encode()) if self.versioned else None
            yield Found(location, location, "text", version, len(text), metadata=self.metadata)
        if self.fails:
            raise SourceError(self.fails)

    async def fetch(self, found: Found) -> Fetched | None:
        self.fetched.append(found.location)
        data = self.texts[found.location].encode()
        if not self.versioned and found.version == content_version(data):
            return None
        return Fetched(data, found.location, None, content_version(data))


class Plain:
    """The parser: a text is a part; one that begins with `poison` cannot be read."""

    def close(self) -> None: ...

    async def parse(self, fetched: Fetched) -> list[Part]:
        text = fetched.data.decode()
        if text.startswith("poison"):
            raise DocumentError("It is poison")
        if text.startswith("fault"):
            raise ZeroDivisionError
        return [Part(text)]


def cut(parts: Sequence[Part], size: int, overlap: int, unit: str) -> list[Chunk]:
    """A chunk for each word."""
    return [Chunk(position, word) for position, word in enumerate(parts[0].text.split())]


@dataclass
class Words:
    """The embedder. embedded: all it was ever given."""

    embedded: list[str] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def embed(
        self, texts: Sequence[str], used: Callable[[Tokens], None] | None = None
    ) -> list[list[float]]:
        self.before()
        self.embedded += texts
        if used:
            used(Tokens(10 * len(texts)))
        return [[float(len(text)), 1.0] for text in texts]


@dataclass
class Memory:
    """The vector store: collection -> chunk id -> row."""

    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    before: Callable[[str], None] = lambda verb: None

    async def upsert(self, name: str, rows: Sequence[Row]) -> None:
        self.before("upsert")
        self.rows.setdefault(name, {}).update({row.chunk_id: row for row in rows})

    async def create(self, name: str, dimension: int, metric: str) -> None:
        self.rows.setdefault(name, {})

    async def kept(self, name: str, chunk_ids: Sequence[str], with_vectors: bool) -> dict[str, Kept]:
        self.before("kept")
        rows = self.rows.get(name, {})
        return {one: _kept(rows[one]) for one in chunk_ids if one in rows}

    async def aclose(self) -> None: ...

    async def delete(self, name: str, versions: Sequence[tuple[str, str]]) -> None:
        self.before("delete")
        gone = set(versions)
        kept = self.rows.get(name, {})
        self.rows[name] = {
            key: row for key, row in kept.items() if (row.document_id, row.version) not in gone
        }


def _kept(row: Row) -> Kept:
    chunk = row.chunk
    where = chunk.offset, chunk.page, chunk.heading
    return Kept(chunk.position, chunk.text, *where, chunk.seam, array("f", row.vector))


class Nowhere:
    """A cluster that is not to be asked."""

    blocks = 1

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        raise AssertionError("nothing should go to the cluster")


@dataclass
class Bench:
    """A collection, and jobs on it that this process claims and performs."""

    store: Store
    clock: ManualClock
    settings: Ingestion = field(default_factory=Ingestion)
    vectors: Memory = field(default_factory=Memory)
    words: Words = field(default_factory=Words)
    price: float | None = 0.0
    """USD of a token."""

    def __post_init__(self) -> None:
        self.jobs = JobStore(self.store)
        self.tools = Tools(
            Plain(),
            cut,
            self._embedder,
            lambda model, tokens: self.price and self.price * tokens.input,
            self.vectors,
            self.jobs,
            KnowledgeStore(self.store),
            self.clock,
            self.settings,
        )

    async def _embedder(self, ws: str, model: str) -> Words:
        return self.words

    async def open(self) -> None:
        await self.store.call("HSET", keys.key("collection", WS, id=COLLECTION), "live", "1")

    async def place(self, lease: Lease) -> Place:
        live = await self.store.call("HGET", keys.key("collection", WS, id=COLLECTION), "live")
        if live is None:
            raise NotFound("Collection not found")
        return replace(PLACE, live=live.decode())

    async def accept(self, workspace_id: str = WS, size: str = "small", **more: Any) -> str:
        job_id = new_id("job")
        facts: dict[str, Any] = {"key_id": "key_1", "most_active": 100} | more
        now = self.clock.now_ms()
        await self.jobs.create(
            NewJob(workspace_id, job_id, COLLECTION, b"{}", size, now_ms=now, **facts)  # type: ignore[arg-type]
        )
        return job_id

    async def claim(
        self, driver: str = "d1", most: int = 5, room: Room = Room(9, 9, 9), lost: bool = False
    ) -> list[Claim]:
        """lost: as if the leases of others had ended."""
        later = 2**53 if lost else 0
        return await self.jobs.claim(SHARD, driver, LEASE_MS, room, most, b'{"code":"X"}', later)

    def order(self, lease: Lease, *sources: Documents) -> Order:
        return Order(lease, PLACE, sources, [f"source-{number}" for number in range(len(sources))])

    def run(
        self,
        lease: Lease,
        *sources: Documents,
        sync: bool = False,
        cluster: Cluster | None = None,
        at_home: bool = True,
    ) -> Run:
        order = self.order(lease, *sources)
        listing = Listing(walk_of(sources), len(sources), 100)
        parts = (self.tools, self.jobs, self, cluster or Nowhere())
        return Run(order, sync, listing, *parts, at_home=at_home, pause_s=0)

    async def perform(self, *sources: Documents, **options: Any) -> dict[str, Any]:
        """A whole job; returns its counts."""
        job_id = await self.accept()
        (claim,) = await self.claim()
        await self.run(claim.lease, *sources, **options).perform()
        return await self.counts(job_id)

    async def counts(self, job_id: str) -> dict[str, Any]:
        record = await self.jobs.read(WS, job_id) or {}
        names = ("discovered", "done", "skipped", "failed", "deleted", "chunks", "bytes")
        return {name: int(record[name]) for name in names} | {"status": record["status"].decode()}

    async def manifest(self) -> dict[str, dict[str, Any]]:
        """Entries by location."""
        entries = [
            orjson.loads(text) async for some in self.jobs.manifest(WS, COLLECTION) for text in some.values()
        ]
        return {entry["location"]: entry for entry in entries}

    async def shown(self) -> dict[str, list[str]]:
        """What a search may show: the chunks of every document in the manifest, in order."""
        rows = self.vectors.rows.get(PLACE.vectors, {}).values()
        found: dict[str, list[str]] = {}
        for location, entry in (await self.manifest()).items():
            own = [row for row in rows if row.document_id == document_id(COLLECTION, location)]
            own = sorted(
                (row for row in own if row.version == entry["version"]), key=lambda row: row.chunk.position
            )
            found[location] = [row.chunk.text for row in own]
        return found

    def stored(self) -> int:
        """Chunks in the vector store, shown or not."""
        return len(self.vectors.rows.get(PLACE.vectors, {}))

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        return [orjson.loads(event.body) for event in await self.jobs.events(WS, job_id, 0, 5_000)]


def walk_of(sources: Sequence[Documents]) -> Walk:
    return lambda number: sources[number].list()


def block(*locations: str, number: int = 0, size: int = 5) -> Block:
    return Block(number, [Listed(0, Found(one, one, "text", size=size)) for one in locations])
