"""The queue's promises, straight on the scripts: order, fairness, leases, fences, exactly one end."""

import pytest

from kernel.clock import ManualClock
from kernel.errors import Conflict, RateLimitError, Unavailable
from kernel.executions.performer import LOST_PROBLEM, lost_event
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.executions import Creation, Ending, ExecutionStore
from kernel.storage.queue import Claim, QueueStore
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26
SHARD = keys.shard_of(WS)
FAR = 2**53


@pytest.fixture
def executions(store: Store) -> ExecutionStore:
    return ExecutionStore(store)


@pytest.fixture
def queue(store: Store) -> QueueStore:
    return QueueStore(store)


async def create(executions: ExecutionStore, workspace_id: str = WS, **more: object) -> str:
    execution_id = new_id("exec")
    facts = {"priority": "normal", "spec": b"{}", "first_event": b"{}", "now_ms": 1, "agent_id": ""} | more
    await executions.create(
        Creation(workspace_id=workspace_id, execution_id=execution_id, expected_version="", **facts)  # type: ignore[arg-type]
    )
    return execution_id


async def claim(queue: QueueStore, runner: str = "r1", most: int = 10, lease_ms: int = 60_000) -> list[Claim]:
    return await queue.claim(SHARD, runner, lease_ms, most)


async def commit(
    executions: ExecutionStore, claim: Claim, *events: bytes, ending: Ending | None = None
) -> bool:
    return await executions.commit(
        WS, claim.execution_id, claim.epoch, claim.seq, 5, events or (b"{}",), {}, ending
    )


async def reclaim(queue: QueueStore, most: int = 5) -> tuple[int, int]:
    return await queue.reclaim(most, LOST_PROBLEM, lost_event(1), FAR)


async def test_higher_priority_first_then_by_arrival(executions: ExecutionStore, queue: QueueStore) -> None:
    ids = [await create(executions, priority=priority) for priority in ("low", "normal", "normal", "high")]
    assert [one.execution_id for one in await claim(queue)] == [ids[3], ids[1], ids[2], ids[0]]


async def test_workspaces_take_turns(executions: ExecutionStore, queue: QueueStore) -> None:
    other = next(name for name in (f"ws_{n}" for n in range(999)) if keys.shard_of(name) == SHARD)
    for _ in range(5):
        await create(executions)
    await create(executions, other)
    first_two = [one.workspace_id for one in await claim(queue, most=2)]
    assert sorted(first_two) == sorted([WS, other])


async def test_position_counts_from_one(executions: ExecutionStore) -> None:
    first, second = await create(executions), await create(executions)
    assert await executions.queue_position(WS, first) == 1
    assert await executions.queue_position(WS, second) == 2


async def test_a_claim_is_given_once(executions: ExecutionStore, queue: QueueStore) -> None:
    await create(executions)
    assert len(await claim(queue, "r1")) == 1
    assert await claim(queue, "r2") == []


async def test_lost_work_goes_on_and_the_old_runner_is_shut_out(
    executions: ExecutionStore, queue: QueueStore
) -> None:
    await create(executions)
    (old,) = await claim(queue, "r1")
    assert await commit(executions, old, b'{"a":1}')
    assert await reclaim(queue) == (1, 0)
    assert not await commit(executions, old, ending=Ending("completed", {}))
    (new,) = await claim(queue, "r2")
    assert (new.epoch, new.seq) == (old.epoch + 2, 2)
    assert await commit(executions, new, ending=Ending("completed", {"output": b"1"}))
    assert not await commit(executions, old, ending=Ending("failed", {}))
    assert await executions.status(WS, new.execution_id) == "completed"


async def test_a_living_lease_is_left_alone(executions: ExecutionStore, queue: QueueStore) -> None:
    await create(executions)
    (held,) = await claim(queue, "r1")
    assert await queue.reclaim(5, LOST_PROBLEM, lost_event(1), 0) == (0, 0)
    assert await queue.renew(SHARD, "r1", 60_000) == {held.member: "executing"}


async def test_a_repeated_commit_is_taken_once(executions: ExecutionStore, queue: QueueStore) -> None:
    await create(executions)
    (held,) = await claim(queue)
    assert await commit(executions, held, b'{"n":1}', b'{"n":2}')
    assert await commit(executions, held, b'{"n":1}', b'{"n":2}')
    assert [(one.seq, one.body) for one in await executions.events(WS, held.execution_id, 1)] == [
        (2, b'{"n":1}'),
        (3, b'{"n":2}'),
    ]


async def test_given_up_after_too_many_deliveries(executions: ExecutionStore, queue: QueueStore) -> None:
    execution_id = await create(executions)
    for _ in range(2):
        assert len(await claim(queue)) == 1
        last = await reclaim(queue, most=2)
    assert last == (0, 1)
    stored = await executions.read(WS, execution_id)
    assert stored is not None
    assert stored.record["status"] == b"failed"
    assert stored.record["error"] == LOST_PROBLEM
    assert await claim(queue) == []


