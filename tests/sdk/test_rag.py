"""Collections, ingestion and search through the client, against the real routes, driver and vector store."""

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pytest

from actors.ingestion import Driver
from codexos import (
    AsyncClient,
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
    WaitTimeoutError,
    _records,
)
from codexos._ray import DatasetWriter, write_batch
from codexos._records import batches, document_of
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block
from kernel.storage.jobs import Lease
from tests.api.conftest import serving

pytestmark = pytest.mark.anyio

TEXTS = [
    {"type": "text", "location": "keys.md", "text": "Users are authenticated with an API key in a header."},
    {"type": "text", "location": "limits.md", "text": "A free plan may send a thousand requests an hour."},
]


@pytest.fixture
def settings(settings: Settings, milvus_url: str) -> Settings:
    return settings.model_copy(update={"vectors": settings.vectors.model_copy(update={"url": milvus_url})})


class Here:
    """The cluster of large jobs, in this process."""

    blocks = 2

    def __init__(self, kernel: Kernel):
        self._ingestion = kernel.ingestion

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        _, order = await self._ingestion.specs.open(lease)
        for block in blocks:
            await self._ingestion.take_in(order, block)
        return Left()


@pytest.fixture
async def driver(kernel: Kernel) -> AsyncGenerator[Driver]:
    """Jobs run while a test asks for this."""
    driver = Driver("driver-test", kernel.ingestion, kernel.subscriptions, Here(kernel), 4)
    async with serving(driver):
        yield driver


@pytest.fixture
async def collection(client: Any) -> Any:
    return await client.rag.collections.create(name="my-docs", chunk_size=400, chunk_overlap=50)


class TestCollections:
    async def test_create_get_list_update_delete(self, client: Any, collection: Any) -> None:
        assert (collection.name, collection.info.chunk_size, collection.info.documents) == ("my-docs", 400, 0)
        assert (await client.rag.collections.get(collection.id)).info == collection.info
        assert [one.id async for one in client.rag.collections.list()] == [collection.id]
        assert (await client.rag.collections.named("My-Docs")).id == collection.id
        assert await client.rag.collections.named("other") is None
        await collection.update(description="All of it")
        changed = await client.rag.collections.update(collection.id, name="docs")
        assert (changed.info.name, changed.info.description) == ("docs", "All of it")
        with pytest.raises(ConflictError):
            await client.rag.collections.create(name="docs")
        await collection.delete()
        with pytest.raises(NotFoundError):
            await collection.refresh()


