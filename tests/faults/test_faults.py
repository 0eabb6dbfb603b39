"""Processes are killed or stopped while executions run; afterwards every promise is checked on each of them."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Sequence

import httpx2
import pytest

from kernel.clock import SystemClock, rfc3339
from tests.faults import workload
from tests.faults.history import faults
from tests.platform import Platform, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def api(platform: Platform) -> AsyncGenerator[httpx2.AsyncClient]:
    async with platform.client() as client:
        yield client


async def settle(platform: Platform, api: httpx2.AsyncClient, ids: Sequence[str], lost_at: str) -> None:
    """All completed, nothing said twice, nothing run twice, nothing left running."""
    found = await workload.histories(platform, api, ids)
    assert [fault for one in found for fault in faults(one, lost_at)] == []
    assert {one.shown["status"] for one in found} == {"completed"}
    running = (await api.get("/executions", params={"status": "running"})).json()
    assert running["pagination"]["total"] == 0


def now() -> str:
    return rfc3339(SystemClock().now_ms())


async def begun(api: httpx2.AsyncClient, ids: Sequence[str]) -> None:
    """Waits until the middle one has finished its first node."""
    async with api.stream("GET", f"/executions/{ids[len(ids) // 2]}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:") and '"node.completed"' in line:
                return


async def test_a_runner_killed_with_200_in_flight(platform: Platform, api: httpx2.AsyncClient) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=700), 200)
    await begun(api, ids)
    lost_at = now()
    platform.kill("runner")
    await settle(platform, api, ids, lost_at)


async def test_a_killed_runners_work_goes_on_within_five_seconds(
    platform: Platform, api: httpx2.AsyncClient
) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=600), 10)
    await begun(api, ids)
    lost_at = now()
    killed = SystemClock().now_ms()
    platform.kill("runner")
    ends = await asyncio.gather(*(workload.end(api, execution_id) for execution_id in ids))
    assert {shown["status"] for shown in ends} == {"completed"}
    for execution_id in ids:
        after = [event for event in await workload.events(api, execution_id) if event["timestamp"] > lost_at]
        assert after[0]["timestamp"] < rfc3339(killed + 5_000)


async def test_an_api_replica_killed(platform: Platform, api: httpx2.AsyncClient) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=400), 50)
    before = {process.pid for process in platform.processes("api-replica")}
    lost_at = now()
    platform.kill("api-replica")
    await settle(platform, api, ids, lost_at)

    def replaced() -> bool:
        replicas = {process.pid for process in platform.processes("api-replica")}
        return len(replicas) == len(before) and replicas != before

    until(replaced, 15, "a new replica")


async def test_the_supervisor_killed(platform: Platform, api: httpx2.AsyncClient) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=400), 50)
    old = platform.kill("supervisor")
    await settle(platform, api, ids, now())
    until(
        lambda: [one.pid for one in platform.processes("supervisor")] not in ([], [old]),
        15,
        "a new supervisor",
    )


async def test_supervisor_and_runner_killed_together(platform: Platform, api: httpx2.AsyncClient) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=500), 50)
    await begun(api, ids)
    lost_at = now()
    platform.kill("supervisor")
    platform.kill("runner")
    await settle(platform, api, ids, lost_at)


async def test_the_store_killed_under_load_loses_nothing_acknowledged(
    platform: Platform, api: httpx2.AsyncClient
) -> None:
    made = (await api.post("/agents", json=workload.agent(delay_ms=50))).json()
    acknowledged: list[str] = []
    refused: list[httpx2.Response] = []
    enough, some = asyncio.Event(), asyncio.Event()
    wanted = 300

    async def order() -> None:
        while not enough.is_set():
            try:
                answer = await api.post(f"/agents/{made['id']}/execute", json={"input": {"n": 1}})
            except httpx2.TransportError:
                continue
            if answer.status_code == 202:
                acknowledged.append(answer.json()["execution_id"])
            else:
                refused.append(answer)
            if len(acknowledged) >= wanted:
                some.set()

    writers = [asyncio.create_task(order()) for _ in range(10)]
    await some.wait()
    await asyncio.to_thread(platform.kill, "valkey")
    wanted = len(acknowledged) + 700
    some.clear()
    await some.wait()
    enough.set()
    await asyncio.gather(*writers)
    assert {answer.status_code for answer in refused} <= {503}
    assert all(answer.headers["retry-after"] for answer in refused)
    await settle(platform, api, acknowledged, "")


async def test_a_stopped_runner_may_write_nothing_when_it_wakes(
    platform: Platform, api: httpx2.AsyncClient
) -> None:
    ids = await workload.start(api, workload.agent(delay_ms=800), 20)
    await begun(api, ids)
    (runner, *_) = platform.processes("runner")
    os.kill(runner.pid, signal.SIGSTOP)
    lost_at = now()
    try:
        await asyncio.sleep(10)
    finally:
        os.kill(runner.pid, signal.SIGCONT)
    await settle(platform, api, ids, lost_at)


@pytest.mark.parametrize(
    ("fail", "kind"), [("429", "limited"), ("500", "fault"), ("cut", "fault"), ("garbage", "malformed")]
)
async def test_a_provider_that_fails_is_told_with_its_node(
    api: httpx2.AsyncClient, fail: str, kind: str
) -> None:
    (execution_id,) = await workload.start(api, workload.agent(delay_ms=0, fail=[fail]), 1)
    shown = await workload.end(api, execution_id)
    assert shown["status"] == "failed"
    assert shown["error"]["code"] == "PROVIDER_ERROR"
    assert shown["error"]["details"]["node_id"] == "first"
    assert shown["error"]["details"]["kind"] == kind


async def test_a_provider_that_hangs_ends_with_the_execution(api: httpx2.AsyncClient) -> None:
    body = workload.agent(delay_ms=0, fail=["hang"])
    made = (await api.post("/agents", json=body)).json()
    order = {"input": {"n": 1}, "options": {"timeout": 500}}
    shown = (await api.post(f"/agents/{made['id']}/execute", params={"wait": 10}, json=order)).json()
    assert shown["status"] == "timed_out"
    assert shown["duration_ms"] < 1_500


async def test_a_client_that_leaves_stops_nothing(platform: Platform, api: httpx2.AsyncClient) -> None:
    made = (await api.post("/agents", json=workload.agent(delay_ms=400))).json()
    order = {"input": {"n": 1}, "options": {"labels": {"who": "leaver"}}}
    with pytest.raises(httpx2.ReadTimeout):
        await api.post(f"/agents/{made['id']}/execute", params={"wait": 30}, json=order, timeout=0.3)
    listed = (await api.get("/executions", params={"label": "who=leaver"})).json()["executions"]
    ids = [one["id"] for one in listed]
    assert len(ids) == 1
    async with api.stream("GET", f"/executions/{ids[0]}/events") as answer:
        await anext(answer.aiter_lines())
    await settle(platform, api, ids, "")


def test_after_all_of_it_the_books_balance(platform: Platform) -> None:
    """What was killed, taken over, cancelled and timed out above is counted once, and nothing else is."""
    compared = json.loads(platform.command("reconcile", "--json").stdout)
    assert sum(one["executions"]["executions"] for one in compared) >= 1_000
    assert all(one["equal"] for one in compared)
