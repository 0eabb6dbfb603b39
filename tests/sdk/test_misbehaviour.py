"""What the client makes of a server that fails, hangs, hangs up or talks nonsense."""

import pickle
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

import codexos
from codexos import RateLimits, _retries
from codexos._async import streams as async_streams
from codexos._retries import pause
from codexos._sync import streams as sync_streams
from codexos.errors import error_of, seconds_of
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio

Step = Callable[[Exchange], Awaitable[None]]
AGENT = {
    "id": "agent_1",
    "name": "A",
    "description": "",
    "flow": {"nodes": [], "edges": []},
    "created_at": "2024-01-15T10:00:00.000Z",
    "metadata": {"version": "1.0.0", "tags": [], "author": "user_1"},
    "of_tomorrow": {"x": 1},
}
FIRST_WAIT_S = 0.01


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retries, "FIRST_S", FIRST_WAIT_S)


def answers(status: int, body: Any = None, *headers: str) -> Step:
    async def step(exchange: Exchange) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        await exchange.answer(status, data, "content-type: application/json", *headers)

    return step


def fails(status: int, *headers: str, **error: Any) -> Step:
    known = {"code": "SOME_CODE", "message": "No", "details": {}, "request_id": "req_1"}
    return answers(status, {"error": known | error}, *headers)


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def hangs(exchange: Exchange) -> None:
    await exchange.closed.wait()


@asynccontextmanager
async def scripted(*steps: Step) -> AsyncGenerator[Web]:
    """A server that answers each request by the next step."""
    left = list(steps)

    async def answer(exchange: Exchange) -> None:
        await left.pop(0)(exchange)

    async with serve(answer) as web:
        yield web


class TestRetries:
    @pytest.mark.parametrize(
        "failure",
        [
            resets,
            fails(408),
            fails(409, retryable=True),
            fails(429),
            fails(500, retryable=False),
            fails(503, retryable=True),
            answers(502, b"<html>"),
        ],
    )
    async def test_what_may_pass_is_tried_twice_more(self, connected: Any, failure: Step) -> None:
        async with scripted(failure, failure, answers(200, AGENT)) as web:
            agent = await connected(base_url=web.url, api_key="k").agents.get("agent_1")
        assert (agent.id, len(web.exchanges)) == ("agent_1", 3)

    async def test_then_its_last_failure_is_told(self, connected: Any) -> None:
        async with scripted(resets, resets, fails(503)) as web:
            with pytest.raises(codexos.UnavailableError):
                await connected(base_url=web.url, api_key="k").agents.get("agent_1")

    @pytest.mark.parametrize(
        "failure", [fails(400), fails(404), fails(409), fails(422), fails(429, retryable=False)]
    )
    async def test_what_cannot_pass_is_not_tried_again(self, connected: Any, failure: Step) -> None:
        async with scripted(failure) as web:
            with pytest.raises(codexos.APIStatusError):
                await connected(base_url=web.url, api_key="k").agents.get("agent_1")

    async def test_all_tries_of_a_post_carry_one_key(self, connected: Any) -> None:
        async with scripted(resets, fails(500), answers(201, AGENT), answers(201, AGENT)) as web:
            client = connected(base_url=web.url, api_key="k")
            await client.agents.create(name="A", flow={})
            await client.agents.create(name="A", flow={})
        keys = [exchange.header("idempotency-key") for exchange in web.exchanges]
        assert keys[0] == keys[1] == keys[2]
        assert keys[3] not in (None, keys[0])

    async def test_a_key_of_the_callers_own(self, connected: Any) -> None:
        started = {"execution_id": "exec_1", "status": "running", "created_at": "2024-01-15T10:00:00.000Z"}
        async with scripted(answers(202, started)) as web:
            client = connected(base_url=web.url, api_key="k")
            await client.agents.execute("agent_1", {}, idempotency_key="order-17")
        assert web.exchanges[0].header("idempotency-key") == "order-17"

    async def test_a_delete_whose_answer_was_lost(self, connected: Any) -> None:
        async with scripted(resets, fails(404), fails(404)) as web:
            client = connected(base_url=web.url, api_key="k")
            await client.agents.delete("agent_1")
            with pytest.raises(codexos.NotFoundError):
                await client.agents.delete("agent_1")

    async def test_none_when_none_are_wanted(self, connected: Any) -> None:
        async with scripted(fails(503), resets) as web:
            client = connected(base_url=web.url, api_key="k", max_retries=0)
            with pytest.raises(codexos.UnavailableError):
                await client.agents.get("agent_1")
            with pytest.raises(codexos.APIConnectionError):
                await client.agents.get("agent_1")

    async def test_an_answer_that_hangs(self, connected: Any) -> None:
        async with scripted(hangs, hangs) as web:
            client = connected(base_url=web.url, api_key="k").with_options(timeout=0.05, max_retries=1)
            with pytest.raises(codexos.APITimeoutError):
                await client.agents.get("agent_1")
        assert len(web.exchanges) == 2

    async def test_nobody_there(self, connected: Any) -> None:
        async with scripted() as web:
            pass
        with pytest.raises(codexos.APIConnectionError):
            await connected(base_url=web.url, api_key="k").agents.get("agent_1")


