"""Streams over HTTP and WebSocket, against a listening server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors.runner import Runner
from kernel.assembly import Kernel
from kernel.storage.following import SlowReader, StreamEvent
from serve_apps.routes import sockets, streams
from tests.api.conftest import FOREVER, HELLO, Client, limited, listening

pytestmark = pytest.mark.anyio

NOBODYS = "exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
HELLO_EVENTS = ["execution.started", "node.started", "node.completed", "execution.completed"]
CHATTY = {
    "nodes": [
        {
            "id": "talk",
            "type": "llm",
            "config": {"model": "scripted", "prompt": "x", "script": {"tokens": 30, "token_delay_ms": 5}},
        }
    ]
}


@pytest.fixture
async def address(app: FastAPI) -> AsyncGenerator[str]:
    async with listening(app) as address:
        yield address


@pytest.fixture
def quick_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RECHECK_S", 0.02)


def opened(address: str, execution: str, key: str | None = None, query: str = "", **options: Any) -> connect:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers |= options.pop("headers", {})
    url = f"ws://{address}/v1/executions/{execution}/stream{query}"
    return connect(url, additional_headers=headers, open_timeout=5, **options)


async def received(socket: ClientConnection) -> tuple[list[Any], int]:
    """Everything until the close, and its code."""
    events = [orjson.loads(message) async for message in _until_closed(socket)]
    assert socket.close_code is not None
    return events, socket.close_code


async def _until_closed(socket: ClientConnection) -> AsyncGenerator[Any]:
    with suppress(ConnectionClosed):
        while True:
            yield await socket.recv()


async def refused(opening: connect) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal:
        async with opening:
            pass
    answer = refusal.value.response
    error = orjson.loads(answer.body or b"")["error"]
    assert answer.headers["x-request-id"] == error["request_id"]
    return answer.status_code, error["code"]


def messages(text: str) -> list[dict[str, Any]]:
    """The data of server-sent events; each must carry its seq as id."""
    found = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append(orjson.loads(fields["data"]))
        assert fields["id"] == str(found[-1]["seq"])
    return found


class TestWebSocket:
    async def test_anonymous_and_strangers(
        self, address: str, owner: Client, stranger: Client, kernel: Kernel
    ) -> None:
        execution = await owner.execution()
        weak = await limited(kernel.access, owner, scopes=["agents:read"])
        assert await refused(opened(address, execution)) == (401, "AUTHENTICATION_ERROR")
        assert await refused(opened(address, execution, "x")) == (401, "AUTHENTICATION_ERROR")
        assert await refused(opened(address, execution, query=f"?api_key={owner.key}")) == (
            401,
            "AUTHENTICATION_ERROR",
        )
        assert await refused(opened(address, execution, weak)) == (403, "AUTHORIZATION_ERROR")
        assert await refused(opened(address, execution, stranger.key)) == (404, "NOT_FOUND")
        assert await refused(opened(address, NOBODYS, owner.key)) == (404, "NOT_FOUND")

    async def test_a_whole_run(self, address: str, owner: Client, runner: Runner) -> None:
        execution = await owner.execution()
        async with opened(address, execution, owner.key) as stream:
            events, code = await received(stream)
        assert [event["type"] for event in events] == HELLO_EVENTS
        assert [event["seq"] for event in events] == [1, 2, 3, 4]
        assert all(set(event) >= {"type", "data", "seq", "timestamp"} for event in events)
        assert code == 1000

    async def test_what_comes_while_it_runs(self, address: str, owner: Client, runner: Runner) -> None:
        execution = await owner.execution(CHATTY)
        async with opened(address, execution, owner.key) as stream:
            events, code = await received(stream)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("node.token") >= 2
        assert (events[-1]["type"], code) == ("execution.completed", 1000)

    async def test_replay_after_a_seq(self, address: str, owner: Client, runner: Runner) -> None:
        execution = await owner.ended()
        async with opened(address, execution, owner.key, "?after=2") as stream:
            assert [event["seq"] for event in (await received(stream))[0]] == [3, 4]
        async with opened(address, execution, owner.key, "?after=4") as stream:
            assert await received(stream) == ([], 1000)

    @pytest.mark.parametrize("query", ["?after=-1", "?after=x", "?after=1&after=2", "?from=1"])
    async def test_queries_that_are_refused(self, address: str, owner: Client, query: str) -> None:
        execution = await owner.execution()
        assert await refused(opened(address, execution, owner.key, query)) == (422, "VALIDATION_ERROR")

    async def test_pages_of_other_origins(self, address: str, owner: Client, runner: Runner) -> None:
        execution = await owner.ended()
        foreign = opened(address, execution, owner.key, headers={"origin": "https://evil.test"})
        assert await refused(foreign) == (403, "AUTHORIZATION_ERROR")
        async with opened(address, execution, owner.key, headers={"origin": f"http://{address}"}) as stream:
            assert (await received(stream))[1] == 1000

    async def test_a_key_as_subprotocol(self, address: str, owner: Client, runner: Runner) -> None:
        execution = await owner.ended()
        for offered, chosen in (
            ([f"bearer.{owner.key}"], f"bearer.{owner.key}"),
            (["v1", f"bearer.{owner.key}"], "v1"),
        ):
            async with opened(address, execution, subprotocols=offered) as stream:
                assert stream.subprotocol == chosen
                assert (await received(stream))[1] == 1000

    async def test_a_ticket_opens_once(self, address: str, owner: Client, runner: Runner) -> None:
        execution, other = await owner.ended(), await owner.ended()
        made = await owner("POST", "/v1/stream-tickets", {"execution_id": execution})
        assert made.headers["cache-control"] == "no-store"
        query = f"?ticket={made.json()['ticket']}"
        async with opened(address, execution, query=query) as stream:
            assert (await received(stream))[1] == 1000
        assert (await refused(opened(address, execution, query=query)))[0] == 401
        made = await owner.ok("POST", "/v1/stream-tickets", {"execution_id": execution})
        assert (await refused(opened(address, other, query=f"?ticket={made['ticket']}")))[0] == 401

    async def test_what_nobody_foresaw_is_refused_before_the_upgrade(
        self, address: str, owner: Client, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(self: Any, *args: Any) -> None:
            raise RuntimeError("secret words")

        monkeypatch.setattr(type(kernel.executions), "get", broken)
        assert await refused(opened(address, NOBODYS, owner.key)) == (500, "INTERNAL_ERROR")

    async def test_messages_are_answered_with_errors_until_there_are_too_many(
        self, address: str, owner: Client
    ) -> None:
        execution = await owner.execution()
        async with opened(address, execution, owner.key) as stream:
            await stream.send('{"subscribe": "x"}')
            for _ in range(sockets.MAX_UNKNOWN):
                await stream.send("x")
            events, code = await received(stream)
        errors = [event for event in events if event["type"] == "error"]
        assert len(errors) == sockets.MAX_UNKNOWN
        assert errors[0]["error"]["code"] == "VALIDATION_ERROR"
        assert code == 1008

    @pytest.mark.parametrize(("frame", "code"), [(b"x", 1003), ("x" * 64_001, 1009)])
    async def test_frames_that_are_refused(self, address: str, owner: Client, frame: Any, code: int) -> None:
        execution = await owner.execution()
        async with opened(address, execution, owner.key) as stream:
            await stream.send(frame)
            assert (await received(stream))[1] == code

    @pytest.mark.usefixtures("quick_recheck")
    async def test_a_key_that_is_revoked_meanwhile(self, address: str, owner: Client, kernel: Kernel) -> None:
        execution = await owner.execution()
        key = await limited(kernel.access, owner, scopes=["executions:read"])
        me = await Client(owner.http, key).ok("GET", "/v1/me")
        ticket = (
            await Client(owner.http, key).ok("POST", "/v1/stream-tickets", {"execution_id": execution})
        )["ticket"]
        async with (
            opened(address, execution, key) as one,
            opened(address, execution, query=f"?ticket={ticket}") as two,
        ):
            await owner("DELETE", f"/v1/api-keys/{me['key']['id']}")
            for stream in (one, two):
                events, code = await received(stream)
                assert (events[-1]["error"]["code"], code) == ("AUTHENTICATION_ERROR", 4401)

    async def test_a_reader_that_leaves_does_not_stop_the_run(
        self, address: str, owner: Client, runner: Runner
    ) -> None:
        execution = await owner.execution(CHATTY)
        async with opened(address, execution, owner.key) as stream:
            await stream.recv()
        events = await owner("GET", f"/v1/executions/{execution}/events")
        assert messages(events.text)[-1]["type"] == "execution.completed"

    async def test_a_slow_reader(
        self, address: str, owner: Client, monkeypatch: pytest.MonkeyPatch, kernel: Kernel
    ) -> None:
        async def too_slow(self: Any, *args: Any) -> AsyncGenerator[StreamEvent]:
            yield StreamEvent(1, b'{"seq":1}', False)
            raise SlowReader("The reader is too slow")

        execution = await owner.execution()
        monkeypatch.setattr(type(kernel.executions), "follow", too_slow)
        async with opened(address, execution, owner.key) as stream:
            assert (await received(stream))[1] == 4008


class TestSse:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        path = f"/v1/executions/{await owner.execution()}/events"
        assert (await anonymous("GET", path)).status_code == 401
        assert (await stranger("GET", path)).status_code == 404

    async def test_a_whole_run_and_its_replay(self, owner: Client, runner: Runner) -> None:
        path = f"/v1/executions/{await owner.execution()}/events"
        live = await owner("GET", path)
        assert live.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert live.headers["cache-control"] == "no-store"
        assert [event["type"] for event in messages(live.text)] == HELLO_EVENTS
        assert (await owner("GET", path)).text == live.text
        rest = await owner("GET", path, headers={"last-event-id": "2"})
        assert [event["seq"] for event in messages(rest.text)] == [3, 4]
        assert (await owner("GET", f"{path}?after=4")).status_code == 204

    async def test_a_ticket_instead_of_a_key(self, owner: Client, anonymous: Client, runner: Runner) -> None:
        execution = await owner.ended()
        made = await owner.ok("POST", "/v1/stream-tickets", {"execution_id": execution})
        path = f"/v1/executions/{execution}/events?ticket={made['ticket']}"
        assert [event["seq"] for event in messages((await anonymous("GET", path)).text)] == [1, 2, 3, 4]
        assert (await anonymous("GET", path)).status_code == 401

    async def test_last_event_ids_that_are_none(self, owner: Client) -> None:
        answer = await owner(
            "GET", f"/v1/executions/{await owner.execution()}/events", headers={"last-event-id": "x"}
        )
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "last-event-id")

    async def test_pings_while_nothing_happens(
        self, address: str, owner: Client, app: FastAPI, kernel: Kernel
    ) -> None:
        execution = await owner.execution()
        async with reading(address, owner, execution, kernel, 0.02) as lines:
            assert await anext(lines) == "id: 1"
            while await anext(lines) != ": ping":
                pass

    @pytest.mark.usefixtures("quick_recheck")
    async def test_a_key_that_is_revoked_meanwhile(self, address: str, owner: Client, kernel: Kernel) -> None:
        execution = await owner.execution()
        key = Client(owner.http, await limited(kernel.access, owner, scopes=["executions:read"]))
        me = await key.ok("GET", "/v1/me")
        async with reading(address, key, execution, kernel, 5) as lines:
            await anext(lines)
            await owner("DELETE", f"/v1/api-keys/{me['key']['id']}")
            rest = [line async for line in lines]
        assert "event: error" in rest
        assert "AUTHENTICATION_ERROR" in rest[-2]


@asynccontextmanager
async def reading(
    address: str, client: Client, execution: str, kernel: Kernel, ping_s: float
) -> AsyncGenerator[Any]:
    """The lines of a stream that stays open."""
    object.__setattr__(kernel.settings.api, "ping_s", ping_s)
    headers = {"authorization": f"Bearer {client.key}"}
    async with (
        httpx2.AsyncClient(timeout=10) as http,
        http.stream("GET", f"http://{address}/v1/executions/{execution}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield answer.aiter_lines()


class TestTicket:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        order = {"execution_id": await owner.execution()}
        assert (await anonymous("POST", "/v1/stream-tickets", order)).status_code == 401
        assert (await stranger("POST", "/v1/stream-tickets", order)).status_code == 404

    async def test_it_is_no_key(self, owner: Client, anonymous: Client) -> None:
        order = {"execution_id": await owner.execution()}
        made = await owner.ok("POST", "/v1/stream-tickets", order)
        assert (await anonymous("GET", f"/v1/executions?ticket={made['ticket']}")).status_code == 401
        assert (
            await anonymous("GET", "/v1/me", headers={"authorization": f"Bearer {made['ticket']}"})
        ).status_code == 401


async def test_a_plain_request_to_a_socket_is_told_so(owner: Client) -> None:
    answer = await owner("GET", f"/v1/executions/{await owner.execution(HELLO)}/stream")
    assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "Upgrade")


async def test_an_endless_run_is_followed_and_cancelled(address: str, owner: Client, runner: Runner) -> None:
    execution = await owner.execution(FOREVER)
    async with opened(address, execution, owner.key) as stream:
        while orjson.loads(await stream.recv())["type"] != "node.started":
            pass
        answer = await owner("POST", f"/v1/executions/{execution}/cancel")
        assert (answer.status_code, answer.json()["phase"]) == (202, "cancelling")
        events, code = await received(stream)
    assert (events[-1]["type"], code) == ("execution.cancelled", 1000)