class TestIngest:
    async def test_texts_until_they_are_found(self, collection: Any, driver: Driver) -> None:
        job = await collection.ingest(TEXTS)
        assert (job.status, job.has_ended, job.progress.settled) == ("queued", False, 0)
        told: list[Any] = []
        assert await job.wait(progress=lambda one: told.append(one.progress.settled), timeout=30)
        assert (job.status, job.progress.done, told[-1]) == ("completed", 2, 2)
        assert {one.location async for one in job.documents()} == {"keys.md", "limits.md"}
        found = await collection.search("How do I authenticate users?", top_k=1)
        assert (len(found), found[0].metadata["location"]) == (1, "keys.md")
        assert 0 < found[0].score <= 1

    async def test_its_events(self, collection: Any, driver: Driver) -> None:
        job = await collection.ingest(TEXTS)
        events = [event async for event in job.events()]
        assert (events[0].type, events[-1].type) == ("job.started", "job.completed")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].progress.done == 2
        assert [event async for event in job.events(after=events[-1].seq)] == []

    async def test_what_failed_and_again(self, collection: Any, driver: Driver, tmp_path: Path) -> None:
        (tmp_path / "good.md").write_text("# Good\n\nThis can be read.")
        (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 this is none")
        job = await collection.upload(tmp_path / "good.md", tmp_path / "bad.pdf", metadata={"team": "web"})
        await job.wait(timeout=60)
        assert job.status == "completed_with_errors"
        (failed,) = [one async for one in job.documents(status="failed")]
        assert failed.reason
        assert job.info.errors[0].reason == failed.reason
        again = await job.retry()
        assert again.id != job.id
        assert (await again.wait(timeout=60)).progress.failed == 1
        assert [one.id async for one in collection.jobs()] == [again.id, job.id]
        found = await collection.search("read", filters={"team": "web"})
        assert found[0].metadata["title"]

    async def test_sync_takes_out_what_is_gone(self, collection: Any, driver: Driver) -> None:
        await (await collection.ingest(TEXTS)).wait(timeout=30)
        job = await (await collection.ingest(TEXTS[:1], sync=True)).wait(timeout=30)
        assert (job.progress.skipped, job.progress.deleted) == (1, 1)
        assert [one.location async for one in collection.documents()] == ["keys.md"]

    async def test_waiting_ends_and_the_job_goes_on(self, client: Any, collection: Any) -> None:
        job = await collection.ingest(TEXTS)
        with pytest.raises(WaitTimeoutError):
            await job.wait(timeout=0.1)
        assert (await client.rag.jobs.get(job.id)).status == "queued"
        assert (await job.cancel()).status == "cancelled"
        assert await job.wait() is not None

    async def test_sources_that_are_refused(self, collection: Any) -> None:
        with pytest.raises(UnprocessableEntityError) as caught:
            await collection.ingest([{"type": "file", "location": "/etc/passwd"}])
        assert caught.value.details["field"] == "sources[0].location"


class TestDocuments:
    async def test_list_get_delete_stats(self, collection: Any, driver: Driver) -> None:
        await (await collection.ingest(TEXTS)).wait(timeout=30)
        listed = [one async for one in collection.documents(limit=1)]
        assert {one.location for one in listed} == {"keys.md", "limits.md"}
        assert (await collection.document(listed[0].id)) == listed[0]
        stats = await collection.stats()
        assert (stats.documents, stats.source_types, stats.vectors.metric) == (2, {"text": 2}, "cosine")
        await collection.delete_document(listed[0].id)
        assert (await collection.refresh()).info.documents == 1


class TestSearch:
    async def test_a_table_of_what_was_found(self, collection: Any, driver: Driver) -> None:
        await (await collection.ingest(TEXTS)).wait(timeout=30)
        found = await collection.search("requests hour", mode="keyword", min_score=0.01)
        table = found.to_pandas()
        assert list(table["location"]) == [hit.metadata["location"] for hit in found] == ["limits.md"]
        assert {"text", "score", "score_dense", "score_keyword", "title", "chunk_id"} <= set(table.columns)
        assert found.to_arrow().num_rows == 1

    async def test_several_collections(self, client: Any, collection: Any, driver: Driver) -> None:
        await (await collection.ingest(TEXTS)).wait(timeout=30)
        found = await client.rag.search("authenticate", collection_ids=[collection.id], top_k=1)
        assert [hit.collection_id for hit in found] == [collection.id]

    async def test_nothing_found_is_an_empty_table(self, collection: Any) -> None:
        found = await collection.search("anything")
        assert (len(found), len(found.to_pandas()), found.to_arrow().num_rows) == (0, 0, 0)

    async def test_filters_that_are_refused(self, collection: Any) -> None:
        with pytest.raises(UnprocessableEntityError):
            await collection.search("x", filters={"source_type": {"like": "x"}})


ROWS = [
    {"id": "a", "text": "Keys are made under Settings.", "title": "Keys", "metadata": {"n": 1}},
    {"id": "b", "text": "Plans have limits.", "title": None, "metadata": None},
]


class TestWrite:
    @pytest.mark.parametrize(
        "made",
        [list, iter, pandas.DataFrame, pyarrow.Table.from_pylist, pyarrow.RecordBatch.from_pylist],
        ids=["dicts", "iterator", "pandas", "table", "batch"],
    )
    async def test_any_table(self, collection: Any, driver: Driver, made: Callable[[Any], Any]) -> None:
        group = await collection.write(made(ROWS))
        await group.wait(timeout=30)
        assert (group.status, group.progress.done, len(group.jobs)) == ("completed", 2, 1)
        found = await collection.search("keys settings", filters={"n": 1})
        assert (found[0].metadata["location"], found[0].metadata["title"]) == ("a", "Keys")

    async def test_in_batches_as_one(
        self, collection: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_records, "MOST_DOCUMENTS", 2)
        group = await collection.write({"id": str(n), "text": f"Number {n}"} for n in range(5))
        told: list[int] = []
        await group.wait(progress=lambda one: told.append(one.progress.done), timeout=30)
        assert (len(group.jobs), group.progress.done, told[-1], group.has_ended) == (3, 5, 5, True)
        assert len([one async for one in group.documents(status="done")]) == 5
        again = await collection.write([{"id": "1", "text": "Number 1"}, {"id": "2", "text": "Other"}])
        await again.wait(timeout=30)
        assert (again.progress.skipped, again.progress.done) == (1, 1)
        assert (await again.retry()).jobs == []

    async def test_an_empty_table(self, collection: Any) -> None:
        group = await collection.write([])
        assert (group.jobs, group.status, group.has_ended) == ([], "completed", True)

    async def test_with_vectors(self, collection: Any, driver: Driver) -> None:
        dimension = (await collection.stats()).vectors.dimension
        vector = numpy.ones(dimension, dtype="float32")
        group = await collection.write(pandas.DataFrame([{"id": "v", "text": "One chunk", "vector": vector}]))
        await group.wait(timeout=30)
        assert group.status == "completed"

    async def test_cancel(self, collection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_records, "MOST_DOCUMENTS", 1)
        group = await collection.write(ROWS)
        assert group.status == "queued"
        assert [job.status for job in (await group.cancel()).jobs] == ["cancelled", "cancelled"]

    async def test_documents_that_are_refused(self, collection: Any) -> None:
        with pytest.raises(UnprocessableEntityError) as caught:
            await collection.write([{"id": "a", "text": "x"}, {"id": "b", "text": " "}])
        assert caught.value.details["field"] == "documents[1].text"

    async def test_from_a_worker(self, base_url: str, key: str, driver: Driver) -> None:
        """What a task of a Ray Dataset does, and the same task tried anew."""
        async with AsyncClient(base_url=base_url, api_key=key) as client:
            collection = await client.rag.collections.create(name="dataset")
            transport = client._transport
            writer = DatasetWriter(transport.connection, transport.options, collection.id, "run-1")
            writer = pickle.loads(pickle.dumps(writer))
            table = pyarrow.Table.from_pylist(ROWS)
            first = await asyncio.to_thread(write_batch, table, writer)
            assert await asyncio.to_thread(write_batch, table, writer) == first
            job = await client.rag.jobs.get(first["job_id"][0].as_py())
            assert (await job.wait(timeout=30)).progress.done == 2
            assert write_batch(table[:0], writer).schema == first.schema


class TestRows:
    def test_names(self) -> None:
        assert document_of({"location": "a", "text": "x"}) == {"id": "a", "text": "x"}
        assert document_of({"id": numpy.int64(7), "location": None, "text": "x"}) == {"id": "7", "text": "x"}

    def test_what_tables_write_for_nothing(self) -> None:
        frame = pandas.DataFrame([{"id": "a", "text": "x", "title": "T"}, {"id": "b", "text": "y"}])
        assert [document_of(row) for row in _records.rows_of(frame)][1] == {"id": "b", "text": "y"}
        structs = pyarrow.Table.from_pylist(
            [
                {"id": "a", "text": "x", "metadata": {"n": 1}},
                {"id": "b", "text": "y", "metadata": {"m": [2.5]}},
            ]
        )
        found = [document_of(row)["metadata"] for row in _records.rows_of(structs)]
        assert found == [{"n": 1}, {"m": [2.5]}]

    def test_values_that_json_does_not_have(self) -> None:
        when = pandas.Timestamp("2024-01-15T10:00:00Z")
        row = {"id": "a", "text": "x", "metadata": {"at": when, "n": numpy.float32(1.5), "none": pandas.NA}}
        assert document_of(row)["metadata"] == {"at": "2024-01-15T10:00:00+00:00", "n": 1.5}

    @pytest.mark.parametrize("row", [{"id": "a"}, {"text": "x"}, {"id": None, "text": "x"}])
    def test_rows_that_lack_something(self, row: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="needs `text`, and `id`"):
            document_of(row)

    def test_columns_that_documents_do_not_have(self) -> None:
        with pytest.raises(ValueError, match=r"\['author'\].*metadata"):
            document_of({"id": "a", "text": "x", "author": "y"})

    def test_batches_are_bounded_by_count_and_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_records, "MOST_DOCUMENTS", 3)
        monkeypatch.setattr(_records, "MOST_BYTES", 120)
        rows = [{"id": str(n), "text": "x" * (60 if n > 3 else 1)} for n in range(6)]
        assert [[one["id"] for one in batch] for batch in batches(iter(rows))] == [
            ["0", "1", "2"],
            ["3", "4"],
            ["5"],
        ]