COLLECTION = {"id": "col_1", "name": "docs"}
JOB = {"job_id": "job_1", "status": "queued", "links": {}}


class TestWriting:
    async def test_an_upload_is_sent_whole_each_time(self, connected: Any, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 1000)
        upload = {"id": "upload_1", "name": "a.bin", "size": 256_000}
        async with scripted(answers(200, COLLECTION), fails(503), answers(201, upload)) as web:
            collection = await connected(base_url=web.url, api_key="k").rag.collections.get("col_1")
            assert (await collection.upload_file(tmp_path / "a.bin")).size == 256_000
        first, second = [exchange.body for exchange in web.exchanges[1:]]
        assert (len(first), bytes(range(256)) * 1000 in second) == (len(second), True)
        assert b'filename="a.bin"' in second

    async def test_a_batch_waits_while_there_are_too_many_jobs(self, connected: Any) -> None:
        full = fails(429, "retry-after: 0.01", details={"limit": "jobs"}, retryable=True)
        async with scripted(answers(200, COLLECTION), *[full] * 7, answers(202, JOB)) as web:
            collection = await connected(base_url=web.url, api_key="k").rag.collections.get("col_1")
            group = await collection.write([{"id": "a", "text": "x"}])
        assert [job.id for job in group.jobs] == ["job_1"]
        assert len({exchange.header("idempotency-key") for exchange in web.exchanges[1:]}) == 1

    async def test_a_search_is_no_order(self, connected: Any) -> None:
        steps = answers(200, COLLECTION), fails(500), answers(200, {"results": [], "took_ms": 1})
        async with scripted(*steps) as web:
            collection = await connected(base_url=web.url, api_key="k").rag.collections.get("col_1")
            assert len(await collection.search("x", rerank=False)) == 0
        assert [exchange.header("idempotency-key") for exchange in web.exchanges] == [None] * 3
        assert web.exchanges[2].json == {"query": "x", "rerank": False}


