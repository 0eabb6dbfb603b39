"""From a row of the outbox to a delivery that ended: once, in order of need, and never lost."""

import asyncio

import orjson
import pytest

from kernel.clock import ManualClock
from kernel.errors import Conflict, NotFound, Unavailable
from kernel.ids import is_id, new_id
from kernel.storage import keys
from kernel.storage.outbox import MAX_PENDING, PAUSE_MS, Places, Row
from kernel.storage.store import Store
from kernel.storage.webhooks import SIGNING
from tests.webhooks import NEXT, PAGE, SHARD, URL, WS, Post

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000
PLACES = Places(10, 10, 10, 10)


@pytest.fixture
async def post(store: Store, clock: ManualClock) -> Post:
    post = Post(store, clock)
    await post.open()
    return post


class TestFanOut:
    async def test_everyone_who_wants_the_event_gets_it(self, post: Post) -> None:
        one, all_of_them = await post.endpoint("agent.created", "agent.deleted"), await post.endpoint()
        other, off = await post.endpoint("agent.updated"), await post.endpoint(enabled=False)
        foreign = await post.endpoint(ws=NEXT)
        (event_id,) = await post.told()
        for webhook in (one, all_of_them):
            (delivery,) = await post.deliveries(webhook)
            assert delivery["id"] == event_id
            assert (delivery["status"], delivery["due"]) == ("pending", post.now)
        assert await post.deliveries(other) == await post.deliveries(off) == []
        assert await post.deliveries(foreign, ws=NEXT) == []

    async def test_a_name_that_is_part_of_another_is_not_it(self, post: Post) -> None:
        webhook = await post.endpoint("execution.completed")
        await post.told("execution.comp")
        await post.told("completed")
        assert await post.deliveries(webhook) == []

    async def test_a_row_is_fanned_out_once(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.tell()
        (row,) = await post.outbox.rows(SHARD, 10)
        answers = await asyncio.gather(*(post.outbox.fan("c1", row, b"{}", post.now) for _ in range(5)))
        assert answers == [True] * 5
        assert len(await post.deliveries(webhook)) == 1
        assert await post.outbox.rows(SHARD, 10) == []

    async def test_what_nobody_wants_leaves_nothing(self, post: Post) -> None:
        await post.endpoint("agent.deleted")
        await post.told()
        assert await post.kept() == []
        assert await post.outbox.rows(SHARD, 10) == []

    def test_the_id_is_that_of_the_row(self) -> None:
        rows = [
            Row(shard, name, WS, "x", 0, None, b"") for shard in (0, 15) for name in ("5-0", "5-1", "6-0")
        ]
        ids = [row.event_id for row in rows]
        assert len(set(ids)) == 6
        assert ids[:3] == sorted(ids[:3])
        assert all(is_id("evt", name) for name in ids)
        assert [row.event_id for row in rows] == ids

    async def test_too_many_that_wait_are_listed_as_dead(self, post: Post) -> None:
        webhook = await post.endpoint()
        pending = keys.key("webhook_log_by", WS, id=webhook, status="pending")
        fill = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], 0, 'evt_' .. i) end"
        await post.store.call("EVAL", fill, 1, pending, MAX_PENDING)
        (event_id,) = await post.told()
        (delivery,) = await post.deliveries(webhook, "dead")
        assert delivery["id"] == event_id
        assert delivery["attempts"][0]["error"] == "queue_full"
        assert delivery["due"] is None

    async def test_what_waits_for_a_workspace_is_bounded_in_bytes(self, post: Post) -> None:
        webhook, other = await post.endpoint(), await post.endpoint(ws=NEXT)
        waiting = keys.key("webhooks_waiting", WS)
        (first,) = await post.told()
        assert int(await post.store.call("GET", waiting)) == len("agent.created") + 2048
        await post.store.call("INCRBY", waiting, 64 << 20)
        (event_id,) = await post.told()
        (dead,) = await post.deliveries(webhook, "dead")
        assert (dead["id"], dead["attempts"][0]["error"]) == (event_id, "queue_full")
        with pytest.raises(Conflict, match="too many"):
            await post.webhooks.redeliver(WS, webhook, event_id, post.now, "", "")
        await post.told(ws=NEXT)
        assert len(await post.deliveries(other, "pending", NEXT)) == 1
        await post.store.call("DECRBY", waiting, 64 << 20)
        await post.end(next(one for one in await post.take() if one.event_id == first))
        assert await post.store.call("EXISTS", waiting) == 0

    async def test_of_those_that_nobody_waits_for_the_newest_are_kept(self, post: Post) -> None:
        await post.endpoint()
        ended = keys.key("messages_ended", WS)
        fill = "for i = 1, 2000 do redis.call('ZADD', KEYS[1], 0, 'evt_0' .. i) end"
        await post.store.call("EVAL", fill, 1, ended)
        (event_id,) = await post.told()
        assert await post.store.call("ZSCORE", ended, event_id) is None
        await post.end((await post.take())[0])
        assert await post.store.call("ZCARD", ended) == 2000
        assert await post.store.call("ZSCORE", ended, event_id) == b"0"
        assert len(await post.kept()) == 1

    async def test_while_the_store_is_full_rows_stay(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.tell()
        await post.store.call("CONFIG", "SET", "maxmemory", "1mb")
        try:
            with pytest.raises(Unavailable):
                await post.fan()
        finally:
            await post.store.call("CONFIG", "SET", "maxmemory", "0")
        assert await post.deliveries(webhook) == []
        (event_id,) = await post.fan()
        assert [one["id"] for one in await post.deliveries(webhook)] == [event_id]


class TestTaking:
    async def test_what_is_due_is_taken_once_with_all_it_needs(self, post: Post) -> None:
        webhook = await post.endpoint()
        (event_id,) = await post.told()
        (flight,) = await post.take()
        assert (flight.workspace_id, flight.webhook_id, flight.event_id) == (WS, webhook, event_id)
        assert (flight.url, flight.sealed, flight.attempt) == (URL, b"sealed", 1)
        assert flight.body == b"agent.created"
        assert await post.take() == []

    async def test_an_endpoint_has_so_many_at_once_and_no_more(self, post: Post) -> None:
        await post.endpoint()
        ids = await post.told(count=5)
        first = await post.take(each=2)
        assert [flight.event_id for flight in first] == ids[:2]
        assert await post.take(each=2) == []
        await post.end(first[0])
        assert [flight.event_id for flight in await post.take(each=2)] == ids[2:3]

    async def test_one_that_fails_has_one(self, post: Post) -> None:
        await post.endpoint()
        await post.told(count=6)
        first = await post.take(each=3)
        for flight in first:
            await post.end(flight, "retry", retry_at=post.now + 5000)
        assert await post.take(each=3) == []
        post.clock.advance(5000)
        (probe,) = await post.take(each=3)
        assert await post.take(each=3) == []
        await post.end(probe)
        assert len(await post.take(each=3)) == 3

    async def test_a_dead_receiver_does_not_stand_in_the_way(self, post: Post) -> None:
        """It has all it may have in flight; the other's later event leaves at once."""
        dead = await post.endpoint("agent.created")
        await post.told(count=50)
        assert {flight.webhook_id for flight in await post.take()} == {dead}
        post.clock.advance(1)
        live = await post.endpoint("agent.updated")
        await post.told("agent.updated")
        assert [flight.webhook_id for flight in await post.take()] == [live]

    async def test_room_is_kept(self, post: Post) -> None:
        for _ in range(4):
            await post.endpoint()
        await post.told(count=2)
        assert len(await post.take(room=3)) == 3
        assert await post.take(room=0) == []
        assert len(await post.take()) == 5

    async def test_a_workspace_has_so_many_and_no_more(self, post: Post) -> None:
        """What it has elsewhere counts; the others' events leave meanwhile, and its own as soon as it has places."""
        for _ in range(3):
            await post.endpoint()
        await post.told(count=5)
        other = await post.endpoint(ws=NEXT)
        first = await post.take(most=6, flying={WS: 2})
        assert len(first) == 4
        await post.told(ws=NEXT)
        (flight,) = await post.take(most=6, flying={WS: 6})
        assert flight.webhook_id == other
        await post.end(first[0])
        assert len(await post.take(most=6, flying={WS: 5})) == 1
        assert await post.take(most=6) == []
        post.clock.advance(1_000)
        assert len(await post.take(most=100)) == 10

    async def test_those_that_fail_have_places_of_their_own(self, post: Post) -> None:
        weak = await post.endpoint("agent.created")
        await post.told()
        await post.end((await post.take())[0], "retry", retry_at=post.now + PAUSE_MS)
        post.clock.advance(PAUSE_MS)
        sound = await post.endpoint("agent.updated")
        await post.told("agent.updated")
        (flight,) = await post.take(failing=0)
        assert (flight.webhook_id, flight.failing) == (sound, False)
        assert await post.take(most=2, flying={WS: 1}) == [], "half of its places are taken"
        post.clock.advance(1_000)
        (flight,) = await post.take(most=4, flying={WS: 1})
        assert (flight.webhook_id, flight.failing) == (weak, True)

    async def test_what_is_not_due_waits(self, post: Post) -> None:
        await post.endpoint()
        await post.told()
        await post.end((await post.take())[0], "retry", retry_at=post.now + 5000)
        assert await post.take() == []
        hold = await post.outbox.hold(SHARD, "c1", 60_000, post.now)
        assert hold is not None
        assert (hold.next_due, hold.rows) == (post.now + 5000, 0)
        post.clock.advance(5000)
        (again,) = await post.take()
        assert again.attempt == 2

    async def test_a_body_that_is_gone_is_a_dead_delivery(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told()
        await post.store.call("DEL", *await post.kept())
        assert await post.take() == []
        (delivery,) = await post.deliveries(webhook, "dead")
        assert delivery["attempts"][0]["error"] == "expired"


class TestOutcomes:
    async def test_delivered(self, post: Post) -> None:
        webhook = await post.endpoint()
        (event_id,) = await post.told()
        await post.end((await post.take())[0])
        (delivery,) = await post.deliveries(webhook, "delivered")
        assert delivery["attempts"] == [
            {"at": post.now, "duration_ms": 5, "status_code": 200, "error": None, "body": "said"}
        ]
        assert await post.take() == []
        stored = await post.stored(webhook)
        assert stored.failing_since is None
        assert orjson.loads(stored.last) == {
            "id": event_id,
            "event": "agent.created",
            "at": post.now,
            "status_code": 200,
            "error": None,
        }

    async def test_a_failure_is_tried_again_and_remembered(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told()
        began = post.now
        for attempt in (1, 2):
            (flight,) = await post.take()
            assert flight.attempt == attempt
            await post.end(flight, "retry", retry_at=post.now + 5000)
            post.clock.advance(5000)
        (delivery,) = await post.deliveries(webhook, "pending")
        assert [attempt.get("body") for attempt in delivery["attempts"]] == [None, "said"]
        assert (await post.stored(webhook)).failing_since == began
        await post.end((await post.take())[0])
        assert (await post.stored(webhook)).failing_since is None

    async def test_dead(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told()
        await post.end((await post.take())[0], "dead")
        assert [one["status"] for one in await post.deliveries(webhook)] == ["dead"]
        assert len(await post.kept()) == 1
        post.clock.advance(DAY_MS)
        assert await post.take() == []

    async def test_an_outcome_counts_once(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told()
        (flight,) = await post.take()
        await post.end(flight)
        await post.end(flight, "dead")
        (delivery,) = await post.deliveries(webhook)
        assert (delivery["status"], len(delivery["attempts"])) == ("delivered", 1)

    async def test_gone_disables_at_once(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told(count=2)
        first, second = await post.take()
        (disabled,) = await post.end(first, "gone")
        assert (disabled.workspace_id, disabled.webhook_id, disabled.reason) == (WS, webhook, "gone")
        stored = await post.stored(webhook)
        assert (stored.enabled, stored.disabled_reason, stored.revision) == (False, "gone", 2)
        assert await post.end(second, "gone") == []
        (text,) = await post.store.call("ZRANGE", keys.key("audit", WS), 0, -1)
        entry = orjson.loads(text.partition(b" ")[2])
        assert (entry["action"], entry["target"], entry["details"]) == (
            "webhook.disable",
            webhook,
            {"reason": "gone"},
        )
        await post.told()
        assert await post.take() == []
        assert len(await post.deliveries(webhook)) == 2

    async def test_five_days_of_failure_do_too(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told(count=20)
        for days in range(6):
            (flight,) = await post.take(each=1)
            disabled = await post.end(flight, "dead")
            assert [one.reason for one in disabled] == (["failing"] if days == 5 else [])
            post.clock.advance(DAY_MS)
        assert (await post.stored(webhook)).disabled_reason == "failing"

    async def test_a_success_in_between_begins_the_days_anew(self, post: Post) -> None:
        webhook = await post.endpoint()
        await post.told(count=30)
        for days in range(9):
            (flight,) = await post.take(each=1)
            await post.end(flight, "delivered" if days == 4 else "dead")
            post.clock.advance(DAY_MS)
        assert (await post.stored(webhook)).enabled

    async def test_of_those_that_ended_the_newest_thousand_stay(self, post: Post) -> None:
        """With their bodies; what fails for good is not pushed out by what succeeds."""
        webhook = await post.endpoint()
        (dead,) = await post.told()
        await post.end((await post.take())[0], "dead")
        post.clock.advance(PAUSE_MS)
        ids = await post.told(count=1003)
        while flights := await post.take(each=200, room=200):
            for flight in flights:
                await post.end(flight)
        total, _ = await post.webhooks.deliveries(WS, webhook, "delivered", PAGE)
        assert total == 1000
        assert [one["id"] for one in await post.deliveries(webhook, "dead")] == [dead]
        assert len(await post.kept()) == 1001
        with pytest.raises(NotFound):
            await post.webhooks.delivery(WS, webhook, ids[0])


class TestDisabled:
    async def test_what_waits_is_delivered_once_it_is_enabled(self, post: Post) -> None:
        webhook = await post.endpoint()
        ids = await post.told()
        await post.enable(webhook, False)
        await post.told()
        assert await post.take() == []
        assert (await post.stored(webhook)).disabled_reason == "requested"
        await post.enable(webhook, True)
        assert (await post.stored(webhook)).disabled_reason is None
        assert [flight.event_id for flight in await post.take()] == ids

    async def test_wants_are_counted(self, post: Post) -> None:
        first = await post.endpoint("agent.created")
        await post.endpoint("agent.created", "agent.error")
        off = await post.endpoint("agent.deleted", enabled=False)
        name = keys.key("webhook_events", WS)
        assert await post.store.call("HGETALL", name) == [b"agent.created", b"2", b"agent.error", b"1"]
        await post.enable(off, True)
        await post.enable(first, False)
        assert await post.store.call("HGETALL", name) == [
            b"agent.created",
            b"1",
            b"agent.error",
            b"1",
            b"*",
            b"1",
        ]
        for webhook in (first, off):
            assert await post.webhooks.delete(WS, await post.stored(webhook), "")
        assert await post.store.call("HGETALL", name) == [b"agent.created", b"1", b"agent.error", b"1"]

    async def test_a_deleted_endpoint_leaves_nothing(self, post: Post) -> None:
        keep = await post.endpoint()
        before = set(await post.store.call("KEYS", "*"))
        webhook = await post.endpoint()
        await post.told(count=3)
        flights = await post.take(each=1)
        assert await post.webhooks.delete(WS, await post.stored(webhook), "")
        for flight in flights:
            await post.end(flight)
        assert len(await post.kept()) == 3
        assert await post.webhooks.delete(WS, await post.stored(keep), "")
        assert await post.kept() == []
        left = set(await post.store.call("KEYS", "*")) - before
        assert left == {keys.shard_key("outbox", SHARD).encode()}, "the stream alone, empty"


class TestRedelivery:
    async def redeliver(self, post: Post, webhook: str, event_id: str) -> None:
        await post.webhooks.redeliver(WS, webhook, event_id, post.now, "", "")

    async def test_the_same_once_more(self, post: Post) -> None:
        webhook = await post.endpoint()
        (event_id,) = await post.told()
        (first,) = await post.take()
        await post.end(first)
        await self.redeliver(post, webhook, event_id)
        assert await post.take() == [first]
        with pytest.raises(Conflict, match="under way"):
            await self.redeliver(post, webhook, event_id)
        await post.end(first, "dead")
        (delivery,) = await post.deliveries(webhook)
        assert (delivery["status"], len(delivery["attempts"])) == ("dead", 2)

    async def test_not_without_its_body(self, post: Post) -> None:
        webhook = await post.endpoint()
        (event_id,) = await post.told()
        await post.end((await post.take())[0])
        await post.store.call("DEL", *await post.kept())
        with pytest.raises(Conflict, match="not kept"):
            await self.redeliver(post, webhook, event_id)

    async def test_not_to_one_that_is_disabled(self, post: Post) -> None:
        webhook = await post.endpoint()
        (event_id,) = await post.told()
        await post.end((await post.take())[0], "gone")
        with pytest.raises(Conflict, match="disabled"):
            await self.redeliver(post, webhook, event_id)

    async def test_not_of_what_is_not_known(self, post: Post) -> None:
        with pytest.raises(NotFound):
            await self.redeliver(post, await post.endpoint(), new_id("evt"))


class TestUrlsOfExecutions:
    """An endpoint for one event, which leaves nothing behind."""

    @pytest.fixture
    async def signed(self, post: Post) -> Post:
        assert await post.webhooks.signing(WS) is None
        assert await post.webhooks.signing(WS, b"own") == b"own"
        assert await post.webhooks.signing(WS, b"other") == b"own"
        return post

    async def test_it_is_told_and_forgotten(self, signed: Post) -> None:
        before = set(await signed.store.call("KEYS", "*"))
        await signed.end_of(new_id("exec"))
        (event_id,) = await signed.fan()
        (flight,) = await signed.take()
        assert (flight.event_id, flight.url) == (event_id, "https://own.example.com")
        assert (flight.sealed, flight.webhook_id) == (b"own", "signing")
        assert await signed.end(flight) == []
        left = set(await signed.store.call("KEYS", "*")) - before
        assert left == {keys.shard_key("outbox", SHARD).encode()}

    @pytest.mark.parametrize("verdict", ["dead", "gone"])
    async def test_what_is_dead_is_listed(self, signed: Post, verdict: str) -> None:
        """And other URLs are told all the same."""
        execution = new_id("exec")
        await signed.end_of(execution)
        (event_id,) = await signed.fan()
        (flight,) = await signed.take()
        assert await signed.end(flight, verdict) == []
        (dead,) = await signed.deliveries(SIGNING, "dead")
        assert (dead["id"], dead["execution_id"], dead["url"]) == (event_id, execution, flight.url)
        await signed.end_of(new_id("exec"), "https://another.example.com")
        await signed.fan()
        (flight,) = await signed.take()
        assert (flight.url, flight.failing) == ("https://another.example.com", True)

    async def test_all_urls_together_have_the_places_of_one_endpoint(self, signed: Post) -> None:
        for number in range(20):
            await signed.end_of(new_id("exec"), f"https://own{number}.example.com")
        await signed.fan()
        flights = await signed.take()
        assert len({flight.url for flight in flights}) == len(flights) == 8
        for flight in flights:
            await signed.end(flight, "dead")
        assert len(await signed.take()) == 4

    async def test_it_is_tried_again(self, signed: Post) -> None:
        await signed.end_of(new_id("exec"))
        await signed.fan()
        (flight,) = await signed.take()
        await signed.end(flight, "retry", retry_at=signed.now + 5000)
        signed.clock.advance(5000)
        (again,) = await signed.take()
        assert (again.attempt, again.body, again.event_id) == (2, flight.body, flight.event_id)

    async def test_it_is_no_endpoint_of_the_workspace(self, signed: Post) -> None:
        await signed.end_of(new_id("exec"))
        await signed.fan()
        (flight,) = await signed.take()
        assert flight.webhook_id == SIGNING
        assert (await signed.webhooks.page(WS, PAGE)) == (0, [])

    async def test_endpoints_get_the_same_event(self, signed: Post) -> None:
        webhook = await signed.endpoint("execution.completed")
        await signed.end_of(new_id("exec"))
        await signed.fan()
        own, other = sorted(await signed.take(), key=lambda flight: flight.webhook_id == webhook)
        assert (own.event_id, own.body) == (other.event_id, other.body)
        await signed.end(own)
        assert len(await signed.kept()) == 1
        assert (other.webhook_id, other.sealed) == (webhook, b"sealed")

    async def test_a_body_that_is_gone_ends_it(self, signed: Post) -> None:
        await signed.end_of(new_id("exec"))
        await signed.fan()
        await signed.store.call("DEL", *await signed.kept())
        assert await signed.take() == []
        assert await signed.store.call("KEYS", "*:wh:wh_*") == []


class TestCouriers:
    async def test_one_at_a_time(self, post: Post) -> None:
        await post.endpoint()
        await post.told()
        await post.tell()
        (row,) = await post.outbox.rows(SHARD, 1)
        assert await post.outbox.hold(SHARD, "c2", 60_000, post.now) is None
        assert not await post.outbox.fan("c2", row, b"{}", post.now)
        assert await post.outbox.take(SHARD, "c2", post.now, PLACES, {}) is None
        assert await post.outbox.done(SHARD, "c2", [], post.now) is None
        assert len(await post.take()) == 1
        assert len(await post.outbox.rows(SHARD, 10)) == 1

    async def test_the_next_one_delivers_what_the_last_had_in_flight(self, post: Post) -> None:
        await post.endpoint()
        await post.told()
        (flight,) = await post.take()
        await post.store.call("DEL", keys.shard_key("courier", SHARD))
        hold = await post.outbox.hold(SHARD, "c2", 60_000, post.now)
        assert hold is not None
        assert hold.next_due == post.now
        assert await post.outbox.take(SHARD, "c1", post.now, PLACES, {}) is None
        assert await post.take(name="c2") == [flight]

    async def test_holding_on_disturbs_nothing(self, post: Post) -> None:
        await post.endpoint()
        await post.told()
        assert len(await post.take()) == 1
        await post.open()
        assert await post.take() == []

    async def test_a_hold_ends_by_itself(self, post: Post) -> None:
        await post.outbox.hold(SHARD, "c1", 4000, post.now)
        left = await post.store.call("PTTL", keys.shard_key("courier", SHARD))
        assert 3000 < left <= 4000

    async def test_one_that_leaves_gives_up_all(self, post: Post) -> None:
        await post.endpoint()
        await post.told()
        (flight,) = await post.take()
        await post.outbox.release(SHARD, "c2", post.now)
        assert await post.take() == []
        await post.outbox.release(SHARD, "c1", post.now)
        await post.open("c2")
        assert await post.take(name="c2") == [flight]
