"""Collections over HTTP: made, changed, searched and deleted, with documents that were taken in for real."""

import asyncio
from typing import Any

import pytest

from actors.runner import Runner
from kernel.assembly import Kernel
from kernel.ids import new_id
from tests.api.conftest import Client, limited, take_in, work_off

pytestmark = pytest.mark.anyio

REFERENCE = {
    "name": "my-docs",
    "description": "Product documentation",
    "embedding_model": "text-embedding-ada-002",
    "chunk_size": 1000,
    "chunk_overlap": 200,
}
SEARCH = {"query": "How do I authenticate users?", "top_k": 5, "filters": {"source_type": "documentation"}}
AUTH: dict[str, Any] = {
    "type": "text",
    "location": "auth.md",
    "title": "Authentication",
    "source_type": "documentation",
    "text": "Users are authenticated by an API key in the Authorization header.",
    "metadata": {"team": "web", "year": 2026},
}
SOUP: dict[str, Any] = {"type": "text", "location": "soup.md", "text": "Boil onions, carrots and a bay leaf."}


@pytest.fixture
async def docs(kernel: Kernel, owner: Client) -> str:
    """A collection of two documents."""
    collection = await owner.collection()
    await take_in(kernel, owner, collection, AUTH, SOUP)
    return collection


class TestCreate:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("POST", "/v1/rag/collections", {"name": "x"})).status_code == 401

    async def test_the_references_example(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/rag/collections", REFERENCE)
        made = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/rag/collections/{made['id']}"
        assert made == made | REFERENCE | {"documents": 0, "chunk_unit": "characters", "metric": "cosine"}
        read = await owner("GET", f"/v1/rag/collections/{made['id']}")
        assert read.json() == made
        assert read.headers["etag"] == answer.headers["etag"]
        again = await owner(
            "GET", f"/v1/rag/collections/{made['id']}", headers={"if-none-match": read.headers["etag"]}
        )
        assert again.status_code == 304

    async def test_defaults_to_the_local_model(self, owner: Client) -> None:
        made = await owner.ok("POST", "/api/v1/rag/collections", {"name": "a.B-9_"})
        assert (made["embedding_model"], made["chunk_size"], made["chunk_overlap"]) == (
            "wordllama-256",
            1000,
            200,
        )

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            *(
                ({"name": name}, "name")
                for name in ("", "x" * 65, "../x", 'a"b', "_system", "a b", "é", None)
            ),
            ({"name": "a\n"}, "name"),
            ({"embedding_model": "gpt-5"}, "embedding_model"),
            ({"embedding_model": "gpt-4"}, "embedding_model"),
            ({"embedding_model": None}, "embedding_model"),
            ({"chunk_size": 49}, "chunk_size"),
            ({"chunk_size": 8001}, "chunk_size"),
            ({"chunk_size": 2001, "chunk_unit": "tokens"}, "chunk_size"),
            ({"chunk_size": "1000"}, "chunk_size"),
            ({"chunk_size": 100.5}, "chunk_size"),
            ({"chunk_overlap": -1}, "chunk_overlap"),
            ({"chunk_overlap": 1000}, "chunk_overlap"),
            ({"chunk_unit": "words"}, "chunk_unit"),
            ({"metric": "hamming"}, "metric"),
            ({"description": "x" * 4097}, "description"),
            ({"description": "a\u0007b"}, "description"),
            ({"dimension": 0}, "dimension"),
            ({"workspace_id": "ws_1"}, "workspace_id"),
        ],
    )
    async def test_refusals_name_the_field(self, owner: Client, change: dict[str, Any], field: str) -> None:
        answer = await owner("POST", "/v1/rag/collections", {"name": "docs"} | change)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["details"]["field"] == field
        assert (await owner.ok("GET", "/v1/rag/collections"))["collections"] == []

    async def test_a_name_that_is_there_in_any_case(self, owner: Client) -> None:
        await owner.collection("Docs")
        answer = await owner("POST", "/v1/rag/collections", {"name": "docS"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")

    async def test_sent_twice_is_made_once(self, owner: Client) -> None:
        send = lambda: owner("POST", "/v1/rag/collections", {"name": "d"}, headers={"idempotency-key": "1"})  # noqa: E731
        first, second = await send(), await send()
        assert second.json() == first.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert (await owner.ok("GET", "/v1/rag/collections"))["pagination"]["total"] == 1


class TestList:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        await owner.collection()
        assert (await anonymous("GET", "/v1/rag/collections")).status_code == 401
        assert (await stranger.ok("GET", "/v1/rag/collections"))["collections"] == []

    async def test_pages(self, owner: Client) -> None:
        made = [await owner.collection(f"c{n}") for n in range(3)]
        made.sort(reverse=True)
        first = await owner.ok("GET", "/v1/rag/collections?limit=2")
        assert [one["id"] for one in first["collections"]] == made[:2]
        assert first["pagination"] == {"page": 1, "limit": 2, "total": 3, "pages": 2}
        rest = await owner.ok("GET", f"/v1/rag/collections?limit=2&cursor={first['next_cursor']}")
        assert [one["id"] for one in rest["collections"]] == made[2:]
        assert (await owner("GET", "/v1/rag/collections?limit=101")).status_code == 422


class TestChange:
    async def test_anonymous_and_strangers(
        self, owner: Client, anonymous: Client, stranger: Client, docs: str
    ) -> None:
        path = f"/v1/rag/collections/{docs}"
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            assert (await anonymous(method, path, body)).status_code == 401
            assert (await stranger(method, path, body)).status_code == 404
        assert (await owner.ok("GET", path))["documents"] == 2

    async def test_of_the_description(self, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}"
        tag = (await owner("GET", path)).headers["etag"]
        changed = await owner("PATCH", path, {"description": "x"}, headers={"if-match": tag})
        assert changed.json()["description"] == "x"
        stale = await owner("PATCH", path, {"description": "y"}, headers={"if-match": tag})
        assert (stale.status_code, stale.json()["error"]["code"]) == (409, "CONFLICT")
        assert (await owner("DELETE", path, headers={"if-match": tag})).status_code == 409
        assert (await owner.ok("GET", path))["description"] == "x"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            *(
                ({"name": name}, "name")
                for name in (
                    "",
                    "x" * 65,
                    "x" * 256,
                    "../x",
                    'a"b',
                    "_system",
                    "a b",
                    "a\n",
                    "\u202eabc",
                    None,
                    7,
                )
            ),
            ({"description": "x" * 4097}, "description"),
            ({"description": "a\u0007b"}, "description"),
            ({"description": None}, "description"),
            ({"embedding_model": "gpt-5"}, "embedding_model"),
            ({"embedding_model": "gpt-4"}, "embedding_model"),
            ({"embedding_model": ""}, "embedding_model"),
            ({"embedding_model": None}, "embedding_model"),
            ({"chunk_size": 0}, "chunk_size"),
            ({"chunk_size": 8001}, "chunk_size"),
            ({"chunk_size": 2**70}, None),
            ({"chunk_size": 500.5}, "chunk_size"),
            ({"chunk_size": "500"}, "chunk_size"),
            ({"chunk_size": True}, "chunk_size"),
            ({"chunk_size": 150}, "chunk_overlap"),
            ({"chunk_overlap": 1000}, "chunk_overlap"),
            ({"chunk_overlap": -1}, "chunk_overlap"),
            ({"chunk_unit": "tokens", "chunk_size": 2001}, "chunk_size"),
            ({"chunk_unit": "words"}, "chunk_unit"),
            ({"metric": "hamming"}, "metric"),
            ({"metric": "COSINE"}, "metric"),
            ({"metric": None}, "metric"),
            ({"dimension": 0}, "dimension"),
            ({"dimension": 32769}, "dimension"),
            ({"id": "col_1"}, "id"),
            ({"workspace_id": "ws_1"}, "workspace_id"),
            ({"documents": 0}, "documents"),
            ({"reindex": None}, "reindex"),
            ([], None),
            ("x", None),
        ],
    )
    async def test_refusals_name_the_field_and_change_nothing(
        self, owner: Client, docs: str, change: Any, field: str | None
    ) -> None:
        path = f"/v1/rag/collections/{docs}"
        before = await owner.ok("GET", path)
        body = {"name": "other", "chunk_size": 900} | change if isinstance(change, dict) else change
        answer = await owner("PATCH", path, body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
        if field:
            assert answer.json()["error"]["details"]["field"] == field
        assert await owner.ok("GET", path) == before
        assert (await owner.ok("GET", f"{path}/jobs"))["pagination"]["total"] == 1

    async def test_to_the_name_of_another_in_any_case(self, owner: Client, docs: str) -> None:
        await owner.collection("Other")
        for body in ({"name": "oTHER"}, {"name": "oTHER", "metric": "l2"}):
            answer = await owner("PATCH", f"/v1/rag/collections/{docs}", body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
        assert (await owner.ok("GET", f"/v1/rag/collections/{docs}"))["reindex"] is None

    async def test_of_an_empty_one_is_done_at_once(self, owner: Client) -> None:
        empty = await owner.collection("empty")
        changed = await owner.ok("PATCH", f"/v1/rag/collections/{empty}", {"chunk_size": 500, "metric": "l2"})
        assert (changed["chunk_size"], changed["metric"], changed["reindex"]) == (500, "l2", None)

    async def test_deleted_is_gone(self, kernel: Kernel, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}"
        assert (await owner("DELETE", path)).status_code == 204
        for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/documents"), ("GET", "/stats")):
            assert (await owner(method, path + below)).status_code == 404
        assert (await owner("POST", f"{path}/search", {"query": "x"})).status_code == 404
        assert await kernel.store.call("KEYS", f"*{docs}*") == []


class TestReindex:
    async def test_from_the_change_to_the_new_vectors(self, kernel: Kernel, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}"
        before = await owner("GET", path)
        answer = await owner(
            "PATCH", path, {"description": "x", "chunk_size": 50, "chunk_overlap": 0, "metric": "l2"}
        )
        pending = answer.json()
        job = f"/v1/rag/jobs/{pending['reindex']['job_id']}"
        assert answer.status_code == 200
        assert pending["reindex"] == {
            "job_id": pending["reindex"]["job_id"],
            "embedding_model": pending["embedding_model"],
            **{"chunk_size": 50, "chunk_overlap": 0, "chunk_unit": "characters", "metric": "l2"},
            "links": {"job": job},
        }
        changed = {name: value for name, value in pending.items() if value != before.json()[name]}
        assert set(changed) == {"description", "updated_at", "reindex"}
        read = await owner("GET", path, headers={"if-none-match": before.headers["etag"]})
        assert (read.status_code, read.json()) == (200, pending)
        shown = await owner.ok("GET", job)
        assert (shown["kind"], shown["status"], shown["sources"]) == ("reindex", "queued", [])
        assert shown["reindex"] == {"embedding_model": pending["embedding_model"], **_making(50, 0, "l2")}
        first, *others = (await owner.ok("GET", f"{path}/jobs"))["jobs"]
        assert (first["id"], [one["kind"] for one in others]) == (shown["id"], ["ingest"])
        assert await self._found(owner, path) == [AUTH["text"]]
        await work_off(kernel)
        after = await owner("GET", path)
        assert (after.json()["chunk_size"], after.json()["metric"], after.json()["reindex"]) == (
            50,
            "l2",
            None,
        )
        assert after.headers["etag"] not in (before.headers["etag"], answer.headers["etag"])
        assert after.json()["chunks"] > before.json()["chunks"]
        done = await owner.ok("GET", job)
        assert (done["status"], done["progress"]["done"], done["chunks"]) == (
            "completed",
            2,
            after.json()["chunks"],
        )
        stats = await owner.ok("GET", f"{path}/stats")
        assert (stats["chunks"], stats["vectors"]["rows"], stats["vectors"]["metric"]) == (
            *[after.json()["chunks"]] * 2,
            "l2",
        )
        assert all(len(text) <= 50 for text in await self._found(owner, path))
        documents = (await owner.ok("GET", f"{path}/documents"))["documents"]
        assert sum(one["chunks"] for one in documents) == after.json()["chunks"]
        events = await owner("GET", f"{job}/events")
        assert events.text.count('"type":"job.completed"') == 1

    async def test_one_at_a_time_and_cancelled_all_is_as_it_was(
        self, kernel: Kernel, owner: Client, docs: str
    ) -> None:
        path = f"/v1/rag/collections/{docs}"
        before = await owner.ok("GET", path)
        job_id = (await owner.ok("PATCH", path, {"metric": "ip"}))["reindex"]["job_id"]
        for body in ({"metric": "l2"}, {"metric": "ip"}, {"chunk_size": 500, "name": "x"}):
            second = await owner("PATCH", path, body)
            assert (second.status_code, second.json()["error"]["code"]) == (409, "CONFLICT")
            assert second.json()["error"]["details"] == {"reason": "reindexing", "job_id": job_id}
        assert (await owner.ok("PATCH", path, {"name": "renamed", "metric": "cosine"}))["name"] == "renamed"
        assert (await owner("POST", f"/v1/rag/jobs/{job_id}/retry")).status_code == 409
        await owner.ok("POST", f"/v1/rag/jobs/{job_id}/cancel")
        now = await owner.ok("GET", path)
        assert now == before | {"name": "renamed", "updated_at": now["updated_at"]}
        again = await owner.ok("POST", f"/v1/rag/jobs/{job_id}/retry")
        assert (await owner.ok("GET", path))["reindex"]["job_id"] == again["job_id"]
        await work_off(kernel)
        assert (await owner.ok("GET", path))["metric"] == "ip"
        assert (await owner.ok("GET", f"/v1/rag/jobs/{again['job_id']}"))["retry_of"] == job_id

    async def test_by_a_model_that_cannot_be_asked_it_fails_and_all_is_as_it_was(
        self, kernel: Kernel, owner: Client, docs: str
    ) -> None:
        path = f"/v1/rag/collections/{docs}"
        before = await owner.ok("GET", path)
        model = {"embedding_model": "text-embedding-ada-002"}
        job_id = (await owner.ok("PATCH", path, model))["reindex"]["job_id"]
        await work_off(kernel)
        job = await owner.ok("GET", f"/v1/rag/jobs/{job_id}")
        assert job["status"] == "failed"
        assert "openai" in job["error"]["message"]
        now = await owner.ok("GET", path)
        assert now == before | {"updated_at": now["updated_at"]}
        assert await self._found(owner, path) == [AUTH["text"]]

    async def test_with_a_stale_etag_none_is_started(self, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}"
        tag = (await owner("GET", path)).headers["etag"]
        await owner.ok("PATCH", path, {"description": "x"})
        stale = await owner("PATCH", path, {"metric": "l2"}, headers={"if-match": tag})
        assert stale.status_code == 409
        assert (await owner.ok("GET", path))["reindex"] is None

    async def test_deleted_in_the_middle_nothing_is_left(
        self, kernel: Kernel, owner: Client, docs: str
    ) -> None:
        path = f"/v1/rag/collections/{docs}"
        await owner.ok("PATCH", path, {"metric": "l2"})
        assert (await owner("DELETE", path)).status_code == 204
        await work_off(kernel)
        assert await kernel.store.call("KEYS", f"*{docs}*") == []

    async def _found(self, client: Client, path: str) -> list[str]:
        found = await client.ok("POST", f"{path}/search", SEARCH)
        return [one["text"] for one in found["results"]]


def _making(size: int, overlap: int, metric: str) -> dict[str, Any]:
    return {"chunk_size": size, "chunk_overlap": overlap, "chunk_unit": "characters", "metric": metric}


class TestDocuments:
    async def test_anonymous_and_strangers(
        self, owner: Client, anonymous: Client, stranger: Client, docs: str
    ) -> None:
        path = f"/v1/rag/collections/{docs}/documents"
        one = (await owner.ok("GET", path))["documents"][0]["id"]
        for method, at in (("GET", path), ("GET", f"{path}/{one}"), ("DELETE", f"{path}/{one}")):
            assert (await anonymous(method, at)).status_code == 401
            assert (await stranger(method, at)).status_code == 404
        assert (await owner.ok("GET", f"{path}/{one}"))["id"] == one

    async def test_what_they_are(self, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}/documents"
        page = await owner.ok("GET", path)
        assert page["pagination"]["total"] == 2
        auth = next(one for one in page["documents"] if one["location"] == "auth.md")
        assert auth == auth | {
            "title": "Authentication",
            "source_type": "documentation",
            "metadata": {"team": "web", "year": 2026},
            "chunks": 1,
            "bytes": len(AUTH["text"]),
        }
        assert await owner.ok("GET", f"{path}/{auth['id']}") == auth

    async def test_deleted_is_gone_from_searches(self, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}/documents"
        one = next(
            one["id"] for one in (await owner.ok("GET", path))["documents"] if one["location"] == "auth.md"
        )
        wrong = await owner("DELETE", f"{path}/{one}", headers={"if-match": '"x"'})
        assert wrong.status_code == 409
        assert (await owner("DELETE", f"{path}/{one}")).status_code == 204
        assert (await owner("DELETE", f"{path}/{one}")).status_code == 404
        found = await owner.ok("POST", f"/v1/rag/collections/{docs}/search", {"query": "API key"})
        assert [result["metadata"]["location"] for result in found["results"]] == ["soup.md"]
        stats = await owner.ok("GET", f"/v1/rag/collections/{docs}/stats")
        assert (stats["documents"], stats["vectors"]["rows"]) == (1, 1)

    @pytest.mark.parametrize("name", ["doc_1", "x", new_id("doc"), "doc_" + "0" * 300])
    async def test_ids_that_name_nothing(self, owner: Client, docs: str, name: str) -> None:
        path = f"/v1/rag/collections/{docs}/documents/{name}"
        for method in ("GET", "DELETE"):
            answer = await owner(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


class TestSearch:
    async def test_anonymous_and_strangers(
        self, owner: Client, anonymous: Client, stranger: Client, docs: str
    ) -> None:
        for path, body in (
            (f"/v1/rag/collections/{docs}/search", SEARCH),
            ("/v1/rag/search", SEARCH | {"collection_ids": [docs]}),
        ):
            assert (await anonymous("POST", path, body)).status_code == 401
            assert (await stranger("POST", path, body)).status_code == 404
        assert (await stranger.ok("POST", "/v1/rag/search", SEARCH))["results"] == []

    async def test_the_references_example(self, owner: Client, docs: str) -> None:
        found = await owner.ok("POST", f"/v1/rag/collections/{docs}/search", SEARCH)
        assert set(found) == {"results", "took_ms"}
        assert isinstance(found["took_ms"], int)
        (result,) = found["results"]
        assert set(result) == {"chunk_id", "document_id", "text", "score", "scores", "metadata"}
        assert result["text"] == AUTH["text"]
        assert 0 < result["score"] <= 1
        assert result["scores"]["dense"] > 0
        assert result["metadata"] == {
            "team": "web",
            "year": 2026,
            "source_type": "documentation",
            "location": "auth.md",
            "title": "Authentication",
            "page": None,
            "heading": None,
            "offset": 0,
        }

    async def test_modes_and_rerank(self, owner: Client, docs: str) -> None:
        path = f"/v1/rag/collections/{docs}/search"
        words = await owner.ok("POST", path, {"query": "carrots", "mode": "keyword"})
        assert [one["metadata"]["location"] for one in words["results"]] == ["soup.md"]
        assert words["results"][0]["scores"]["dense"] is None
        for more in ({"mode": "dense"}, {"rerank": True}, {"rerank": "wordllama-maxsim", "mode": "dense"}):
            found = await owner.ok("POST", path, {"query": "vegetables for a soup"} | more)
            assert found["results"][0]["metadata"]["location"] == "soup.md", more

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"query": ""}, "query"),
            ({"query": "x" * 8001}, "query"),
            ({"query": "x" * 100_000}, "query"),
            ({"query": None}, "query"),
            ({"query": ["x"]}, "query"),
            ({"top_k": 0}, "top_k"),
            ({"top_k": 1001}, "top_k"),
            ({"top_k": 1.5}, "top_k"),
            ({"top_k": True}, "top_k"),
            ({"offset": 16_000, "limit": 500}, "offset"),
            ({"mode": "exact"}, "mode"),
            ({"rerank": "gpt-4"}, "rerank"),
            ({"min_score": 2}, "min_score"),
            ({"filters": []}, "filters"),
            ({"filters": {"page": "x"}}, "filters.page"),
            ({"filters": {"and": [{"team": {"like": "x"}}]}}, "filters.and[0].team.like"),
            ({"filters": {'x"] or true or metadata["y': 1}}, "filters"),
            ({"vector": [1.0]}, "vector"),
        ],
    )
    async def test_refusals_name_the_field(
        self, owner: Client, docs: str, change: dict[str, Any], field: str
    ) -> None:
        answer = await owner("POST", f"/v1/rag/collections/{docs}/search", {"query": "soup"} | change)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["details"]["field"] == field

    async def test_a_model_without_its_key_is_told_of(self, kernel: Kernel, owner: Client, docs: str) -> None:
        """Of documents that another installation took in, say: here only what has to be embedded cannot be asked."""
        await kernel.store.call(
            "HSET", await _item_key(kernel, docs), "item", await _with_model(kernel, docs)
        )
        answer = await owner("POST", f"/v1/rag/collections/{docs}/search", {"query": "soup"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
        assert "openai" in answer.json()["error"]["message"]
        words = {"query": "carrots", "mode": "keyword"}
        assert (await owner.ok("POST", f"/v1/rag/collections/{docs}/search", words))["results"]


class TestSearchSeveral:
    async def test_names_the_collection_of_each_result(
        self, kernel: Kernel, owner: Client, docs: str
    ) -> None:
        other = await owner.collection("other")
        await take_in(kernel, owner, other, AUTH | {"location": "copy.md"})
        body = SEARCH | {"collection_ids": [docs, other, docs]}
        found = await owner.ok("POST", "/v1/rag/search", body)
        assert {one["collection_id"] for one in found["results"]} == {docs, other}
        assert [one["score"] for one in found["results"]] == [1.0, 1.0]
        everywhere = await owner.ok("POST", "/v1/rag/search", SEARCH)
        assert len(everywhere["results"]) == 2

    @pytest.mark.parametrize("ids", [[], [new_id("col")] * 21, ["x" * 65], "col_1", [5], [None]])
    async def test_refusals(self, owner: Client, ids: Any) -> None:
        answer = await owner("POST", "/v1/rag/search", {"query": "x", "collection_ids": ids})
        assert answer.status_code == 422
        assert answer.json()["error"]["details"]["field"].startswith("collection_ids")

    async def test_one_that_is_not_there(self, owner: Client, docs: str) -> None:
        answer = await owner(
            "POST", "/v1/rag/search", {"query": "x", "collection_ids": [docs, new_id("col")]}
        )
        assert answer.status_code == 404

    async def test_all_of_too_many_must_be_named(self, owner: Client) -> None:
        for n in range(21):
            await owner.collection(f"c{n}")
        answer = await owner("POST", "/v1/rag/search", {"query": "x"})
        assert answer.status_code == 422
        assert answer.json()["error"]["details"]["field"] == "collection_ids"


class TestLimitedKeys:
    async def test_reach_their_collections_only(self, kernel: Kernel, owner: Client, docs: str) -> None:
        other = await owner.collection("other")
        scopes = ["rag:read", "rag:write"]
        key = await limited(kernel.access, owner, scopes=scopes, collections=[docs])
        client = Client(owner.http, key)
        assert [one["id"] for one in (await client.ok("GET", "/v1/rag/collections"))["collections"]] == [docs]
        assert (await client.ok("POST", "/v1/rag/search", {"query": "soup"}))["results"]
        for method, path, body in (
            ("GET", f"/v1/rag/collections/{other}", None),
            ("PATCH", f"/v1/rag/collections/{other}", {"name": "x"}),
            ("DELETE", f"/v1/rag/collections/{other}", None),
            ("GET", f"/v1/rag/collections/{other}/documents", None),
            ("GET", f"/v1/rag/collections/{other}/stats", None),
            ("POST", f"/v1/rag/collections/{other}/search", {"query": "x"}),
            ("POST", "/v1/rag/search", {"query": "x", "collection_ids": [docs, other]}),
        ):
            assert (await client(method, path, body)).status_code == 404, path
        made = await client("POST", "/v1/rag/collections", {"name": "mine"})
        assert (made.status_code, made.json()["error"]["code"]) == (403, "AUTHORIZATION_ERROR")

    async def test_need_the_scope(self, kernel: Kernel, owner: Client, docs: str) -> None:
        reader = Client(owner.http, await limited(kernel.access, owner, scopes=["rag:read"]))
        assert (await reader("DELETE", f"/v1/rag/collections/{docs}")).status_code == 403
        assert (await reader("POST", f"/v1/rag/collections/{docs}/search", {"query": "x"})).status_code == 200
        writer = Client(owner.http, await limited(kernel.access, owner, scopes=["rag:write"]))
        assert (await writer("GET", f"/v1/rag/collections/{docs}")).status_code == 403

    async def test_retrieve_in_their_collections_only(
        self, kernel: Kernel, owner: Client, docs: str, runner: Runner
    ) -> None:
        other = await owner.collection("other")
        await take_in(kernel, owner, other, SOUP)
        scopes = ["executions:write", "executions:read", "agents:write"]
        key = await limited(kernel.access, owner, scopes=scopes, collections=[other])
        client = Client(owner.http, key)
        body = {"flow": _retrieval("{{ input.where }}"), "input": {"where": docs}}
        ended = await client.ok("POST", "/v1/executions?wait=20", body)
        assert ended["error"]["code"] == "NODE_ERROR"
        again = await client.ok("POST", f"/v1/executions/{ended['id']}/retry?from=start")
        assert await _end(client, again["execution_id"]) == "failed"
        ended = await client.ok("POST", "/v1/executions?wait=20", body | {"input": {"where": "OTHER"}})
        assert ended["result"]["output"]["results"][0]["text"] == SOUP["text"]


class TestRetrieval:
    async def test_in_a_flow(self, owner: Client, docs: str, runner: Runner) -> None:
        template = (
            "{{ nodes.find.output.results[0].metadata.location }}: {{ nodes.find.output.results[0].text }}"
        )
        flow = _retrieval("docs")
        flow["nodes"].append({"id": "say", "type": "template", "config": {"template": template}})
        flow["edges"] = [{"source": "entry", "target": "find"}, {"source": "find", "target": "say"}]
        ended = await owner.ok("POST", "/v1/executions?wait=20", {"flow": flow, "input": {}})
        assert ended["result"]["output"] == f"soup.md: {SOUP['text']}"

    async def test_in_another_workspaces_collection(
        self, stranger: Client, docs: str, runner: Runner
    ) -> None:
        for where in (docs, "docs"):
            ended = await stranger.ok(
                "POST", "/v1/executions?wait=20", {"flow": _retrieval(where), "input": {}}
            )
            assert (ended["status"], ended["error"]["code"]) == ("failed", "NODE_ERROR")
            assert ended["error"]["details"]["reason"] == "collection_not_found"


def _retrieval(where: str) -> dict[str, Any]:
    config = {"collection_id": where, "query": "onions and carrots", "top_k": 1}
    return {"nodes": [{"id": "find", "type": "retrieval", "config": config}]}


async def _end(client: Client, execution_id: str) -> str:
    while True:
        execution = await client.ok("GET", f"/v1/executions/{execution_id}")
        if execution["status"] != "running":
            return str(execution["status"])
        await asyncio.sleep(0.02)


async def _item_key(kernel: Kernel, collection_id: str) -> str:
    (key,) = await kernel.store.call("KEYS", f"*:col:{collection_id}")
    return str(key.decode())


async def _with_model(kernel: Kernel, collection_id: str) -> bytes:
    item: bytes = await kernel.store.call("HGET", await _item_key(kernel, collection_id), "item")
    return item.replace(b"wordllama-256", b"text-embedding-ada-002")