class TestPause:
    def test_it_doubles_up_to_a_bound_and_is_spread(self) -> None:
        error = codexos.APIConnectionError("x")
        for attempt, full in ((0, 0.01), (1, 0.02), (3, 0.08), (30, 8.0)):
            waits = {pause(error, attempt, 99) for _ in range(50)}
            assert all(wait is not None and full * 0.75 <= wait <= full for wait in waits)
            assert len(waits) > 1

    def test_what_the_server_asks_for(self) -> None:
        wait = pause(error_of(429, None, {"retry-after": "4"}), 0, 2)
        assert wait is not None
        assert 4 <= wait <= 4.4

    def test_a_server_that_asks_for_too_much(self) -> None:
        assert pause(error_of(429, None, {"retry-after": "3600"}), 0, 2) is None

    @pytest.mark.parametrize("text", [None, "", "soon", "Wed, 21"])
    def test_retry_after_that_says_nothing(self, text: str | None) -> None:
        assert seconds_of(text) is None

    def test_retry_after_as_a_date(self) -> None:
        assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, codexos.AuthenticationError),
            (403, codexos.PermissionDeniedError),
            (404, codexos.NotFoundError),
            (409, codexos.ConflictError),
            (413, codexos.APIStatusError),
            (422, codexos.UnprocessableEntityError),
            (429, codexos.RateLimitError),
            (500, codexos.InternalServerError),
            (502, codexos.InternalServerError),
            (503, codexos.UnavailableError),
        ],
    )
    async def test_each_status_has_its_class(self, connected: Any, status: int, kind: type) -> None:
        details = {"field": "name", "reason": "Required", "limit": "requests"}
        async with scripted(fails(status, "retry-after: 7", details=details, retryable=False)) as web:
            with pytest.raises(codexos.APIStatusError) as caught:
                await connected(base_url=web.url, api_key="k", max_retries=0).me()
        error = caught.value
        assert type(error) is kind
        assert (error.status, error.code, error.message, error.details) == (
            status,
            "SOME_CODE",
            "No",
            details,
        )
        assert (error.request_id, error.retryable, error.retry_after) == ("req_1", False, 7)
        assert "name: Required" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.retry_after) == (kind, str(error), 7)

    async def test_the_limit_that_was_reached(self, connected: Any) -> None:
        refusal = fails(429, "retry-after: 99", details={"limit": "concurrent"}, retryable=True)
        async with scripted(refusal) as web:
            with pytest.raises(codexos.RateLimitError) as caught:
                await connected(base_url=web.url, api_key="k").me()
        assert (caught.value.limit, caught.value.retry_after) == ("concurrent", 99)

    @pytest.mark.parametrize("body", [b"<html>Bad gateway", b"", b"[]", b'{"error":"no"}', b'{"detail":"x"}'])
    async def test_answers_of_others(self, connected: Any, body: bytes) -> None:
        async with scripted(answers(400, body, "x-request-id: req_2")) as web:
            with pytest.raises(codexos.APIStatusError) as caught:
                await connected(base_url=web.url, api_key="k").me()
        assert (caught.value.code, caught.value.request_id) == ("HTTP_400", "req_2")

    @pytest.mark.parametrize("step", [answers(200, b"<html>"), answers(302, b"", "location: /elsewhere")])
    async def test_success_that_is_none(self, connected: Any, step: Step) -> None:
        async with scripted(step) as web:
            with pytest.raises(codexos.APIStatusError):
                await connected(base_url=web.url, api_key="k").me()

    def test_errors_of_the_transport_are_ours(self) -> None:
        assert issubclass(codexos.APITimeoutError, codexos.APIConnectionError)
        assert not issubclass(codexos.CodexOSError, httpx2.HTTPError)


class TestAnswers:
    async def test_what_this_version_does_not_know_is_kept(self, connected: Any) -> None:
        async with scripted(answers(200, AGENT)) as web:
            agent = await connected(base_url=web.url, api_key="k").agents.get("agent_1")
        assert agent.raw["of_tomorrow"] == {"x": 1}
        assert (agent.execution_count, agent.created_at) == (None, datetime(2024, 1, 15, 10, tzinfo=UTC))

    async def test_limits(self, connected: Any) -> None:
        told = ["x-ratelimit-plan: free", "x-ratelimit-limit: 50", "x-ratelimit-remaining: 49"]
        steps = (
            answers(200, AGENT, *told, "x-ratelimit-reset: 1700000000"),
            fails(404, "x-ratelimit-plan: x"),
        )
        async with scripted(*steps) as web:
            client = connected(base_url=web.url, api_key="k")
            assert client.limits is None
            await client.agents.get("agent_1")
            reset = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
            assert client.limits == RateLimits("free", 50, 49, reset)
            with pytest.raises(codexos.NotFoundError):
                await client.with_options(timeout=9).agents.get("agent_1")
            assert client.limits == RateLimits("x")

    async def test_what_is_sent_with_every_call(self, connected: Any) -> None:
        async with scripted(answers(200, AGENT), answers(200, AGENT)) as web:
            client = connected(base_url=web.url + "/v1/", api_key="k", headers={"x-team": "a"})
            await client.agents.get("agent_1")
            await client.with_options(headers={"x-more": "b"}).agents.get("agent_1")
        first, second = web.exchanges
        assert first.head.startswith("GET /v1/agents/agent_1 ")
        assert (first.header("authorization"), first.header("x-team")) == ("Bearer k", "a")
        assert str(first.header("user-agent")).startswith("codexos-python/")
        assert (first.header("x-more"), second.header("x-team"), second.header("x-more")) == (None, "a", "b")


