import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import pydantic
import pytest

from kernel.agents.catalog import INVALID, Agents
from kernel.agents.flow import Flow
from kernel.agents.json_schema import json_schema_problems
from kernel.agents.judge import Judgement
from kernel.agents.record import AgentCreate, AgentPatch, AgentRecord
from kernel.agents.search import AgentFilter
from kernel.clock import ManualClock, rfc3339
from kernel.errors import CodexError, Conflict, NotFound, PayloadTooLarge, Problem, ValidationError
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio

WS, OTHER, AUTHOR = new_id("ws"), new_id("ws"), new_id("user")
NODE = {"id": "llm1", "type": "llm", "config": {"model": "gpt-4", "prompt": "Review this code..."}}
EDGE = {"source": "entry", "target": "llm1"}
BODY: dict[str, Any] = {
    "name": "Code Review Assistant",
    "description": "Reviews code for bugs and best practices",
    "flow": {"nodes": [NODE], "edges": [EDGE]},
    "tags": ["development", "code-review"],
}


async def any_flow(ws: str, flow: Flow, schema: Mapping[str, Any] | None) -> Judgement:
    return Judgement([])


async def known_models(ws: str, flow: Flow, schema: Mapping[str, Any] | None) -> Judgement:
    return Judgement(
        [
            Problem(f"flow.nodes[{at}].config.model", "Model 'gpt-5' is not supported")
            for at, node in enumerate(flow.nodes)
            if node.config.get("model") == "gpt-5"
        ]
    )


@pytest.fixture
def agents(store: Store, clock: ManualClock) -> Agents:
    return Agents(store, clock, known_models)


@pytest.fixture
async def agent(agents: Agents) -> AgentRecord:
    return await make(agents)


async def make(agents: Agents, ws: str = WS, **changes: Any) -> AgentRecord:
    return await agents.create(ws, AUTHOR, AgentCreate.model_validate(BODY | changes))


async def patch(agents: Agents, agent: AgentRecord, if_match: str | None = None, **body: Any) -> AgentRecord:
    return await agents.patch(WS, agent.id, AgentPatch.model_validate(body), "user_2", if_match)


async def listed(agents: Agents, ws: str = WS, **wanted: Any) -> list[str]:
    page = await agents.list(ws, AgentFilter.of(**wanted), PageQuery(1, 100))
    assert page.total == len(page.items)
    return [item["id"] for item in page.items]


async def set_status(store: Store, agent: AgentRecord, status: str) -> None:
    """As the end of an execution does it."""
    before = keys.key("agents_by", WS, field="status", value=agent.status)
    await store.call("ZREM", before, agent.id)
    await store.call("ZADD", keys.key("agents_by", WS, field="status", value=status), 0, agent.id)
    await store.call("HSET", keys.key("agent", WS, id=agent.id), "status", status)
    await store.call("HSET", keys.key("agent_stats", WS, id=agent.id), "streak", 5)


async def is_gone(act: Awaitable[Any]) -> None:
    with pytest.raises(NotFound):
        await act