async def test_cancel_while_queued_ends_it_at_once(executions: ExecutionStore, queue: QueueStore) -> None:
    execution_id = await create(executions)
    assert await executions.cancel(WS, execution_id, 9, b'{"c":1}') == "cancelled"
    assert await executions.cancel(WS, execution_id, 9, b'{"c":1}') == "cancelled"
    assert await claim(queue) == []
    assert [one.body for one in await executions.events(WS, execution_id, 0)] == [b"{}", b'{"c":1}']


async def test_cancel_while_held_is_told_to_the_next_holder(
    executions: ExecutionStore, queue: QueueStore
) -> None:
    execution_id = await create(executions)
    await claim(queue)
    assert await executions.cancel(WS, execution_id, 9, b"{}") == "cancelling"
    assert list((await queue.renew(SHARD, "r1", 60_000)).values()) == ["cancelling"]
    await reclaim(queue)
    (again,) = await claim(queue, "r2")
    assert again.cancelled


async def test_slots_are_freed_by_every_end(executions: ExecutionStore, queue: QueueStore) -> None:
    await create(executions, slots=2)
    queued = await create(executions, slots=2)
    with pytest.raises(RateLimitError) as refused:
        await create(executions, slots=2)
    assert refused.value.details["limit"] == "concurrent"
    await executions.cancel(WS, queued, 9, b"{}")
    (held,) = await claim(queue)
    await commit(executions, held, ending=Ending("failed", {}))
    await create(executions, slots=1)


async def test_creating_again_with_the_same_id_changes_nothing(
    executions: ExecutionStore, queue: QueueStore
) -> None:
    creation = Creation(WS, new_id("exec"), "", "", b"{}", "normal", 1, b"{}")
    await executions.create(creation)
    await executions.create(creation)
    assert len(await claim(queue)) == 1
    assert len(await executions.events(WS, creation.execution_id, 0)) == 1


async def test_delete_takes_only_what_has_ended(
    executions: ExecutionStore, queue: QueueStore, store: Store
) -> None:
    await create(executions, labels=("a=b",))
    (held,) = await claim(queue)
    with pytest.raises(Conflict):
        await executions.delete(WS, held.execution_id)
    await commit(executions, held, ending=Ending("completed", {}))
    await executions.delete(WS, held.execution_id)
    left = await store.call("KEYS", f"*{held.execution_id}*")
    assert left == []
    assert await store.call("ZCARD", keys.key("executions", WS)) == 0
    assert await store.call("ZCARD", keys.key("executions_by", WS, field="label", value="a=b")) == 0


async def test_work_given_back_is_claimed_again(executions: ExecutionStore, queue: QueueStore) -> None:
    await create(executions)
    (held,) = await claim(queue, "r1")
    await queue.give_back(WS, held.execution_id, "r1", 5, LOST_PROBLEM, lost_event(1))
    assert [one.epoch for one in await claim(queue, "r2")] == [held.epoch + 2]


async def test_a_wake_token_stands_while_there_is_work(
    executions: ExecutionStore, queue: QueueStore, store: Store
) -> None:
    wake = keys.shard_key("wake", SHARD)
    await create(executions)
    await create(executions)
    assert await store.call("LLEN", wake) == 1
    await store.call("LPOP", wake)
    await claim(queue, most=1)
    assert await store.call("LLEN", wake) == 1
    await store.call("LPOP", wake)
    await claim(queue, most=5)
    assert await store.call("LLEN", wake) == 0


async def test_backlog_counts_queued_and_held(
    executions: ExecutionStore, queue: QueueStore, clock: ManualClock
) -> None:
    for _ in range(3):
        await create(executions)
    await claim(queue, most=1)
    backlog = await queue.backlog()
    assert (backlog.queued, backlog.held) == (2, 1)


async def test_a_full_store_refuses_new_work_and_lets_the_old_end(
    executions: ExecutionStore, queue: QueueStore, store: Store
) -> None:
    execution_id = await create(executions)
    await store.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(Unavailable) as refused:
            await create(executions)
        assert refused.value.details == {"reason": "store_full"}
        (held,) = await claim(queue)
        assert await commit(executions, held, b'{"n":1}', ending=Ending("completed", {"output": b"1"}))
        assert await executions.status(WS, execution_id) == "completed"
        await executions.delete(WS, execution_id)
    finally:
        await store.call("CONFIG", "SET", "maxmemory", "0")


async def test_a_request_taken_for_lost_creates_nothing(
    executions: ExecutionStore, queue: QueueStore, store: Store
) -> None:
    record = keys.key("idempotency", WS, id="x")
    await store.call("HSET", record, "owner", "first")
    execution_id = await create(executions, idempotency_record=f"{record} first")
    assert await store.call("HGET", record, "resource") == execution_id.encode()
    await store.call("HSET", record, "owner", "second")
    with pytest.raises(Conflict) as refused:
        await create(executions, idempotency_record=f"{record} first")
    assert refused.value.can_retry
    assert len(await claim(queue)) == 1