def event(seq: int, kind: str = "node.token") -> bytes:
    known = {"type": kind, "data": {"text": "x"}, "timestamp": "2024-01-15T10:00:00.000Z", "node_id": "n"}
    return b"id: %d\ndata: %s\n\n" % (seq, orjson.dumps(known | {"seq": seq}))


def sends(*parts: bytes, then: Step | None = None) -> Step:
    async def step(exchange: Exchange) -> None:
        await exchange.events()
        for part in parts:
            await exchange.send(part)
        if then is not None:
            await then(exchange)

    return step


async def seqs(client: Any, **options: Any) -> list[int]:
    async with client.executions.stream("exec_1", **options) as stream:
        return [event.seq async for event in stream]


class TestStreams:
    async def test_it_goes_on_where_it_was_cut(self, connected: Any) -> None:
        half = event(4)[:-9]
        steps = (sends(event(1), event(2)), sends(event(3), half, then=resets), resets)
        async with scripted(*steps, sends(event(4, "execution.completed"))) as web:
            assert await seqs(connected(base_url=web.url, api_key="k")) == [1, 2, 3, 4]
        asked = [exchange.header("last-event-id") for exchange in web.exchanges]
        assert asked == [None, "2", "3", "3"]

    async def test_a_stream_that_makes_no_headway_is_given_up(self, connected: Any) -> None:
        async with scripted(sends(event(1)), sends(), sends()) as web:
            client = connected(base_url=web.url, api_key="k", max_retries=2)
            with pytest.raises(codexos.APIConnectionError):
                await seqs(client)
        assert len(web.exchanges) == 3

    async def test_nothing_comes_after_the_end(self, connected: Any) -> None:
        async with scripted(sends(event(7)), answers(204)) as web:
            assert await seqs(connected(base_url=web.url, api_key="k"), after=6) == [7]
        assert [exchange.header("last-event-id") for exchange in web.exchanges] == ["6", "7"]

    async def test_errors_within_it(self, connected: Any) -> None:
        void = orjson.dumps({"error": {"code": "AUTHENTICATION_ERROR", "message": "x", "retryable": False}})
        slow = orjson.dumps({"error": {"code": "UNAVAILABLE", "message": "x", "retryable": True}})
        steps = (
            sends(event(1), b"event: error\ndata: %s\n\n" % slow),
            sends(b"event: error\ndata: %s\n\n" % void),
        )
        async with scripted(*steps) as web:
            with pytest.raises(codexos.AuthenticationError):
                await seqs(connected(base_url=web.url, api_key="k"))
        assert [exchange.header("last-event-id") for exchange in web.exchanges] == [None, "1"]

    async def test_one_that_is_refused(self, connected: Any) -> None:
        async with scripted(fails(404)) as web:
            with pytest.raises(codexos.NotFoundError):
                await seqs(connected(base_url=web.url, api_key="k"))

    async def test_one_that_is_silent_for_too_long(
        self, connected: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (async_streams, sync_streams):
            monkeypatch.setattr(module, "SILENCE_S", 0.05)
        async with scripted(sends(event(1), then=hangs), sends(event(2, "execution.failed"))) as web:
            assert await seqs(connected(base_url=web.url, api_key="k")) == [1, 2]

    async def test_a_type_that_this_version_does_not_know(self, connected: Any) -> None:
        async with scripted(sends(event(1, "node.dreamt"), event(2, "execution.cancelled"))) as web:
            stream = connected(base_url=web.url, api_key="k").executions.stream("exec_1")
            events = [one async for one in stream]
        assert [one.type for one in events] == ["node.dreamt", "execution.cancelled"]
        assert [one.is_last for one in events] == [False, True]