class TestCreate:
    async def test_get_has_the_reference_fields_and_the_list_items(
        self, agents: Agents, agent: AgentRecord, clock: ManualClock
    ) -> None:
        now = rfc3339(clock.now_ms())
        item = {
            "id": agent.id,
            "name": BODY["name"],
            "description": BODY["description"],
            "status": "active",
            "created_at": now,
            "updated_at": now,
            "execution_count": 0,
            "success_rate": None,
            "version": "1.0.0",
            "tags": BODY["tags"],
        }
        metadata = {"version": "1.0.0", "tags": BODY["tags"], "author": AUTHOR}
        read = await agents.get(WS, agent.id)
        assert read.shown() == item | {"flow": BODY["flow"], "metadata": metadata}
        assert read == agent
        assert (await agents.list(WS, AgentFilter(), PageQuery())).items == [item]

    async def test_a_flow_is_shown_as_it_was_written(self, agents: Agents) -> None:
        node = NODE | {"retry": {"max_attempts": 2}, "on_error": {"default": None}, "config": {"a": None}}
        made = await make(agents, flow={"nodes": [node]})
        assert made.shown()["flow"] == {"nodes": [node], "edges": []}

    async def test_a_flow_that_is_wrong_is_refused_and_nothing_kept(
        self, agents: Agents, store: Store
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            await make(agents, flow={"nodes": [NODE | {"config": {"model": "gpt-5"}}]})
        assert caught.value.message == INVALID
        assert caught.value.details["field"] == "flow.nodes[0].config.model"
        assert caught.value.details["reason"] == "Model 'gpt-5' is not supported"
        assert await store.call("DBSIZE") == 0

    async def test_a_try_that_is_repeated_makes_one(self, agents: Agents, store: Store) -> None:
        record, order = "cx1:{s00}:idem", AgentCreate.model_validate(BODY)
        await store.call("HSET", record, "owner", "me")
        first = await agents.create(WS, AUTHOR, order, idempotency_record=f"{record} me")
        assert await store.call("HGET", record, "resource") == first.id.encode()
        again = await agents.create(WS, AUTHOR, order, agent_id=first.id, idempotency_record=f"{record} me")
        assert again == first
        assert await listed(agents) == [first.id]

    async def test_a_try_that_was_taken_for_lost_makes_none(self, agents: Agents, store: Store) -> None:
        record, order = "cx1:{s00}:idem", AgentCreate.model_validate(BODY)
        await store.call("HSET", record, "owner", "another")
        with pytest.raises(Conflict):
            await agents.create(WS, AUTHOR, order, idempotency_record=f"{record} me")
        assert await listed(agents) == []

    async def test_names_are_kept_in_nfc(self, agents: Agents) -> None:
        assert (await make(agents, name="Cafe\u0301")).shown()["name"] == "Caf\u00e9"

    async def test_too_large_is_said(self, agents: Agents) -> None:
        node = NODE | {"config": {"prompt": "x" * 8_000_000}}
        with pytest.raises(PayloadTooLarge):
            await make(agents, flow={"nodes": [node]})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""), ("name", "  "), ("name", "x" * 129), ("name", "a\u200bb"), ("name", None),
            ("description", "x" * 4097), ("description", "\x00"), ("description", None),
            ("tags", ["t"] * 21), ("tags", ["x" * 65]), ("tags", [""]), ("tags", "t"), ("tags", [1]),
            ("tags", None), ("name", 1),
            ("flow", None), ("flow", []), ("flow", {"nodes": [NODE], "more": 1}), ("input_schema", []),
            ("status", "inactive"), ("id", "agent_1"), ("workspace_id", WS), ("version", "2.0.0"),
            ("created_at", 1),
        ],
    )  # fmt: skip
    async def test_bad_bodies(self, agents: Agents, field: str, value: Any) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            AgentCreate.model_validate(BODY | {field: value})
        assert caught.value.errors()[0]["loc"][0] == field
        assert (await agents.validate(WS, BODY | {field: value}))[0].field.startswith(field)


class TestValidate:
    async def test_finds_all_at_once(self, agents: Agents, store: Store) -> None:
        body = BODY | {
            "name": "",
            "colour": "red",
            "flow": {"nodes": [NODE | {"config": {"model": "gpt-5"}}]},
            "input_schema": {"type": "thing"},
        }
        fields = {problem.field for problem in await agents.validate(WS, body)}
        assert fields == {"name", "colour", "flow.nodes[0].config.model", "input_schema.type"}
        assert await store.call("DBSIZE") == 0

    @pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"flow": {}}, {"flow": 1, "input_schema": 2}])
    async def test_takes_anything(self, agents: Agents, body: Any) -> None:
        assert await agents.validate(WS, body)

    async def test_a_good_one_has_none(self, agents: Agents) -> None:
        assert not await agents.validate(WS, BODY)


