"""The vector store: Milvus, reached through pymilvus, which is imported with the first call.

A collection of ours is one collection there, named by `place`: a chunk a row. What searches show is decided by the
manifest, not here, so a row that is here too many or too long does no harm.
"""

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

from ulid import ULID

from kernel.errors import Unavailable

Metric = Literal["cosine", "ip", "l2"]
Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
T = TypeVar("T")

ANSWER_WITHIN_S = 5.0
CONNECT_WITHIN_S = 1.0
THREADS = 8
"""Calls in flight at once; more wait their turn."""
TRIES = 6
BATCH_ROWS = 500
BATCH_BYTES = 2_000_000
LONGEST = 65_535
"""Bytes of a text that a field holds."""
MOST_HITS = 16_384
NOTHING: Mapping[str, Any] = MappingProxyType({})
DELETED_AT_ONCE = 20
SHOWN = [
    *("chunk_id", "document_id", "version", "position", "text"),
    *("source_type", "location", "title", "page", "heading", "offset", "metadata"),
]
_MISSING, _NOT_LOADED = 100, 101
_PASSING = {2, 3, 7, 8, 9}
"""Error codes: not reached, memory or disk full, too many requests."""


class Piece(Protocol):
    """The text of a row and where in its document it is from."""

    @property
    def position(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def page(self) -> int | None: ...
    @property
    def heading(self) -> str | None: ...


class Row(Protocol):
    """A chunk with its vector, as `kernel.knowledge.contract.Row` has it."""

    @property
    def chunk_id(self) -> str: ...
    @property
    def document_id(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def chunk(self) -> Piece: ...
    @property
    def vector(self) -> Sequence[float]: ...
    @property
    def source_type(self) -> str: ...
    @property
    def location(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression of Milvus with names in braces for its values: `source_type == {p0}`."""

    expression: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """What is near a vector, or has the words of a text."""

    by: Sequence[float] | str
    limit: int
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found. score: by the collection's metric, as Milvus has it, or BM25 (some servers negate it)."""

    chunk_id: str
    document_id: str
    version: str
    position: int
    text: str
    source_type: str
    location: str
    title: str
    page: int | None
    heading: str | None
    offset: int
    metadata: dict[str, Any]
    score: float


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do. keyword: search by words. binds: takes a filter's values apart from its expression. The
    rest is of filters on metadata: infix: `like` with text inside. exists: `exists`, for values of all types. loose:
    `!=` and `not in` hold where there is no such key, or one of another type."""

    keyword: bool
    binds: bool
    infix: bool
    exists: bool
    loose: bool


class VectorsMissing(Exception):
    """There is no such collection in the vector store."""


class VectorsRefused(Exception):
    """The vector store answered with an error that our code did not expect."""


def stem(collection_id: str) -> str:
    """What the names of a collection's vectors begin with."""
    return f"c_{collection_id.removeprefix('col_').lower()}_"


def place(collection_id: str, live: int) -> str:
    """The name of a collection's vectors: `live` grows with each making anew."""
    return f"{stem(collection_id)}{live}"


def literal(value: Value) -> str:
    """A value as an expression has it. Raises ValueError for text with a line break, which no expression can hold."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if "\n" in value or "\r" in value:
        raise ValueError("text in an expression must not have line breaks")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Milvus:
    """The blocking client, for any number of threads. Every call ends within bounded time.

    All of its calls raise Unavailable when the store cannot be reached, VectorsMissing, VectorsRefused.
    """

    def __init__(self, url: str, token: str = ""):
        self._url, self._token = url, token
        self._lock, self._probing = threading.Lock(), threading.Lock()
        self._client: Any = None
        self._capabilities: Capabilities | None = None

    def capabilities(self) -> Capabilities:
        """What the server can do, by trying it out once."""
        with self._probing:
            if self._capabilities is None:
                self._capabilities = self._probed(f"probe_{str(ULID()).lower()}")
            return self._capabilities

    def create(self, name: str, dimension: int, metric: Metric) -> None:
        """Ready to be written to and searched. Does nothing when it is so already."""
        self._make(name, dimension, metric, self.capabilities().keyword)

    def drop(self, name: str) -> None:
        """Of one that is not there, nothing."""
        self._ask("drop_collection", name)

    def upsert(self, name: str, rows: Sequence[Row]) -> None:
        """Writes rows, in place of those with the same chunk ids, and tries again what a store that is away refuses."""
        for batch in _batches({row.chunk_id: row for row in rows}.values()):
            _persist(partial(self._ask, "upsert", name, batch))

    def delete(self, name: str, versions: Sequence[tuple[str, str]]) -> None:
        """Deletes the rows of these versions of documents: pairs of document id and version."""
        for start in range(0, len(versions), DELETED_AT_ONCE):
            condition = _either(versions[start : start + DELETED_AT_ONCE])
            _persist(partial(self._ask, "delete", name, **self._filter(condition)))

    def search(self, name: str, query: Query) -> list[Hit]:
        """The best first."""
        by_words = isinstance(query.by, str)
        (rows,) = self._ask(
            "search",
            name,
            data=[query.by],
            anns_field="sparse" if by_words else "dense",
            limit=min(query.limit, MOST_HITS),
            output_fields=SHOWN,
            **self._filter(query.condition),
        )
        scores = (abs(row["distance"]) if by_words else row["distance"] for row in rows)
        return [_hit(row["entity"], score) for row, score in zip(rows, scores, strict=True)]

    def count(self, name: str) -> int:
        """Rows, of all versions."""
        (row,) = self._ask("query", name, filter="", output_fields=["count(*)"])
        return int(row["count(*)"])

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _filter(self, condition: Condition | None) -> dict[str, Any]:
        if condition is None:
            return {"filter": ""}
        if self.capabilities().binds:
            return {"filter": condition.expression, "filter_params": dict(condition.values)}
        return {"filter": written(condition)}

    def _make(self, name: str, dimension: int, metric: Metric, keyword: bool) -> None:
        if not self._ask("has_collection", name):
            try:
                schema = _schema(dimension, keyword)
                self._ask("create_collection", name, schema=schema, consistency_level="Strong")
            except VectorsRefused:
                if not self._ask("has_collection", name):
                    raise
        for field_name, index in _indices(metric, keyword).items():
            if not self._ask("list_indexes", name, field_name=field_name):
                self._ask("create_index", name, index, sync=False)
        self._ask("load_collection", name)

    def _probed(self, name: str) -> Capabilities:
        """Old servers, which know no `exists`, take seconds to refuse bound values: those are not asked for any."""
        try:
            if not (keyword := _works(partial(self._try_keyword, name))):
                self.drop(name)
                self._make(name, 8, "cosine", False)
                self._ask("upsert", name, _PROBES)
            exists = self._finds(name, 'exists metadata["a"]', {1, 2, 3, 4, 5})
            bound = {"filter_params": {"p0": 0}}
            return Capabilities(
                keyword=keyword,
                binds=exists and self._finds(name, "page == {p0}", {0}, bound),
                infix=self._finds(name, 'metadata["a"] like "%x%"', {1}),
                exists=exists and self._finds(name, 'not (exists metadata["a"])', {0}),
                loose=self._finds(name, 'metadata["a"] != 1', {0, 1, 3, 4, 5}),
            )
        finally:
            self.drop(name)

    def _try_keyword(self, name: str) -> None:
        self._make(name, 8, "cosine", True)
        self._ask("upsert", name, _PROBES)
        if not self._ask("search", name, data=["probe"], anns_field="sparse", limit=1)[0]:
            raise VectorsRefused("no words are found")

    def _finds(self, name: str, expression: str, pages: set[int], more: Mapping[str, Any] = NOTHING) -> bool:
        """Whether the server understands an expression as we do."""
        try:
            rows = self._ask("query", name, filter=expression, output_fields=["page"], limit=100, **more)
        except VectorsRefused:
            return False
        return {row["page"] for row in rows} == pages

    def _ask(self, verb: str, *args: Any, **options: Any) -> Any:
        with _translated():
            work = getattr(self._connected(), verb)
            try:
                return work(*args, timeout=ANSWER_WITHIN_S, retry_on_rate_limit=False, **options)
            except _errors() as error:
                if getattr(error, "code", None) != _NOT_LOADED:
                    raise
                self._connected().load_collection(args[0], timeout=ANSWER_WITHIN_S)
                return work(*args, timeout=ANSWER_WITHIN_S, retry_on_rate_limit=False, **options)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._url, self._token)
            return self._client


class VectorStore:
    """The same for an event loop: each call in a thread, given up when it takes too long."""

    def __init__(self, url: str, token: str = ""):
        self.blocking = Milvus(url, token)
        self._threads: ThreadPoolExecutor | None = None

    async def capabilities(self) -> Capabilities:
        return await self._run(self.blocking.capabilities)

    async def create(self, name: str, dimension: int, metric: Metric) -> None:
        await self._run(self.blocking.create, name, dimension, metric)

    async def drop(self, name: str) -> None:
        await self._run(self.blocking.drop, name)

    async def upsert(self, name: str, rows: Sequence[Row]) -> None:
        await self._run(self.blocking.upsert, name, rows, within_s=None)

    async def delete(self, name: str, versions: Sequence[tuple[str, str]]) -> None:
        await self._run(self.blocking.delete, name, versions, within_s=None)

    async def search(self, name: str, query: Query) -> list[Hit]:
        return await self._run(self.blocking.search, name, query, within_s=ANSWER_WITHIN_S)

    async def count(self, name: str) -> int:
        return await self._run(self.blocking.count, name, within_s=ANSWER_WITHIN_S)

    async def aclose(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self.blocking.close)

    async def _run(
        self, work: Callable[..., T], *args: Any, within_s: float | None = 2 * ANSWER_WITHIN_S
    ) -> T:
        self._threads = self._threads or ThreadPoolExecutor(THREADS, "vectors")
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args))
        except TimeoutError:
            raise _away() from None


def written(condition: Condition) -> str:
    """The expression with its values in it, for a server that binds none."""
    return re.sub(r"\{(p\d+)\}", lambda found: literal(condition.values[found[1]]), condition.expression)


def _works(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except VectorsRefused:
        return False
    return True


def _either(versions: Sequence[tuple[str, str]]) -> Condition:
    values = {f"p{n}": part for n, part in enumerate(part for pair in versions for part in pair)}
    each = (f"(document_id == {{p{2 * n}}} and version == {{p{2 * n + 1}}})" for n, _ in enumerate(versions))
    return Condition(" or ".join(each), values)


def _batches(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(_fields(row))
        size += 4 * len(row.vector) + len(row.chunk.text)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fields(row: Row) -> dict[str, Any]:
    chunk = row.chunk
    return {
        "chunk_id": row.chunk_id,
        "document_id": row.document_id,
        "version": row.version,
        "position": chunk.position,
        "text": _fit(chunk.text),
        "source_type": _fit(row.source_type),
        "location": _fit(row.location),
        "title": _fit(row.title),
        "page": chunk.page or 0,
        "offset": chunk.offset,
        "heading": _fit(chunk.heading or ""),
        "metadata": dict(row.metadata),
        "dense": row.vector,
    }


def _fit(text: str) -> str:
    """What of a text a field can hold: half characters cannot be stored."""
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def _hit(entity: Mapping[str, Any], score: float) -> Hit:
    fields = {name: entity[name] for name in SHOWN}
    return Hit(**fields | {"page": entity["page"] or None, "heading": entity["heading"] or None}, score=score)


_PROBES = [
    {
        **dict.fromkeys(("document_id", "version", "text"), "probe"),
        **dict.fromkeys(("source_type", "location", "title", "heading"), ""),
        **dict.fromkeys(("position", "offset"), 0),
        **{"chunk_id": str(page), "page": page, "metadata": metadata, "dense": [1.0] * 8},
    }
    for page, metadata in enumerate(({}, *({"a": value} for value in ("xxx", 1, [1], {"b": 1}, False))))
]
"""Told apart by `page`."""


def _persist(work: Callable[[], None]) -> None:
    """Waits longer from try to try, some ten seconds in all, and not as long as others do."""
    for wait_s in (0.2 * 2**n for n in range(TRIES - 1)):
        try:
            return work()
        except Unavailable:
            time.sleep(wait_s * random.uniform(0.5, 1.5))
    return work()


def _schema(dimension: int, keyword: bool) -> Any:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("chunk_id", DataType.VARCHAR, is_primary=True, max_length=128)
    for name in ("document_id", "version", "source_type", "location", "title", "heading"):
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST)
    for name in ("position", "page", "offset"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
    analyzed = {"enable_analyzer": True} if keyword else {}
    schema.add_field("text", DataType.VARCHAR, max_length=LONGEST, **analyzed)
    if keyword:
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("words", FunctionType.BM25, ["text"], ["sparse"]))
    return schema


def _indices(metric: Metric, keyword: bool) -> dict[str, Any]:
    """By field."""
    from pymilvus import MilvusClient

    kinds = {"dense": {"index_type": "AUTOINDEX", "metric_type": metric.upper()}}
    if keyword:
        kinds["sparse"] = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"}
    return {name: MilvusClient.prepare_index_params(name, **kind) for name, kind in kinds.items()}


def _connect(url: str, token: str) -> Any:
    """A client with a channel of its own. What fails is raised, and not logged beside."""
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient(url, token=token, timeout=CONNECT_WITHIN_S, dedicated=True)


def _errors() -> tuple[type[Exception], ...]:
    import grpc
    from pymilvus import MilvusException

    return grpc.RpcError, MilvusException


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        raise _translation(error) from error


def _translation(error: Exception) -> Exception:
    """code: a number of Milvus's, or a function or value of gRPC's."""
    import grpc

    code = getattr(error, "code", None)
    code = code() if callable(code) else code
    if code == _MISSING:
        return VectorsMissing()
    passing = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
    if code in passing | {grpc.StatusCode.RESOURCE_EXHAUSTED} | _PASSING:
        return _away()
    return VectorsRefused(str(error))


def _away() -> Unavailable:
    return Unavailable("The vector store cannot be reached", {"reason": "vectors_down"})
