"""A POST that is repeated under the same key is done once."""

import asyncio
from typing import Any

import pytest

from actors.runner import Runner
from kernel.assembly import Kernel
from kernel.clock import ManualClock
from kernel.errors import Conflict
from kernel.storage.idempotency import GRACE_MS, Answer, Idempotency, IdempotencyRef
from kernel.storage.store import Store
from tests.api.conftest import HELLO, Client, limited

pytestmark = pytest.mark.anyio

AGENT = {"name": "Greeter", "flow": HELLO}
ONCE = {"idempotency-key": "k-1"}
WS = "ws_01JZ8XJ4T2QK5V9W3M7N6P1R8S"


def shown(answer: Any) -> tuple[int, Any, str | None]:
    return answer.status_code, answer.json(), answer.headers.get("location")


class TestRoutes:
    async def test_the_first_answer_is_given_again(self, owner: Client) -> None:
        first = await owner("POST", "/v1/agents", AGENT, headers=ONCE)
        second = await owner("POST", "/v1/agents", AGENT, headers=ONCE)
        assert shown(first) == shown(second)
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"
        assert second.headers["etag"] == first.headers["etag"]
        assert len((await owner.ok("GET", "/v1/agents"))["agents"]) == 1

    async def test_both_bases_are_one(self, owner: Client) -> None:
        await owner("POST", "/v1/agents", AGENT, headers=ONCE)
        assert (await owner("POST", "/api/v1/agents", AGENT, headers=ONCE)).headers[
            "idempotent-replayed"
        ] == "true"

    async def test_another_request_under_the_same_key(self, owner: Client) -> None:
        agent = await owner.agent()
        await owner("POST", f"/v1/agents/{agent}/execute?wait=0", {"input": 1}, headers=ONCE)
        for path, body in [
            (f"/v1/agents/{agent}/execute?wait=0", {"input": 2}),
            (f"/v1/agents/{agent}/execute", {"input": 1}),
            ("/v1/agents", AGENT),
        ]:
            answer = await owner("POST", path, body, headers=ONCE)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
            assert not answer.json()["error"]["retryable"]

    async def test_workspaces_do_not_share_keys(self, owner: Client, stranger: Client) -> None:
        one = await owner("POST", "/v1/agents", AGENT, headers=ONCE)
        other = await stranger("POST", "/v1/agents", AGENT, headers=ONCE)
        assert (one.status_code, other.status_code) == (201, 201)
        assert one.json()["id"] != other.json()["id"]

    async def test_twins_at_once_make_one_execution(self, owner: Client, runner: Runner) -> None:
        agent = await owner.agent()
        path, body = f"/v1/agents/{agent}/execute?wait=5", {"input": {"name": "x"}}
        answers = await asyncio.gather(*(owner("POST", path, body, headers=ONCE) for _ in range(50)))
        done = [answer for answer in answers if answer.status_code == 200]
        busy = [answer.json()["error"] for answer in answers if answer.status_code == 409]
        assert len({answer.json()["id"] for answer in done}) == 1
        assert len(done) + len(busy) == 50
        assert all(error["retryable"] for error in busy)
        assert len((await owner.ok("GET", "/v1/executions"))["executions"]) == 1

    async def test_a_refusal_is_not_remembered(self, owner: Client) -> None:
        assert (await owner("POST", "/v1/agents", AGENT | {"name": ""}, headers=ONCE)).status_code == 422
        assert (await owner("POST", "/v1/agents", AGENT, headers=ONCE)).status_code == 201

    async def test_a_key_without_the_scope_sees_no_answer(self, owner: Client, kernel: Kernel) -> None:
        await owner("POST", "/v1/agents", AGENT, headers=ONCE)
        weak = Client(owner.http, await limited(kernel.access, owner, scopes=["agents:read"]))
        assert (await weak("POST", "/v1/agents", AGENT, headers=ONCE)).status_code == 403

    @pytest.mark.parametrize("name", ["", "x" * 256, "tab\there", "naïve"])
    async def test_keys_that_are_none(self, owner: Client, name: str) -> None:
        answer = await owner("POST", "/v1/agents", AGENT, headers={"idempotency-key": name.encode("latin-1")})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "Idempotency-Key")

    async def test_a_limited_key_has_names_of_its_own(self, owner: Client, kernel: Kernel) -> None:
        agent, other = await owner.agent(), await owner.agent()
        order, path = {"input": {"name": "x"}}, f"/v1/agents/{agent}/execute"
        assert (await owner("POST", path, order, headers=ONCE)).status_code == 202
        bound = await limited(kernel.access, owner, scopes=["executions:write"], agents=[other])
        assert (await Client(owner.http, bound)("POST", path, order, headers=ONCE)).status_code == 404

    @pytest.mark.parametrize("wait", ["9" * 4_301, "9" * 10])
    async def test_a_wait_that_is_no_number(self, owner: Client, wait: str) -> None:
        answer = await owner("POST", f"/v1/executions?wait={wait}", {"flow": HELLO}, headers=ONCE)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "wait")

    async def test_a_secret_is_sealed_under_the_callers_key(self, owner: Client, kernel: Kernel) -> None:
        order = {"name": "CI", "scopes": ["agents:read"]}
        first = await owner("POST", "/v1/api-keys", order, headers=ONCE)
        again = await owner("POST", "/v1/api-keys", order, headers=ONCE)
        assert again.json() == first.json()
        names = await kernel.store.call("KEYS", "*:idem:*")
        kept = await asyncio.gather(*(kernel.store.call("HGETALL", name) for name in names))
        assert first.json()["key"].encode() not in b"".join(part for row in kept for part in row)
        other = Client(owner.http, await limited(kernel.access, owner, scopes=["admin"]))
        assert (await other("POST", "/v1/api-keys", order, headers=ONCE)).status_code == 409


