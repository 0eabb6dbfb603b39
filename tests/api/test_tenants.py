"""The walls between workspaces: to a stranger, what is somebody else's is as what is not there.

The stranger is an owner with every right, in a workspace of their own, who knows all ids of another one.
"""

import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlparse

import pytest
from fastapi import FastAPI

from actors.runner import Runner
from kernel.access.scopes import Scope
from kernel.assembly import Kernel
from kernel.storage import keys
from tests.api.conftest import FOREVER, Client, limited
from tests.api.walk import Names, masked, refused_upgrade, sockets, steps, take
from tests.test_architecture import SHARED

pytestmark = pytest.mark.anyio

NOT_STEADY = ("/stream", "/export", "/stats", "/credentials/{credential_id}")
"""Ends of routes whose answers differ, or that change what others answer, when they are asked twice."""
WITHOUT_BEARING = {"created_at", "last_used_at", "updated_at"}
"""What using a key, or asking, changes of what is shown."""


async def workspace_of(client: Client) -> str:
    workspace: str = (await client.ok("GET", "/v1/me"))["workspace"]["id"]
    return workspace


@pytest.fixture
async def everything(owner: Client, kernel: Kernel, runner: Runner) -> Names:
    """Of the owner's workspace."""
    return await Names.of(owner, kernel)


@pytest.fixture
async def walker(stranger: Client, owner: Client) -> Client:
    """The stranger, with as many requests as the walk takes."""
    await owner.ok("PATCH", f"/v1/workspaces/{await workspace_of(stranger)}", {"plan": "enterprise"})
    return stranger


async def shown(app: FastAPI, owner: Client, names: Names) -> dict[str, str]:
    """All that the owner sees of what the names stand for."""
    found = {}
    for step in steps(app, names, names.workspace_id):
        if step.method == "GET" and not step.route.endswith(NOT_STEADY):
            text = re.sub(r'"last_used_at":(null|"[^"]*")', "", (await take(owner, step))[1])
            found[step.path] = text
    return found


async def test_the_ids_of_others_are_as_ids_that_name_nothing(
    app: FastAPI, owner: Client, walker: Client, everything: Names
) -> None:
    """Status, body and headers of every route, byte by byte but for the ids that were sent."""
    own, nothing = await workspace_of(walker), everything.like()
    before = await shown(app, owner, everything)
    running = replace(everything, execution_id=await owner.execution(FOREVER))
    for real in (everything, running):
        pairs = zip(steps(app, real, own), steps(app, nothing, own), strict=True)
        for theirs, none in pairs:
            if theirs == none:
                continue  # it names nothing of anybody
            asked, missed = await take(walker, theirs), await take(walker, none)
            assert asked[0] == missed[0], (theirs, asked, missed)
            assert masked(asked[1], real) == masked(missed[1], nothing), theirs
            if not asked[2].get("etag"):
                assert masked(str(asked[2]), real) == masked(str(missed[2]), nothing), theirs
    assert await shown(app, owner, everything) == before


async def test_sockets_as_well(app: FastAPI, walker: Client, everything: Names) -> None:
    nothing = everything.like()
    for route in sockets(app):
        told = [
            (names, await refused_upgrade(app, walker, route.path.format(execution_id=names.execution_id)))
            for names in (everything, nothing)
        ]
        assert {status for _, (status, _) in told} == {404}
        assert len({masked(body, names) for names, (_, body) in told}) == 1