class TestInputSchema:
    @pytest.mark.parametrize(
        "schema",
        [
            {},
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/a"}},
                "$defs": {"a": {"type": "string"}},
            },
            {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}},
            {"type": "string", "pattern": "^[a-z]+$"},
        ],
    )
    def test_good(self, schema: dict[str, Any]) -> None:
        assert json_schema_problems(schema, "input_schema") == []

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": 1},
            {"properties": {"a": {"minimum": "one"}}},
            {"$ref": "https://example.com/schema.json"},
            {"$ref": "file:///etc/passwd"},
            {"items": {"$ref": "other.json#/a"}},
            {"$dynamicRef": "http://127.0.0.1/"},
            {"$ref": "#/$defs/missing"},
            {"pattern": "("},
            {"patternProperties": {"(": {}}},
            {"pattern": "a" * 513},
            {"pattern": "a{99999999999}"},
            {"pattern": "(?:" * 5_000 + ")" * 5_000},
            {"allOf": [{}], "$ref": "#/allOf/x"},
            {"title": "abc", "$ref": "#/title/x"},
            {"title": "abc", "$ref": "#/title/0"},
            {"maxLength": 5, "$ref": "#/maxLength/x"},
            {"maxLength": 5, "$ref": "#/maxLength"},
            {"$id": "http://[", "$ref": "#a"},
            {"enum": ["x" * 65_536]},
        ],
    )
    def test_bad(self, schema: dict[str, Any]) -> None:
        assert json_schema_problems(schema, "input_schema")[0].field.startswith("input_schema")

    def test_many_references_are_looked_up_at_once(self) -> None:
        anchors = {f"d{n}": {"$anchor": f"a{n}", "$ref": f"#a{n}"} for n in range(1_000)}
        began = time.perf_counter()
        assert json_schema_problems({"$defs": anchors}, "input_schema") == []
        assert time.perf_counter() - began < 3

    async def test_is_kept_shown_and_taken_away(self, agents: Agents) -> None:
        made = await make(agents, input_schema={"type": "object"})
        assert made.shown()["input_schema"] == {"type": "object"}
        assert (await agents.current(WS, made.id)).input_schema == {"type": "object"}
        bare = await patch(agents, made, input_schema=None)
        assert "input_schema" not in bare.shown()
        assert bare.document.version == "1.0.1"


