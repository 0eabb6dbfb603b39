"""Following and waiting on a real store: nothing missed, nothing twice, slow readers told so."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kernel.errors import Unavailable
from kernel.executions.lookup import Lookup
from kernel.executions.watch import Watch
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.archive import Archive, ArchivedExecution
from kernel.storage.executions import Creation, Ending, ExecutionStore
from kernel.storage.following import MOST_EVENTS, Feed, SlowReader
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import Claim, QueueStore
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26
END = b'{"timestamp":"t","type":"execution.completed","data":{}}'


@pytest.fixture
def executions(store: Store) -> ExecutionStore:
    return ExecutionStore(store)


@pytest.fixture
async def watch(store: Store, tmp_path: Path) -> AsyncGenerator[Watch]:
    subscriptions = Subscriptions(store)
    yield Watch(Lookup(ExecutionStore(store), Archive(store, ObjectStore(tmp_path))), subscriptions, "here")
    await subscriptions.close()


async def held(executions: ExecutionStore, store: Store, reply_to: str = "") -> Claim:
    creation = Creation(WS, new_id("exec"), "", "", b"{}", "normal", 1, b'{"n":1}', reply_to=reply_to)
    await executions.create(creation)
    (claim,) = await QueueStore(store).claim(keys.shard_of(WS), "r", 60_000, 1)
    return claim


async def write(
    executions: ExecutionStore, claim: Claim, seq: int, *events: bytes, end: bool = False
) -> None:
    ending = Ending("completed", {}) if end else None
    assert await executions.commit(WS, claim.execution_id, claim.epoch, seq, 5, events, {}, ending)


async def test_replay_then_live_without_gap(executions: ExecutionStore, watch: Watch, store: Store) -> None:
    claim = await held(executions, store)
    await write(executions, claim, 1, b'{"n":2}')
    seen = []
    async for event in watch.follow(WS, claim.execution_id, 0):
        seen.append((event.seq, event.terminal))
        if event.seq == 2:
            await write(executions, claim, 2, b'{"n":3}', b'{"n":4}')
        if event.seq == 4:
            await write(executions, claim, 4, END, end=True)
    assert seen == [(1, False), (2, False), (3, False), (4, False), (5, True)]


async def test_after_gives_only_the_rest(executions: ExecutionStore, watch: Watch, store: Store) -> None:
    claim = await held(executions, store)
    await write(executions, claim, 1, b'{"n":2}', END, end=True)
    assert [event.seq async for event in watch.follow(WS, claim.execution_id, 2)] == [3]
    assert [event.seq async for event in watch.follow(WS, claim.execution_id, 3)] == []


async def test_lost_messages_are_read_from_the_stream(
    executions: ExecutionStore, watch: Watch, store: Store
) -> None:
    claim = await held(executions, store)
    events = keys.key("events", WS, id=claim.execution_id)
    seen = []
    async for event in watch.follow(WS, claim.execution_id, 0):
        seen.append(event.seq)
        if event.seq == 1:
            await store.call("XADD", events, "2-1", "e", b'{"n":2}')
            await store.call("PUBLISH", keys.channel("stream", WS, id=claim.execution_id), b'3\n{"n":3}')
            await store.call("XADD", events, "3-1", "e", b'{"n":3}')
            await store.call("HSET", keys.key("execution", WS, id=claim.execution_id), "seq", 3)
        if event.seq == 3:
            await write(executions, claim, 3, END, end=True)
    assert seen == [1, 2, 3, 4]


async def test_bodies_carry_their_seq(executions: ExecutionStore, watch: Watch, store: Store) -> None:
    claim = await held(executions, store)
    await write(executions, claim, 1, END, end=True)
    bodies = [event.body async for event in watch.follow(WS, claim.execution_id, 0)]
    assert bodies[0] == b'{"seq":1,"n":1}'
    assert bodies[1].startswith(b'{"seq":2,')


async def test_an_expected_end_wakes_its_waiter(
    executions: ExecutionStore, watch: Watch, store: Store
) -> None:
    execution_id = new_id("exec")
    await watch.expect(execution_id)
    await executions.create(
        Creation(WS, execution_id, "", "", b"{}", "normal", 1, b"{}", reply_to=watch.address)
    )
    (claim,) = await QueueStore(store).claim(keys.shard_of(WS), "r", 60_000, 1)
    waiting = asyncio.create_task(watch.ended(WS, execution_id, 30))
    await write(executions, claim, 1, END, end=True)
    assert await waiting == b""


async def test_waiting_gives_up_in_time(executions: ExecutionStore, watch: Watch, store: Store) -> None:
    claim = await held(executions, store)
    assert await watch.ended(WS, claim.execution_id, 0.05) is None


async def test_waiting_for_one_that_ended_long_ago(
    executions: ExecutionStore, watch: Watch, store: Store
) -> None:
    claim = await held(executions, store)
    await write(executions, claim, 1, END, end=True)
    assert await watch.ended(WS, claim.execution_id, 30) == b""


async def test_a_slow_reader_is_told_so() -> None:
    feed = Feed()
    for seq in range(1, MOST_EVENTS + 2):
        feed.push(b"%d\n{}" % seq)
    with pytest.raises(SlowReader):
        await feed.next()


@pytest.mark.parametrize("message", [b"1\n", b"1\n" + b"\n".join([b"{}"] * (MOST_EVENTS + 1)), None])
async def test_too_much_for_one_message_is_read_from_the_stream(message: bytes | None) -> None:
    feed = Feed()
    feed.push(message)
    assert await feed.next() is None


async def test_a_first_listen_that_failed_is_tried_again(
    executions: ExecutionStore, watch: Watch, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(channel: str, listener: object) -> None:
        raise Unavailable("The store cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(watch._subscriptions, "listen", away)
        with pytest.raises(Unavailable):
            await watch.expect("exec_1")
    await watch.expect("exec_1")


async def test_archived_executions_are_followed_too(
    executions: ExecutionStore, watch: Watch, store: Store, tmp_path: Path
) -> None:
    claim = await held(executions, store)
    await write(executions, claim, 1, b'{"n":2}', END, end=True)
    stored = await executions.read(WS, claim.execution_id)
    assert stored is not None
    archive = Archive(store, ObjectStore(tmp_path))
    await archive.write(
        WS,
        [ArchivedExecution(claim.execution_id, stored, await executions.events(WS, claim.execution_id, 0))],
    )
    await executions.delete(WS, claim.execution_id, archived=True)
    assert [event.seq async for event in watch.follow(WS, claim.execution_id, 1)] == [2, 3]
