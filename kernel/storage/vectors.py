"""The vector store: Milvus, reached through pymilvus, which is imported with the first call.

What searches show is decided by the manifest, not here, so a row that is here too many or too long does no harm.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from ulid import ULID

from kernel.errors import Unavailable
from kernel.storage.chunks import (
    Capabilities,
    Condition,
    Hit,
    Kept,
    Metric,
    Query,
    Row,
    VectorsMissing,
    VectorsRefused,
    written,
)
from kernel.storage.milvus_rows import (
    KEPT,
    PROBES,
    SHOWN,
    batches,
    either,
    hit,
    indices,
    kept,
    schema,
    upsert_of,
)

T = TypeVar("T")

ANSWER_WITHIN_S = 5.0
WRITTEN_WITHIN_S = 30.0
CONNECT_WITHIN_S = 1.0
THREADS = 8
"""Calls in flight at once; more wait their turn."""
TRIES = 6
MOST_HITS = 16_384
NOTHING: Mapping[str, Any] = MappingProxyType({})
DELETED_AT_ONCE = 20
KEPT_AT_ONCE = 200
_MISSING, _NOT_LOADED = 100, 101
_PASSING = {2, 3, 7, 8, 9}
"""Error codes: not reached, memory or disk full, too many requests."""


class Milvus:
    """The blocking client, for any number of threads. Every call ends within bounded time.

    All of its calls raise Unavailable when the store cannot be reached, VectorsMissing, VectorsRefused.
    """

    def __init__(self, url: str):
        """url: with user and password in it where the server asks for them."""
        self._url = url
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
        for batch in batches({row.chunk_id: row for row in rows}.values()):
            _persist(partial(self._write, name, batch))

    def delete(self, name: str, versions: Sequence[tuple[str, str]]) -> None:
        """Deletes the rows of these versions of documents: pairs of document id and version."""
        for start in range(0, len(versions), DELETED_AT_ONCE):
            condition = either(versions[start : start + DELETED_AT_ONCE])
            _persist(partial(self._ask, "delete", name, **self._filter(condition)))

    def kept(self, name: str, chunk_ids: Sequence[str], with_vectors: bool) -> dict[str, Kept]:
        """Of these chunks, those that are there, by their ids."""
        fields = [*KEPT, "dense"] if with_vectors else KEPT
        found: dict[str, Kept] = {}
        for start in range(0, len(chunk_ids), KEPT_AT_ONCE):
            some = list(chunk_ids[start : start + KEPT_AT_ONCE])
            rows = _persist(partial(self._ask, "query", name, ids=some, output_fields=fields))
            found |= {row["chunk_id"]: kept(row) for row in rows}
        return found

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
        return [hit(row["entity"], score) for row, score in zip(rows, scores, strict=True)]

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
                fields = schema(dimension, keyword)
                self._ask("create_collection", name, schema=fields, consistency_level="Strong")
            except VectorsRefused:
                if not self._ask("has_collection", name):
                    raise
        for field_name, index in indices(metric, keyword).items():
            if not self._ask("list_indexes", name, field_name=field_name):
                self._ask("create_index", name, index, sync=False)
        self._ask("load_collection", name)

    def _probed(self, name: str) -> Capabilities:
        """Old servers, which know no `exists`, take seconds to refuse bound values: those are not asked for any."""
        try:
            if not (keyword := _works(partial(self._try_keyword, name))):
                self.drop(name)
                self._make(name, 8, "cosine", False)
                self._ask("upsert", name, PROBES)
            exists = self._finds(name, 'exists metadata["a"]', {1, 2, 3, 4, 5})
            bound = {"filter_params": {"p0": 0}}
            return Capabilities(
                keyword=keyword,
                binds=exists and self._finds(name, "page == {p0}", {0}, bound),
                infix=self._finds(name, 'metadata["a"] like "%x\\\\%%"', {1}),
                exists=exists and self._finds(name, 'not (exists metadata["a"])', {0}),
                loose=self._finds(name, 'metadata["a"] != 1', {0, 1, 3, 4, 5}),
            )
        finally:
            self.drop(name)

    def _try_keyword(self, name: str) -> None:
        self._make(name, 8, "cosine", True)
        self._ask("upsert", name, PROBES)
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

    def _write(self, name: str, rows: Sequence[Row]) -> None:
        """The client's handler takes a message that is made already, and then asks for no schema."""
        with _translated():
            handler = self._connected()._get_connection()
            message = {"upsert_param": upsert_of(name, rows), "schema": {"fields": []}}
            handler.upsert(name, [], timeout=WRITTEN_WITHIN_S, retry_on_rate_limit=False, **message)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._url)
            return self._client


class VectorStore:
    """The same for an event loop: each call in a thread, given up when it takes too long."""

    def __init__(self, url: str):
        self.blocking = Milvus(url)
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

    async def kept(self, name: str, chunk_ids: Sequence[str], with_vectors: bool) -> dict[str, Kept]:
        return await self._run(self.blocking.kept, name, chunk_ids, with_vectors, within_s=None)

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


def _works(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except VectorsRefused:
        return False
    return True


def _persist(work: Callable[[], T]) -> T:
    """Waits longer from try to try, some ten seconds in all, and not as long as others do."""
    for wait_s in (0.2 * 2**n for n in range(TRIES - 1)):
        try:
            return work()
        except Unavailable:
            time.sleep(wait_s * random.uniform(0.5, 1.5))
    return work()


def _connect(url: str) -> Any:
    """A client with a channel of its own. What fails is raised, and not logged beside."""
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient(url, timeout=CONNECT_WITHIN_S, dedicated=True)


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
