"""What only a whole cluster shows: other nodes, many streams, retention, revoked keys on every replica."""

import asyncio
import json
import time
from typing import Any

import httpx2
import pytest

from kernel.storage.store import opened
from tests.faults import workload
from tests.platform import Platform, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


async def test_a_node_that_asks_for_a_gpu_holds_it_while_it_runs(api: httpx2.AsyncClient) -> None:
    nodes = [
        {"id": "near", "type": "template", "config": {"template": "{{ input.text }}"}},
        {
            "id": "far",
            "type": "llm",
            "config": {
                "model": "scripted",
                "prompt": "{{ nodes.near.output }}",
                "script": {"reply": "from afar"},
            },
            "resources": {"num_gpus": 1},
        },
    ]
    edges = [{"source": "entry", "target": "near"}, {"source": "near", "target": "far"}]
    body = {"flow": {"nodes": nodes, "edges": edges}, "input": {"text": "hi"}}
    shown = (await api.post("/executions", params={"wait": 60}, json=body)).json()
    assert shown["status"] == "completed", shown
    assert shown["result"]["output"] == "from afar"
    places = {node["id"]: node["placed_on"] for node in shown["nodes"]}
    assert places["near"]["gpu_seconds"] == 0
    assert places["far"]["gpu_seconds"] > 0
    assert places["far"]["node"]
    assert any("num_gpus" in line["message"] for line in shown["logs"])


async def test_a_node_that_asks_for_too_much_waits_and_can_be_cancelled(api: httpx2.AsyncClient) -> None:
    node = {"id": "far", "type": "template", "config": {"template": "x"}, "resources": {"num_gpus": 64}}
    started = (await api.post("/executions", json={"flow": {"nodes": [node], "edges": []}})).json()
    async with api.stream("GET", started["links"]["events"].removeprefix("/v1")) as answer:
        async for line in answer.aiter_lines():
            if "Asking for" in line:
                break
    await api.post(f"/executions/{started['execution_id']}/cancel")
    assert (await workload.end(api, started["execution_id"]))["status"] == "cancelled"


async def test_a_revoked_key_stops_on_every_replica_within_a_second(
    platform: Platform, api: httpx2.AsyncClient
) -> None:
    made = (await api.post("/api-keys", json={"name": "short-lived", "scopes": ["agents:read"]})).json()
    async with platform.client(headers={"Authorization": f"Bearer {made['key']}"}) as other:
        answers = await asyncio.gather(*(other.get("/agents") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        (await api.delete(f"/api-keys/{made['id']}")).raise_for_status()
        revoked, last = time.monotonic(), 0.0
        while time.monotonic() < revoked + 1.5:
            answers = await asyncio.gather(*(other.get("/agents") for _ in range(4)))
            if any(answer.status_code == 200 for answer in answers):
                last = time.monotonic() - revoked
            await asyncio.sleep(0.15)
        assert last <= 1.0
        assert {answer.status_code for answer in answers} == {401}


async def test_many_streams_see_everything(api: httpx2.AsyncClient) -> None:
    ids = await workload.start(
        api, workload.agent(delay_ms=20, tokens=["a", "b", "c"], token_delay_ms=100), 60
    )
    streams = await asyncio.gather(*(workload.events(api, execution_id) for execution_id in ids))
    for events in streams:
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["type"] == "execution.completed"
        assert [event["data"]["text"] for event in events if event["type"] == "node.token"]


async def test_twins_with_one_idempotency_key_make_one_execution(api: httpx2.AsyncClient) -> None:
    made = (await api.post("/agents", json=workload.agent(delay_ms=10))).json()
    order: dict[str, Any] = {"input": {"n": 1}, "options": {"labels": {"twin": "yes"}}}
    headers = {"Idempotency-Key": "twin-1"}
    path = f"/agents/{made['id']}/execute"
    answers = await asyncio.gather(*(api.post(path, json=order, headers=headers) for _ in range(50)))
    ids = {answer.json()["execution_id"] for answer in answers if answer.status_code == 202}
    assert len(ids) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert all(answer.json()["error"]["retryable"] for answer in answers if answer.status_code == 409)
    listed = (await api.get("/executions", params={"label": "twin=yes"})).json()
    assert listed["pagination"]["total"] == 1
    other = await api.post(path, json={"input": {"n": 2}}, headers=headers)
    assert other.status_code == 409


async def test_cancel_stops_the_call_in_flight(api: httpx2.AsyncClient) -> None:
    (execution_id,) = await workload.start(api, workload.agent(delay_ms=30_000), 1)
    async with api.stream("GET", f"/executions/{execution_id}/events") as answer:
        async for line in answer.aiter_lines():
            if '"node.started"' in line:
                break
    began = time.monotonic()
    assert (await api.post(f"/executions/{execution_id}/cancel")).status_code in (200, 202)
    shown = await workload.end(api, execution_id)
    assert shown["status"] == "cancelled"
    assert time.monotonic() - began < 5
    assert (await api.post(f"/executions/{execution_id}/cancel")).status_code == 200


async def test_the_store_syncs_every_write_and_evicts_nothing(platform: Platform) -> None:
    async with opened(platform.store_url) as store:
        names = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
        found = [(await store.call("CONFIG", "GET", name))[1].decode() for name in names]
    assert found == ["yes", "always", "no", "noeviction"]


async def test_a_foreign_request_id_is_not_reflected(platform: Platform, api: httpx2.AsyncClient) -> None:
    hostile = await api.get("/agents", headers={"X-Request-Id": "<b>hi</b>"})
    assert "<b>" not in str(hostile.headers)
    kept = await api.get("/agents", headers={"X-Request-Id": "mine-1"})
    assert kept.headers.get_list("x-request-id") == ["mine-1"]


async def test_status_names_every_process(platform: Platform) -> None:
    roles = {process.role for process in platform.processes()}
    assert roles >= {
        "keeper",
        "valkey",
        "milvus",
        "ray-head",
        "raylet",
        "haproxy",
        "api-replica",
        "runner",
        "supervisor",
    }


def test_what_ended_long_ago_is_read_from_parquet(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A platform of its own, whose retention time is nothing."""
    platform = Platform(
        tmp_path_factory.mktemp("archive"),
        CODEXOS_RETENTION__AFTER_S="0",
        CODEXOS_RETENTION__GATHER_S="0",
        CODEXOS_RETENTION__EVERY_S="0.5",
        CODEXOS_API__REPLICAS="1",
    )
    platform.up()
    try:
        with httpx2.Client(
            base_url=platform.connection["base_url"],
            headers={"Authorization": f"Bearer {platform.connection['api_key']}"},
            timeout=60,
        ) as api:
            listed = api.get("/executions").json()["executions"]
            assert len(listed) == 1
            path = f"/executions/{listed[0]['id']}"
            until(lambda: any(platform.home.glob("objects/archive/*/*.parquet")), 30, "an archive file")
            shown = api.get(path).json()
            assert shown["status"] == "completed"
            assert shown["result"]["output"]
            assert api.get("/executions").json()["pagination"]["total"] == 1
            lines = api.get(f"{path}/events").text.splitlines()
            events = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
            assert events[-1]["type"] == "execution.completed"
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
            assert api.delete(path).status_code == 204
            assert api.get(path).status_code == 404
        platform.down()
        platform.up()
        assert platform.processes("runner")
    finally:
        platform.down()
    assert platform.processes() == []