class TestLostAnswers:
    """The replica was killed between the write and its answer."""

    @pytest.mark.parametrize(
        ("path", "body", "name"),
        [
            ("/v1/executions", {"flow": HELLO, "input": {"name": "x"}}, "execution_id"),
            ("/v1/agents", AGENT, "id"),
        ],
    )
    async def test_the_retry_finds_what_was_made(
        self, owner: Client, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, name: str
    ) -> None:
        async def killed(*args: Any) -> None:
            raise ConnectionResetError

        with monkeypatch.context() as broken:
            broken.setattr(Idempotency, "finish", killed)
            assert (await owner("POST", path, body, headers=ONCE)).status_code == 500
        made = await owner("POST", path, body, headers=ONCE)
        assert made.is_success
        listed = await owner.ok("GET", path)
        assert [item["id"] for item in listed[path.removeprefix("/v1/")]] == [made.json()[name]]

    async def test_a_key_whose_secret_was_lost_is_replaced(
        self, owner: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = {"name": "CI", "scopes": ["agents:read"]}
        await self._lost(owner, monkeypatch, "/v1/api-keys", order)
        made = await owner.ok("POST", "/v1/api-keys", order, headers=ONCE)
        assert (await Client(owner.http, made["key"])("GET", "/v1/me")).status_code == 200
        listed = (await owner.ok("GET", "/v1/api-keys"))["api_keys"]
        assert [key["id"] for key in listed if key["name"] == "CI"] == [made["id"]]

    @pytest.mark.parametrize("overlap_ms", [0, 60_000])
    async def test_a_successor_whose_secret_was_lost_is_replaced(
        self, owner: Client, monkeypatch: pytest.MonkeyPatch, overlap_ms: int
    ) -> None:
        old = await owner.ok("POST", "/v1/api-keys", {"name": "CI", "scopes": ["agents:read"]})
        path, body = f"/v1/api-keys/{old['id']}/rotate", {"overlap_ms": overlap_ms}
        await self._lost(owner, monkeypatch, path, body)
        made = await owner.ok("POST", path, body, headers=ONCE)
        assert await owner.ok("POST", path, body, headers=ONCE) == made
        assert (await Client(owner.http, made["key"])("GET", "/v1/me")).status_code == 200
        listed = (await owner.ok("GET", "/v1/api-keys"))["api_keys"]
        left = [made["id"], old["id"]] if overlap_ms else [made["id"]]
        assert [key["id"] for key in listed if key["name"] == "CI"] == sorted(left, reverse=True)

    async def test_a_workspace_is_made_once(self, owner: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        await self._lost(owner, monkeypatch, "/v1/workspaces", {"name": "Lab"})
        made = await owner.ok("POST", "/v1/workspaces", {"name": "Lab"}, headers=ONCE)
        listed = (await owner.ok("GET", "/v1/workspaces"))["workspaces"]
        assert [one["id"] for one in listed if one["name"] == "Lab"] == [made["id"]]

    async def _lost(self, owner: Client, patch: pytest.MonkeyPatch, path: str, body: Any) -> None:
        async def killed(*args: Any) -> None:
            raise ConnectionResetError

        with patch.context() as broken:
            broken.setattr(Idempotency, "finish", killed)
            assert (await owner("POST", path, body, headers=ONCE)).status_code == 500


class TestPolicy:
    @pytest.fixture
    def memory(self, store: Store, clock: ManualClock) -> Idempotency:
        return Idempotency(store, clock, b"p" * 32)

    async def test_a_silent_claim_is_taken_over_with_what_it_made(
        self, memory: Idempotency, clock: ManualClock, store: Store
    ) -> None:
        first = await memory.begin(WS, "k", "f", 5_000, "s")
        assert isinstance(first, IdempotencyRef)
        assert first.resource is None
        await store.call("HSET", first.key, "resource", "exec_1")
        clock.advance(5_000 + GRACE_MS - 1)
        with pytest.raises(Conflict) as busy:
            await memory.begin(WS, "k", "f", 0, "s")
        assert busy.value.can_retry
        clock.advance(1)
        second = await memory.begin(WS, "k", "f", 0, "s")
        assert isinstance(second, IdempotencyRef)
        assert second.resource == "exec_1"
        await memory.finish(first, Answer(200, {}, b"late"))
        await memory.finish(second, Answer(202, {"location": "/x"}, b"once"))
        assert await memory.begin(WS, "k", "f", 0, "s") == Answer(202, {"location": "/x"}, b"once")

    async def test_it_lives_for_a_day(self, memory: Idempotency, store: Store) -> None:
        claim = await memory.begin(WS, "k", "f", 0, "s")
        assert isinstance(claim, IdempotencyRef)
        await memory.finish(claim, Answer(200, {}, b""))
        assert 86_390_000 < await store.call("PTTL", claim.key) <= 86_400_000

    async def test_abandoned_with_nothing_made_it_is_forgotten(
        self, memory: Idempotency, store: Store
    ) -> None:
        claim = await memory.begin(WS, "k", "f", 0, "s")
        assert isinstance(claim, IdempotencyRef)
        await memory.abandon(claim)
        assert await store.call("EXISTS", claim.key) == 0