class TestVersions:
    async def test_a_flow_is_minor_and_the_rest_a_patch(self, agents: Agents, agent: AgentRecord) -> None:
        assert (await patch(agents, agent, name="Other")).document.version == "1.0.1"
        assert (await patch(agents, agent, tags=[])).document.version == "1.0.2"
        nodes = [NODE, NODE | {"id": "llm2"}]
        assert (await patch(agents, agent, flow={"nodes": nodes})).document.version == "1.1.0"
        assert (await patch(agents, agent, description="", flow={"edges": []})).document.version == "1.2.0"

    async def test_the_part_of_a_flow_that_is_absent_stays(self, agents: Agents, agent: AgentRecord) -> None:
        node = NODE | {"config": {}}
        assert (await patch(agents, agent, flow={"nodes": [node]})).shown()["flow"] == {
            "nodes": [node],
            "edges": [EDGE],
        }
        assert (await patch(agents, agent, flow={"edges": []})).shown()["flow"] == {
            "nodes": [node],
            "edges": [],
        }

    async def test_nothing_new_makes_no_version(
        self, agents: Agents, agent: AgentRecord, clock: ManualClock
    ) -> None:
        clock.advance(1000)
        same = {"name": BODY["name"]}, {"flow": BODY["flow"]}
        bodies: list[dict[str, Any]] = [*same, {}, {"status": "active"}, {"flow": {}}]
        for body in bodies:
            assert await patch(agents, agent, **body) == agent
        assert await agents.get(WS, agent.id) == agent

    async def test_what_is_returned_is_what_is_stored(
        self, agents: Agents, agent: AgentRecord, clock: ManualClock
    ) -> None:
        clock.advance(1000)
        changed = await patch(agents, agent, name="Other", status="inactive")
        assert await agents.get(WS, agent.id) == changed
        shown = changed.shown()
        assert (shown["name"], shown["status"], shown["metadata"]["author"]) == (
            "Other",
            "inactive",
            "user_2",
        )
        assert shown["created_at"] < shown["updated_at"] == rfc3339(clock.now_ms())

    async def test_a_version_never_changes(self, agents: Agents, agent: AgentRecord) -> None:
        before = await agents.version(WS, agent.id, "1.0.0")
        await patch(agents, agent, name="Other", flow={"nodes": []})
        assert await agents.version(WS, agent.id, "1.0.0") == before
        assert before["metadata"]["version"] == "1.0.0"
        assert (await agents.version(WS, agent.id, "1.1.0"))["name"] == "Other"

    async def test_the_list_is_newest_first_and_pages(self, agents: Agents, agent: AgentRecord) -> None:
        for number in range(4):
            await patch(agents, agent, name=f"Name {number}")
        first = await agents.versions(WS, agent.id, PageQuery(1, 3))
        last = await agents.versions(WS, agent.id, PageQuery(2, 3))
        assert [v["version"] for v in first.items + last.items] == [
            "1.0.4",
            "1.0.3",
            "1.0.2",
            "1.0.1",
            "1.0.0",
        ]
        assert (first.total, first.more, last.more) == (5, True, False)
        assert set(first.items[0]) == {"version", "created_at", "author"}

    async def test_rollback_makes_a_new_version_of_the_old_flow(
        self, agents: Agents, agent: AgentRecord
    ) -> None:
        await patch(agents, agent, name="Other", flow={"nodes": [NODE | {"id": "other"}], "edges": []})
        back = await agents.rollback(WS, agent.id, "1.0.0", AUTHOR)
        assert (back.document.version, back.shown()["flow"]) == ("1.2.0", BODY["flow"])
        assert back.shown()["name"] == "Other"
        assert await agents.get(WS, agent.id) == back
        assert (await agents.rollback(WS, agent.id, "1.2.0", AUTHOR)).document.version == "1.3.0"

    @pytest.mark.parametrize(
        "version", ["9.9.9", "", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.0\n", "١.0.0", "*"]
    )
    async def test_unknown_versions(self, agents: Agents, agent: AgentRecord, version: str) -> None:
        await is_gone(agents.version(WS, agent.id, version))
        with pytest.raises(ValidationError) as caught:
            await agents.rollback(WS, agent.id, version, AUTHOR)
        assert caught.value.details["field"] == "version"

    async def test_a_flow_that_became_wrong_is_not_taken_back(
        self, store: Store, clock: ManualClock, agents: Agents
    ) -> None:
        lenient = Agents(store, clock, any_flow)
        agent = await make(lenient, flow={"nodes": [NODE | {"config": {"model": "gpt-5"}}]})
        await patch(lenient, agent, flow=BODY["flow"])
        with pytest.raises(ValidationError, match=INVALID):
            await agents.rollback(WS, agent.id, "1.0.0", AUTHOR)
        assert (await agents.get(WS, agent.id)).document.version == "1.1.0"


class TestPatch:
    async def test_the_whole_is_validated(self, agents: Agents, agent: AgentRecord) -> None:
        with pytest.raises(ValidationError) as caught:
            await patch(agents, agent, flow={"nodes": [NODE | {"config": {"model": "gpt-5"}}]})
        assert caught.value.details["field"] == "flow.nodes[0].config.model"
        assert await agents.get(WS, agent.id) == agent

    @pytest.mark.parametrize(
        "body",
        [
            {"name": None}, {"flow": None}, {"tags": None}, {"status": None}, {"description": None},
            {"status": "error"}, {"status": "gone"}, {"flow": {"nodes": None}}, {"flow": {"x": 1}},
            {"id": "agent_1"}, {"version": "2.0.0"}, {"created_at": "2024-01-15T10:00:00Z"},
            {"author": AUTHOR},
        ],
    )  # fmt: skip
    async def test_bad_bodies(self, body: dict[str, Any]) -> None:
        with pytest.raises(pydantic.ValidationError):
            AgentPatch.model_validate(body)

    async def test_if_match(self, agents: Agents, agent: AgentRecord) -> None:
        changed = await patch(agents, agent, agent.etag, name="One")
        assert changed.etag != agent.etag
        for stale in (agent.etag, "", '"x"', f"W/{changed.etag}", changed.etag.strip('"')):
            with pytest.raises(Conflict):
                await patch(agents, agent, stale, name="Two")
            with pytest.raises(Conflict):
                await agents.delete(WS, agent.id, stale)
            with pytest.raises(Conflict):
                await agents.rollback(WS, agent.id, "1.0.0", AUTHOR, stale)
        assert (await patch(agents, agent, f'"x", {changed.etag}', name="Two")).shown()["name"] == "Two"
        assert (await patch(agents, agent, "*", name="Three")).shown()["name"] == "Three"

    async def test_of_many_with_one_etag_one_wins(self, agents: Agents, agent: AgentRecord) -> None:
        acts = [patch(agents, agent, agent.etag, name=f"Name {n}") for n in range(20)]
        ends = await asyncio.gather(*acts, return_exceptions=True)
        won = [end for end in ends if isinstance(end, AgentRecord)]
        assert len(won) == 1
        assert all(isinstance(end, Conflict) for end in ends if end is not won[0])
        assert await agents.get(WS, agent.id) == won[0]

    async def test_edits_of_different_fields_at_once_are_all_kept(
        self, agents: Agents, agent: AgentRecord
    ) -> None:
        bodies: list[dict[str, Any]] = [
            {"name": "N"},
            {"description": "D"},
            {"tags": ["t"]},
            {"status": "inactive"},
        ]
        await asyncio.gather(*(patch(agents, agent, **body) for body in bodies))
        shown = (await agents.get(WS, agent.id)).shown()
        assert {name: shown[name] for body in bodies for name in body} == {
            k: v for b in bodies for k, v in b.items()
        }
        assert shown["version"] == "1.0.3"
        assert await listed(agents, search="n d", tag="t", status="inactive") == [agent.id]


class TestStatus:
    async def test_is_set_by_patch_without_a_version(self, agents: Agents, agent: AgentRecord) -> None:
        off = await patch(agents, agent, status="inactive")
        assert (off.status, off.document.version) == ("inactive", "1.0.0")
        assert off.etag != agent.etag
        assert await listed(agents, status="inactive") == [agent.id]
        assert await listed(agents, status="active") == []

    async def test_a_new_version_leaves_it_inactive(self, agents: Agents, agent: AgentRecord) -> None:
        await patch(agents, agent, status="inactive")
        assert (await patch(agents, agent, name="Other")).status == "inactive"

    @pytest.mark.parametrize("body", [{"name": "Other"}, {"status": "active"}])
    async def test_a_new_version_or_a_person_clears_error(
        self, agents: Agents, agent: AgentRecord, store: Store, body: dict[str, Any]
    ) -> None:
        await set_status(store, agent, "error")
        assert (await agents.get(WS, agent.id)).status == "error"
        assert (await patch(agents, agent, **body)).status == "active"
        assert await listed(agents, status="active") == [agent.id]
        assert await store.call("HGET", keys.key("agent_stats", WS, id=agent.id), "streak") is None

    async def test_a_flip_makes_the_etag_stale(
        self, agents: Agents, agent: AgentRecord, store: Store
    ) -> None:
        await set_status(store, agent, "error")
        with pytest.raises(Conflict):
            await patch(agents, agent, agent.etag, name="Other")

    async def test_success_rate_is_of_those_that_ended_by_themselves(
        self, agents: Agents, agent: AgentRecord, store: Store
    ) -> None:
        counts = {"executions": 12, "completed": 6, "failed": 1, "timed_out": 1, "cancelled": 3}
        await store.call(
            "HSET", keys.key("agent_stats", WS, id=agent.id), *(x for pair in counts.items() for x in pair)
        )
        shown = (await agents.get(WS, agent.id)).shown()
        assert (shown["execution_count"], shown["success_rate"]) == (12, 0.75)


class TestDelete:
    async def test_it_is_gone_from_everywhere_at_once(
        self, agents: Agents, agent: AgentRecord, store: Store
    ) -> None:
        await agents.delete(WS, agent.id)
        order = AgentPatch(name="x")
        for act in (
            agents.get(WS, agent.id),
            agents.current(WS, agent.id),
            agents.versions(WS, agent.id, PageQuery()),
            agents.version(WS, agent.id, "1.0.0"),
            agents.patch(WS, agent.id, order, AUTHOR),
            agents.rollback(WS, agent.id, "1.0.0", AUTHOR),
            agents.delete(WS, agent.id),
        ):
            await is_gone(act)
        assert (
            await listed(agents)
            == await listed(agents, search="code")
            == await listed(agents, tag="development")
            == []
        )

    async def test_executions_that_run_on_keep_their_version(
        self, agents: Agents, agent: AgentRecord, store: Store
    ) -> None:
        await agents.delete(WS, agent.id)
        assert await agents.flow(WS, agent.id, "1.0.0") == BODY["flow"]
        left = await store.call("KEYS", "*")
        versions = keys.key("agent_versions", WS, id=agent.id)
        assert sorted(left) == sorted([versions.encode(), keys.key("agents_turn", WS).encode()])
        assert 0 < await store.call("TTL", versions) <= 30 * 86_400

    async def test_an_edit_at_the_same_time_leaves_nothing_behind(
        self, agents: Agents, agent: AgentRecord
    ) -> None:
        edits = [patch(agents, agent, name=f"Name {n}") for n in range(10)]
        ends = await asyncio.gather(*edits, agents.delete(WS, agent.id), return_exceptions=True)
        assert all(isinstance(end, AgentRecord | NotFound | None) for end in ends)
        assert await listed(agents) == await listed(agents, search="n") == []


class TestOtherWorkspace:
    async def test_sees_and_changes_nothing(self, agents: Agents, agent: AgentRecord) -> None:
        unknown = new_id("agent")
        for name in (
            agent.id,
            unknown,
            "agent_1",
            "",
            "*",
            agent.id.lower(),
            agent.id + "\ud800",
            f"../{agent.id}",
        ):
            ws = OTHER if name == agent.id else WS
            messages = []
            for act in (
                agents.get(ws, name),
                agents.current(ws, name),
                agents.versions(ws, name, PageQuery()),
                agents.patch(ws, name, AgentPatch(name="x"), AUTHOR),
                agents.delete(ws, name),
                agents.version(ws, name, "1.0.0"),
                agents.flow(ws, name, "1.0.0"),
                agents.rollback(ws, name, "1.0.0", AUTHOR),
            ):
                with pytest.raises(NotFound) as caught:
                    await act
                messages.append(str(caught.value))
            assert messages == ["Agent not found"] * 5 + ["Version not found"] * 2 + ["Agent not found"]
        assert await listed(agents, OTHER) == await listed(agents, OTHER, search="code") == []
        assert await agents.get(WS, agent.id) == agent

    async def test_two_workspaces_of_one_shard_are_apart(self, agents: Agents, agent: AgentRecord) -> None:
        near = next(ws for ws in iter(lambda: new_id("ws"), "") if keys.shard_of(ws) == keys.shard_of(WS))
        theirs = await make(agents, near)
        assert await listed(agents, near, search="code") == [theirs.id]
        assert await listed(agents, search="code") == [agent.id]


async def test_a_full_store_refuses_new_agents_and_still_reads_and_deletes(
    agents: Agents, agent: AgentRecord, store: Store
) -> None:
    await store.call("CONFIG", "SET", "maxmemory", 1)
    try:
        for act in (make(agents), patch(agents, agent, name="Other")):
            with pytest.raises(CodexError) as caught:
                await act
            assert (caught.value.status, caught.value.details["reason"]) == (503, "store_full")
        assert await listed(agents, search="code", status="active") == [agent.id]
        assert await agents.get(WS, agent.id) == agent
        await agents.delete(WS, agent.id)
        assert await listed(agents) == []
    finally:
        await store.call("CONFIG", "SET", "maxmemory", 0)
