"""Documents on their way in, through the whole API: a driver in this process, over a real store of vectors."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from actors.ingestion import Driver
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.clock import rfc3339
from kernel.ids import new_id
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block
from kernel.storage import keys
from kernel.storage.jobs import JobLost, Lease, VectorsMoved
from tests.api.conftest import Client, limited, serving

pytestmark = pytest.mark.anyio

ONE = {
    "type": "text",
    "location": "keys.md",
    "text": "Make an API key under Settings, then send it as bearer.",
}


class Here:
    """The cluster of these tests: it works in this process."""

    blocks = 2

    def __init__(self, kernel: Kernel):
        self._ingestion = kernel.ingestion

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        again = set()
        for block in blocks:
            _, order = await self._ingestion.specs.open(lease)
            try:
                await self._ingestion.take_in(order, block)
            except VectorsMoved:
                again.add(block.number)
        return Left(again)


@pytest.fixture
def settings(valkey_url: str, milvus_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        store={"url": valkey_url},
        vectors={"url": milvus_url},
        ingestion={"max_upload_mb": 1, "inline_documents": 5, "block": 4},
        egress_allow="127.0.0.0/8",
    )


@pytest.fixture
async def driver(kernel: Kernel) -> AsyncGenerator[Driver]:
    """Jobs run while a test asks for this."""
    driver = Driver("driver-test", kernel.ingestion, kernel.subscriptions, Here(kernel), jobs=2)
    async with serving(driver):
        yield driver


@pytest.fixture
async def collection(owner: Client) -> str:
    made: dict[str, str] = await owner.ok("POST", "/v1/rag/collections", {"name": "docs"})
    return made["id"]


async def ingest(client: Client, collection: str, *sources: Any, **options: Any) -> str:
    body = {"sources": list(sources)} | options
    started: dict[str, str] = await client.ok("POST", f"/v1/rag/collections/{collection}/ingest", body)
    return started["job_id"]


async def ended(client: Client, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            job: dict[str, Any] = await client.ok("GET", f"/v1/rag/jobs/{job_id}")
            if job["status"] not in ("queued", "running"):
                return job
            await asyncio.sleep(0.02)


async def search(client: Client, collection: str, query: str) -> list[str]:
    """Locations that were found."""
    found = await client.ok("POST", f"/v1/rag/collections/{collection}/search", {"query": query})
    return [result["metadata"]["location"] for result in found["results"]]


def texts(count: int) -> list[dict[str, str]]:
    return [
        {"type": "text", "location": f"{n:03}.md", "text": f"Page {n} of the handbook."} for n in range(count)
    ]


class TestIngest:
    async def test_what_a_completed_job_wrote_is_found(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        job = await ended(owner, await ingest(owner, collection, ONE))
        assert job["status"] == "completed"
        assert job["progress"] == {"discovered": 1, "done": 1, "skipped": 0, "failed": 0, "deleted": 0}
        assert (job["chunks"], job["bytes"], job["errors"]) == (1, len(ONE["text"]), [])
        assert job["sources"] == [{"type": "text", "location": "keys.md"}]
        assert await search(owner, collection, "How do I send my key?") == ["keys.md"]

    async def test_no_more_than_the_plan_allows_in_a_day(
        self, owner: Client, collection: str, driver: Driver, kernel: Kernel
    ) -> None:
        workspace = (await owner.ok("GET", "/v1/workspaces"))["workspaces"][0]["id"]
        limits = '{"ingest_mb_per_day":1}'
        await kernel.store.call("HSET", keys.key("workspace", workspace), "limits", limits)
        kernel.access._changed(None)
        await ended(owner, await ingest(owner, collection, ONE))
        day = keys.key("spend", workspace, period=rfc3339(kernel.clock.now_ms())[:10])
        assert await kernel.store.call("HGET", day, "i") == str(len(ONE["text"])).encode()
        await kernel.store.call("HSET", day, "i", 1_000_000)
        path = f"/v1/rag/collections/{collection}"
        documents = {"documents": [{"id": "a", "text": "x"}]}
        for call in (
            ("POST", f"{path}/ingest", {"sources": [ONE]}),
            ("POST", f"{path}/documents", documents),
        ):
            refused = await owner(*call)
            assert refused.status_code == 429
            assert refused.json()["error"]["details"] == {"limit": "ingest", "max": 1}
            assert 0 < int(refused.headers["retry-after"]) <= 86_400
        await kernel.store.call("HSET", day, "i", 999_999)
        await ingest(owner, collection, ONE)

    async def test_the_answer_says_where_to_look(self, owner: Client, collection: str) -> None:
        path = f"/v1/rag/collections/{collection}/ingest"
        answer = await owner("POST", path, {"sources": [ONE]})
        told = answer.json()
        assert (answer.status_code, told["status"]) == (202, "queued")
        assert answer.headers["location"] == told["links"]["self"] == f"/v1/rag/jobs/{told['job_id']}"
        assert (await owner.ok("GET", told["links"]["self"]))["status"] == "queued"

    async def test_the_reference_s_order_is_accepted(self, owner: Client, collection: str) -> None:
        body = {
            "sources": [
                {"type": "url", "location": "https://docs.example.com"},
                {
                    **{"type": "github", "location": "https://github.com/org/repo"},
                    **{"branch": "main", "paths": ["docs/"]},
                },
                {"type": "file", "location": "s3://bucket/file.pdf"},
            ]
        }
        answer = await owner("POST", f"/v1/rag/collections/{collection}/ingest", body)
        assert answer.status_code == 202

    async def test_a_large_one_goes_to_the_cluster(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        job = await ended(owner, await ingest(owner, collection, *texts(30)))
        assert (job["status"], job["progress"]["done"]) == ("completed", 30)
        assert (job["sources_count"], len(job["sources"])) == (30, 20)

    async def test_a_second_run_skips_changes_and_with_sync_takes_out(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        await ended(owner, await ingest(owner, collection, *texts(3)))
        changed = [texts(1)[0], texts(2)[1] | {"text": "Quite another text."}]
        job = await ended(owner, await ingest(owner, collection, *changed, sync=True))
        assert job["progress"] == {"discovered": 2, "done": 1, "skipped": 1, "failed": 0, "deleted": 1}
        listed = await owner.ok("GET", f"/v1/rag/collections/{collection}/documents")
        assert sorted(one["location"] for one in listed["documents"]) == ["000.md", "001.md"]

    async def test_repeating_the_request_starts_one_job(self, owner: Client, collection: str) -> None:
        path, headers = f"/v1/rag/collections/{collection}/ingest", {"idempotency-key": "once"}
        first, second = [await owner("POST", path, {"sources": [ONE]}, headers=headers) for _ in range(2)]
        assert first.json() == second.json()
        assert second.headers["idempotent-replayed"] == "true"
        listed = await owner.ok("GET", f"/v1/rag/collections/{collection}/jobs")
        assert listed["pagination"]["total"] == 1

    @pytest.mark.parametrize(
        ("entry", "field"),
        [
            ({"type": "url", "location": "http://169.254.169.254/"}, "sources[1].location"),
            ({"type": "url", "location": "ftp://example.com"}, "sources[1].location"),
            ({"type": "url"}, "sources[1].location"),
            ({"type": "file", "location": "upload_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}, "sources[1].location"),
            ({"type": "file", "location": "/etc/passwd"}, "sources[1].location"),
            ({"type": "text", "location": "a", "text": " "}, "sources[1].text"),
            ({"type": "text", "location": "a", "text": "x", "metadata": {"pk": 1}}, "sources[1].metadata.pk"),
            (
                {"type": "text", "location": "a", "text": "x", "metadata": {"version": [1]}},
                "sources[1].metadata.version",
            ),
            ({"type": "file", "location": "s3://bucket/a.md", "name": "b.md"}, "sources[1].name"),
            ({"type": "carrier pigeon"}, "sources[1]"),
            (7, "sources[1]"),
        ],
    )
    async def test_bad_entries_are_named(
        self, owner: Client, collection: str, entry: Any, field: str
    ) -> None:
        answer = await owner("POST", f"/v1/rag/collections/{collection}/ingest", {"sources": [ONE, entry]})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)
        listed = await owner.ok("GET", f"/v1/rag/collections/{collection}/jobs")
        assert listed["jobs"] == []

    async def test_all_of_them_at_once(self, owner: Client, collection: str) -> None:
        bad = {"type": "url", "location": "http://10.0.0.1/"}
        answer = await owner("POST", f"/v1/rag/collections/{collection}/ingest", {"sources": [bad, ONE, bad]})
        fields = [error["field"] for error in answer.json()["error"]["details"]["errors"]]
        assert fields == ["sources[0].location", "sources[2].location"]

    @pytest.mark.parametrize(
        "body", [{}, {"sources": []}, {"sources": [ONE], "sink": 1}, {"sources": [ONE] * 1001}]
    )
    async def test_bad_orders(self, owner: Client, collection: str, body: Any) -> None:
        assert (await owner("POST", f"/v1/rag/collections/{collection}/ingest", body)).status_code == 422


class TestJobs:
    async def test_documents_of_a_job(self, owner: Client, collection: str, driver: Driver) -> None:
        await ended(owner, await ingest(owner, collection, *texts(2)))
        upload = await send(owner, collection, b"%PDF-1.7 cut off", "broken.pdf")
        broken = {"type": "file", "location": upload.json()["id"]}
        job = await ended(owner, await ingest(owner, collection, *texts(3), broken))
        assert job["status"] == "completed_with_errors"
        assert [error["location"] for error in job["errors"]] == ["broken.pdf"]
        path = f"/v1/rag/jobs/{job['id']}/documents"
        listed = (await owner.ok("GET", path))["documents"]
        assert [one["status"] for one in listed] == ["failed", "done", "skipped", "skipped"]
        assert listed[0]["reason"] == job["errors"][0]["reason"]
        page = await owner.ok("GET", f"{path}?limit=2&page=2")
        assert [one["status"] for one in page["documents"]] == ["skipped", "skipped"]
        assert page["pagination"] == {"page": 2, "limit": 2, "total": 4, "pages": 2}
        done = await owner.ok("GET", f"{path}?status=done")
        assert [one["location"] for one in done["documents"]] == ["002.md"]
        assert (await owner("GET", f"{path}?status=lost")).status_code == 422

    async def test_a_retry_takes_only_what_failed(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        upload = await send(owner, collection, b"%PDF-1.7 cut off", "broken.pdf")
        broken = {"type": "file", "location": upload.json()["id"]}
        first = await ended(owner, await ingest(owner, collection, *texts(3), broken))
        again = await owner.ok("POST", f"/v1/rag/jobs/{first['id']}/retry")
        second = await ended(owner, again["job_id"])
        assert second["retry_of"] == first["id"]
        assert second["progress"] == {"discovered": 1, "done": 0, "skipped": 0, "failed": 1, "deleted": 0}

    async def test_a_cancelled_one_is_retried_whole(
        self, owner: Client, collection: str, kernel: Kernel
    ) -> None:
        job_id = await ingest(owner, collection, ONE)
        path = f"/v1/rag/jobs/{job_id}"
        for _ in range(2):
            assert await owner.ok("POST", f"{path}/cancel") == {"id": job_id, "status": "cancelled"}
        assert (await owner.ok("GET", path))["status"] == "cancelled"
        again = await owner.ok("POST", f"{path}/retry")
        assert (await owner.ok("GET", f"/v1/rag/jobs/{again['job_id']}"))["retry_of"] == job_id

    async def test_what_is_over_can_neither_be_cancelled_nor_retried(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        job = await ended(owner, await ingest(owner, collection, ONE))
        for what in ("cancel", "retry"):
            assert (await owner("POST", f"/v1/rag/jobs/{job['id']}/{what}")).status_code == 409

    async def test_one_that_hangs_is_cancelled_within_two_seconds(
        self, owner: Client, collection: str, driver: Driver, kernel: Kernel
    ) -> None:
        begun = asyncio.Event()

        async def hang(*args: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        kernel.ingestion.tools.vectors.upsert = hang  # type: ignore[method-assign]
        job_id = await ingest(owner, collection, ONE)
        await begun.wait()
        async with asyncio.timeout(2):
            await owner.ok("POST", f"/v1/rag/jobs/{job_id}/cancel")
            assert (await owner.ok("GET", f"/v1/rag/jobs/{job_id}"))["status"] == "cancelled"

    async def test_a_list_newest_first(self, owner: Client, collection: str) -> None:
        ids = [await ingest(owner, collection, ONE) for _ in range(3)]
        path = f"/v1/rag/collections/{collection}/jobs"
        first = await owner.ok("GET", f"{path}?limit=2")
        assert [job["id"] for job in first["jobs"]] == ids[:0:-1]
        rest = await owner.ok("GET", f"{path}?limit=2&cursor={first['next_cursor']}")
        assert [job["id"] for job in rest["jobs"]] == ids[:1]

    async def test_too_many_at_once(
        self, owner: Client, collection: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kernel.knowledge import jobs

        monkeypatch.setattr(jobs, "MOST_ACTIVE", 1)
        await ingest(owner, collection, ONE)
        answer = await owner("POST", f"/v1/rag/collections/{collection}/ingest", {"sources": [ONE]})
        assert (answer.status_code, answer.json()["error"]["details"]["limit"]) == (429, "jobs")


class TestEvents:
    async def test_from_start_to_end_and_again(self, owner: Client, collection: str, driver: Driver) -> None:
        job_id = await ingest(owner, collection, ONE)
        path = f"/v1/rag/jobs/{job_id}/events"
        live = await owner("GET", path)
        assert live.headers["content-type"].startswith("text/event-stream")
        told = [orjson.loads(line[6:]) for line in live.text.splitlines() if line.startswith("data: ")]
        assert [one["type"] for one in told] == ["job.started", "job.completed"]
        assert [one["seq"] for one in told] == [1, 2]
        assert told[1]["data"]["progress"]["done"] == 1
        replayed = await owner("GET", path, headers={"last-event-id": "1"})
        assert replayed.text.count("data: ") == 1
        assert (await owner("GET", f"{path}?after=2")).status_code == 204


async def send(
    client: Client, collection: str, data: bytes, name: str = "a.md", **options: Any
) -> httpx2.Response:
    files = {"file": (name, data, "text/markdown")}
    path = f"/v1/rag/collections/{collection}/uploads"
    headers = {"authorization": f"Bearer {client.key}"} | options.pop("headers", {})
    return await client.http.post(path, files=files, headers=headers, **options)


class TestUploads:
    async def test_a_file_is_taken_in_by_its_id(self, owner: Client, collection: str, driver: Driver) -> None:
        answer = await send(owner, collection, b"# Keys\n\nSend the key as bearer.", "docs/keys.md")
        upload = answer.json()
        assert answer.status_code == 201
        assert (upload["name"], upload["size"]) == ("keys.md", 31)
        job = await ended(owner, await ingest(owner, collection, {"type": "file", "location": upload["id"]}))
        assert job["status"] == "completed", job
        assert await search(owner, collection, "bearer") == ["keys.md"]
        listed = await owner.ok("GET", f"/v1/rag/collections/{collection}/documents")
        shown = [(one["location"], one["source_location"]) for one in listed["documents"]]
        assert shown == [("keys.md", upload["id"])]

    async def test_a_file_of_the_same_name_replaces_the_one_before(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        for text in (b"The first bearer.", b"The second bearer.", b"The second bearer."):
            upload = (await send(owner, collection, text, "keys.md")).json()
            job = await ended(
                owner, await ingest(owner, collection, {"type": "file", "location": upload["id"]})
            )
        assert job["progress"]["skipped"] == 1
        (one,) = (await owner.ok("GET", f"/v1/rag/collections/{collection}/documents"))["documents"]
        assert (one["location"], one["source_location"]) == ("keys.md", upload["id"])
        found = await owner.ok("POST", f"/v1/rag/collections/{collection}/search", {"query": "bearer"})
        assert [result["text"] for result in found["results"]] == ["The second bearer."]

    async def test_two_of_one_order_are_told_apart_by_a_name(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        ids = [(await send(owner, collection, b"A bearer.", f"{at}/keys.md")).json()["id"] for at in "ab"]
        files = [{"type": "file", "location": one} for one in ids]
        body = {"sources": files}
        answer = await owner("POST", f"/v1/rag/collections/{collection}/ingest", body)
        assert answer.json()["error"]["details"]["field"] == "sources[1].name"
        await ended(owner, await ingest(owner, collection, files[0], files[1] | {"name": "b/keys.md"}))
        assert sorted(await search(owner, collection, "bearer")) == ["b/keys.md", "keys.md"]

    async def test_repeating_the_request_keeps_one_file(
        self, owner: Client, collection: str, kernel: Kernel
    ) -> None:
        headers = {"idempotency-key": "once"}
        first, second = [await send(owner, collection, b"text", headers=headers) for _ in range(2)]
        assert first.json() == second.json()
        assert second.headers["idempotent-replayed"] == "true"
        other = await send(owner, collection, b"other", headers=headers)
        assert other.status_code == 409
        assert await files(kernel) == [first.json()["id"]]

    async def test_too_large_is_told_while_it_comes(
        self, owner: Client, collection: str, kernel: Kernel
    ) -> None:
        taken = 0

        async def endless() -> AsyncGenerator[bytes]:
            nonlocal taken
            yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            while taken < 50_000_000:
                taken += 100_000
                yield b"x" * 100_000

        headers = {"authorization": f"Bearer {owner.key}", "content-type": "multipart/form-data; boundary=x"}
        path = f"/v1/rag/collections/{collection}/uploads"
        answer = await owner.http.post(path, content=endless(), headers=headers)
        assert answer.status_code == 413
        assert await files(kernel) == []

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"{}", "application/json", 415),
            (b"x", "multipart/form-data", 415),
            (b"nonsense", "multipart/form-data; boundary=x", 422),
            (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
            (
                b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc',
                "multipart/form-data; boundary=x",
                422,
            ),
            (
                b'--x\r\ncontent-disposition: form-data; name="other"; filename="a"\r\n\r\nabc\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
                422,
            ),
            (
                b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
                422,
            ),
            (
                b'--x\r\ncontent-disposition: form-data; name="file"; filename="\x00a"\r\n\r\nabc\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
                422,
            ),
        ],
    )
    async def test_bad_forms(
        self, owner: Client, collection: str, kernel: Kernel, body: bytes, kind: str, status: int
    ) -> None:
        headers = {"authorization": f"Bearer {owner.key}", "content-type": kind}
        path = f"/v1/rag/collections/{collection}/uploads"
        answer = await owner.http.post(path, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert await files(kernel) == []

    async def test_of_a_collection_that_is_not_there(self, owner: Client, kernel: Kernel) -> None:
        assert (await send(owner, new_id("col"), b"x")).status_code == 404


async def files(kernel: Kernel) -> list[str]:
    root = kernel.settings.root / "objects" / "ingestion"
    return sorted(path.name for path in root.rglob("*") if path.is_file())


class TestWriting:
    async def test_documents_as_json(self, owner: Client, collection: str, driver: Driver) -> None:
        rows = [{"id": f"faq-{n}", "text": f"Answer number {n}.", "metadata": {"n": n}} for n in range(3)]
        path = f"/v1/rag/collections/{collection}/documents"
        started = await owner.ok("POST", path, {"documents": rows})
        job = await ended(owner, started["job_id"])
        assert (job["status"], job["progress"]["done"]) == ("completed", 3)
        listed = await owner.ok("GET", path)
        assert sorted(one["location"] for one in listed["documents"]) == ["faq-0", "faq-1", "faq-2"]

    async def test_of_two_with_one_id_the_last_counts(
        self, owner: Client, collection: str, driver: Driver, kernel: Kernel
    ) -> None:
        rows = [{"id": "a", "text": "first"}, {"id": "a", "text": "second"}]
        started = await owner.ok("POST", f"/v1/rag/collections/{collection}/documents", {"documents": rows})
        job = await ended(owner, started["job_id"])
        assert (job["progress"]["discovered"], job["progress"]["done"], job["bytes"]) == (1, 1, 6)

    async def test_what_was_sent_is_not_kept(
        self, owner: Client, collection: str, driver: Driver, kernel: Kernel
    ) -> None:
        rows = [{"id": "a", "text": "first"}]
        started = await owner.ok("POST", f"/v1/rag/collections/{collection}/documents", {"documents": rows})
        await ended(owner, started["job_id"])
        async with asyncio.timeout(5):
            while await files(kernel):  # noqa: ASYNC110  the driver tidies up after the end
                await asyncio.sleep(0.01)

    async def test_documents_line_by_line_with_vectors(
        self, owner: Client, collection: str, driver: Driver
    ) -> None:
        rows = [{"id": "a", "text": "one " * 2000, "vector": [1.0] * 256}, {"id": "b", "text": "two"}]
        job = await ended(owner, (await self.lines(owner, collection, rows)).json()["job_id"])
        assert (job["progress"]["done"], job["chunks"]) == (2, 2)
        changed = [rows[0] | {"vector": [0.5] * 255 + [1.0]}, rows[1]]
        job = await ended(owner, (await self.lines(owner, collection, changed)).json()["job_id"])
        assert (job["progress"]["done"], job["progress"]["skipped"]) == (1, 1)

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            ({"text": "x"}, "documents[1].id"),
            ({"id": "a"}, "documents[1].text"),
            ({"id": "a" * 300, "text": "x"}, "documents[1].id"),
            ({"id": "a", "text": "x", "vector": [1.0, 2.0]}, "documents[1].vector"),
            ({"id": "a", "text": "x", "vector": [0.0] * 256}, "documents[1].vector"),
            ({"id": "a", "text": "x", "vector": ["1"] * 256}, "documents[1].vector[0]"),
            ({"id": "a", "text": "x", "vector": [None] * 256}, "documents[1].vector[0]"),
            ({"id": "a", "text": "x", "metadata": {"tenant": 1}}, "documents[1].metadata.tenant"),
            ({"id": "a", "text": "x", "colour": 1}, "documents[1].colour"),
        ],
    )
    async def test_bad_rows_are_named(self, owner: Client, collection: str, row: Any, field: str) -> None:
        good = {"id": "b", "text": "fine"}
        answers = [
            await owner("POST", f"/v1/rag/collections/{collection}/documents", {"documents": [good, row]}),
            await self.lines(owner, collection, [good, row]),
        ]
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field), (
                answer.text
            )

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"documents":[]}', b"\xff", b'{"documents":[{"id":"a","id":"b"}]}']
    )
    async def test_bad_bodies(self, owner: Client, collection: str, body: bytes) -> None:
        headers = {"authorization": f"Bearer {owner.key}", "content-type": "application/json"}
        path = f"/v1/rag/collections/{collection}/documents"
        assert (await owner.http.post(path, content=body, headers=headers)).status_code == 422

    async def lines(self, client: Client, collection: str, rows: Sequence[Any]) -> httpx2.Response:
        headers = {"authorization": f"Bearer {client.key}", "content-type": "application/x-ndjson"}
        body = b"\n".join(map(orjson.dumps, rows)) + b"\n"
        return await client.http.post(
            f"/v1/rag/collections/{collection}/documents", content=body, headers=headers
        )


class TestWalls:
    async def test_nobody_and_strangers(
        self, anonymous: Client, owner: Client, stranger: Client, collection: str
    ) -> None:
        job_id = await ingest(owner, collection, ONE)
        for method, path, body in routes(collection, job_id):
            assert (await anonymous(method, path, body)).status_code == 401
            answer = await stranger(method, path, body)
            assert answer.status_code == 404, (method, path, answer.text)
        assert (await send(stranger, collection, b"x")).status_code == 404
        assert (await owner.ok("GET", f"/v1/rag/jobs/{job_id}"))["status"] == "queued"

    async def test_keys_see_the_collections_they_are_for(
        self, owner: Client, kernel: Kernel, collection: str
    ) -> None:
        mine = await owner.ok("POST", "/v1/rag/collections", {"name": "mine"})
        job_id, own = await ingest(owner, collection, ONE), await ingest(owner, mine["id"], ONE)
        options = {"scopes": ["rag:read", "rag:write"], "collections": [mine["id"]]}
        key = Client(owner.http, await limited(kernel.access, owner, **options))
        for method, path, body in routes(collection, job_id):
            assert (await key(method, path, body)).status_code == 404, path
        assert (await send(key, collection, b"x")).status_code == 404
        assert (await key.ok("GET", f"/v1/rag/jobs/{own}"))["id"] == own

    async def test_readers_do_not_write(self, owner: Client, kernel: Kernel, collection: str) -> None:
        job_id = await ingest(owner, collection, ONE)
        reader = Client(owner.http, await limited(kernel.access, owner, scopes=["rag:read"]))
        for method, path, body in routes(collection, job_id):
            expected = 403 if method == "POST" else 200
            assert (await reader(method, path, body)).status_code == expected or path.endswith("/events")
        assert (await send(reader, collection, b"x")).status_code == 403


def routes(collection: str, job_id: str) -> list[tuple[str, str, Any]]:
    return [
        ("POST", f"/v1/rag/collections/{collection}/ingest", {"sources": [ONE]}),
        ("POST", f"/v1/rag/collections/{collection}/documents", {"documents": [{"id": "a", "text": "x"}]}),
        ("GET", f"/v1/rag/collections/{collection}/jobs", None),
        ("GET", f"/v1/rag/jobs/{job_id}", None),
        ("GET", f"/v1/rag/jobs/{job_id}/documents", None),
        ("POST", f"/v1/rag/jobs/{job_id}/cancel", None),
        ("POST", f"/v1/rag/jobs/{job_id}/retry", None),
    ]


async def test_a_driver_outlives_a_job_that_it_lost(
    owner: Client, collection: str, driver: Driver, kernel: Kernel
) -> None:
    async def lost(*args: Any) -> Any:
        raise JobLost("running")

    commit, kernel.ingestion.store.commit = kernel.ingestion.store.commit, lost  # type: ignore[method-assign]
    await ingest(owner, collection, ONE)
    async with asyncio.timeout(10):
        while not driver.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while driver.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    kernel.ingestion.store.commit = commit  # type: ignore[method-assign]
    other = await ingest(owner, collection, ONE | {"location": "other.md"})
    assert (await ended(owner, other))["status"] == "completed"