async def test_the_walk_would_notice(app: FastAPI, owner: Client, everything: Names) -> None:
    """With the owner's own key the same ids do answer otherwise than those that name nothing."""
    nothing = everything.like()
    differ = set()
    for real, none in zip(
        steps(app, everything, everything.workspace_id),
        steps(app, nothing, everything.workspace_id),
        strict=True,
    ):
        if (
            real.method == "GET"
            and real != none
            and (await take(owner, real))[0] != (await take(owner, none))[0]
        ):
            differ.add(real.route.split(" ")[1])
    assert differ >= {
        "/v1/agents/{agent_id}",
        "/v1/executions/{execution_id}",
        "/v1/executions/{execution_id}/nodes/{node_id}",
        "/v1/api-keys/{key_id}",
        "/v1/workspaces/{workspace_id}",
        "/v1/workspaces/{workspace_id}/members",
        "/v1/workspaces/{workspace_id}/members/{user_id}",
        "/v1/rag/collections/{collection_id}",
        "/v1/rag/collections/{collection_id}/documents/{document_id}",
        "/v1/rag/jobs/{job_id}",
        "/v1/vault/credentials/{credential_id}/metadata",
        "/v1/vault/credentials/{credential_id}/audit",
        "/v1/webhooks/{webhook_id}",
        "/v1/webhooks/{webhook_id}/deliveries",
    }


class Monitor:
    """What the store does, its scripts' own commands included: `MONITOR` on a connection of our own."""

    def __init__(self, url: str):
        place = urlparse(url)
        self._socket = socket.create_connection((place.hostname, place.port), 5)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"

    def until(self, mark: str) -> list[list[str]]:
        """Words of the commands up to the one that carries the mark."""
        seen: list[list[str]] = []
        while True:
            words = re.findall(r'"((?:[^"\\]|\\.)*)"', self._file.readline().decode("latin-1"))
            if mark in words:
                return seen
            seen.append(words)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def monitored(url: str) -> Generator[Monitor]:
    monitor = Monitor(url)
    try:
        yield monitor
    finally:
        monitor.close()


SHARED_KEY = re.compile(
    "|".join(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(keys.SHARD_KEYS[name])) for name in SHARED)
)


def is_shared(key: str) -> bool:
    """Whether it belongs to a whole shard, or to all: such keys may name a workspace in what they hold."""
    return SHARED_KEY.fullmatch(key.split("}:", 1)[-1]) is not None


def touching(commands: list[list[str]], workspace_id: str) -> list[list[str]]:
    """Commands with a key that carries the workspace's id, but for shared ones."""
    return [
        words
        for words in commands
        if any(word.startswith("cx1:") and workspace_id in word and not is_shared(word) for word in words)
    ]


async def test_a_strangers_requests_touch_no_key_of_another_workspace(
    app: FastAPI, kernel: Kernel, walker: Client, everything: Names
) -> None:
    own = await workspace_of(walker)
    await kernel.admission.close()  # tells now what the owner's requests have cost, not during the walk
    with monitored(kernel.store.url) as monitor:
        for step in steps(app, everything, own):
            await take(walker, step)
            await kernel.store.call("ECHO", "walk-step")
            assert touching(monitor.until("walk-step"), everything.workspace_id) == [], step


async def test_the_monitor_would_notice(
    app: FastAPI, kernel: Kernel, owner: Client, walker: Client, everything: Names
) -> None:
    """It does see what scripts touch: the owner's own requests, and one that was let through by mistake."""
    with monitored(kernel.store.url) as monitor:
        await owner.ok("GET", f"/v1/agents/{everything.agent_id}")
        await kernel.store.call("ECHO", "walk-step")
        seen = touching(monitor.until("walk-step"), everything.workspace_id)
    agent = keys.key("agent", everything.workspace_id, id=everything.agent_id)
    assert any(agent in words for words in seen)


async def test_a_key_of_one_scope_opens_what_names_it(
    app: FastAPI, kernel: Kernel, owner: Client, everything: Names
) -> None:
    """Allowed exactly where the route says so; else 403 names a scope that is missing."""
    nothing = everything.like()
    for scope in Scope:
        client = Client(owner.http, await limited(kernel.access, owner, scopes=[scope]))
        for step in steps(app, nothing, nothing.workspace_id):
            answer = await client(step.method, step.path)
            missing = set() if scope is Scope.ADMIN else step.scopes - {scope}
            if missing:
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (403, "AUTHORIZATION_ERROR"), (scope, step)
                assert error["details"]["scope"] in missing, (scope, step)
            else:
                assert answer.status_code != 403, (scope, step, answer.text)
