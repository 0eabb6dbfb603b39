"""What a courier sends, when, and what becomes of it when receivers, the store or the courier itself misbehave."""

import asyncio
import gzip
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from standardwebhooks import Webhook

from actors.courier import serve as serve_courier
from cluster.drain import PATIENCE_S, drain
from kernel.clock import ManualClock, SystemClock
from kernel.errors import Unavailable
from kernel.ids import new_id
from kernel.outbound import Egress
from kernel.sealing import Envelope
from kernel.storage import keys
from kernel.storage.outbox import PAUSE_MS, Flight, OutboxStore
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions
from kernel.storage.webhooks import Setting
from kernel.webhooks.courier import HOLD_MS, RENEW_S, ROWS, Courier
from kernel.webhooks.delivery import SCHEDULE_S, Answer, Sender
from kernel.webhooks.events import Bodies
from kernel.webhooks.record import Secret, encode_secrets
from kernel.webhooks.signing import KEPT_MS, Signer
from tests.unit.test_outbound import self_signed
from tests.web import Exchange, Web, serve
from tests.webhooks import SHARD, WS, NoCustody, Post

pytestmark = pytest.mark.anyio

SECRET = "your-webhook-secret"
LOOPBACK = Egress(("127.0.0.0/8",))
HOLD = keys.shard_key("courier", SHARD)
WEBHOOK = "wh_" + "0" * 26
BODY = b'{"event":"agent.created","timestamp":"2027-01-15T08:00:00.000Z","data":{"agent_id":"a"}}'


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200, b"thanks")


async def failing(exchange: Exchange) -> None:
    await exchange.answer(503, b"down")


async def hanging(exchange: Exchange) -> None:
    await exchange.closed.wait()


def after(count: int, then: Callable[[Exchange], Any]) -> Callable[[Exchange], Any]:
    """Fails so many times first."""
    seen = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal seen
        seen += 1
        await (failing if seen <= count else then)(exchange)

    return answer


def verified(exchange: Exchange, secret: bytes = SECRET.encode()) -> Any:
    """The event, as a receiver reads it with the library."""
    headers = {
        name: exchange.header(name) or "" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    }
    return Webhook(secret).verify(exchange.body, headers)


def ids(web: Web) -> list[str | None]:
    return [exchange.header("webhook-id") for exchange in web.exchanges]


async def seal(*secrets: Secret, signer: str = WEBHOOK) -> bytes:
    return await Envelope(NoCustody()).seal(encode_secrets(secrets), WS, signer, "secret")


async def flight(url: str, *secrets: Secret) -> Flight:
    sealed = await seal(*(secrets or (Secret(SECRET),)))
    return Flight(WS, WEBHOOK, new_id("evt"), url, sealed, 1, BODY)


@asynccontextmanager
async def sending(
    clock: ManualClock | SystemClock, egress: Egress = LOOPBACK, timeout_s: float = 5.0
) -> AsyncGenerator[Sender]:
    sender = Sender(egress, Signer(Envelope(NoCustody()), clock), clock, timeout_s)
    yield sender
    await sender.aclose()


async def answer_of(url: str, egress: Egress = LOOPBACK, timeout_s: float = 5.0) -> Answer:
    async with sending(ManualClock(), egress, timeout_s) as sender:
        return (await sender.send(await flight(url))).answer


class TestSending:
    async def test_what_a_receiver_gets(self) -> None:
        clock = SystemClock()
        async with serve(ok) as web, sending(clock) as sender:
            sent = await flight(f"{web.url}/hook?tenant=7")
            attempt = await sender.send(sent)
        (got,) = web.exchanges
        assert got.head.startswith("POST /hook?tenant=7 HTTP/1.1")
        assert got.body == BODY
        assert got.header("webhook-id") == sent.event_id
        assert (got.header("content-type"), got.header("user-agent")) == (
            "application/json",
            "CodexOS-Webhooks",
        )
        assert got.header("cookie") is got.header("authorization") is None
        assert verified(got) == orjson.loads(BODY)
        assert attempt.answer == Answer(200, None, "thanks")
        assert abs(attempt.at - clock.now_ms()) < 5_000
        assert 0 <= attempt.duration_ms < 5_000

    async def test_every_valid_secret_signs(self) -> None:
        now = SystemClock().now_ms()
        secrets = (Secret("whsec_bmV3"), Secret("old", now + 9_000), Secret("older", now))
        async with serve(ok) as web, sending(SystemClock()) as sender:
            await sender.send(await flight(web.url, *secrets))
        (got,) = web.exchanges
        assert len((got.header("webhook-signature") or "").split(" ")) == 2
        assert verified(got, b"new") == verified(got, b"old")
        with pytest.raises(Exception, match="No matching signature"):
            verified(got, b"older")

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            *((status, None) for status in (200, 204, 299)),
            *((status, "redirected") for status in (301, 304, 307, 308)),
            *((status, "status") for status in (400, 404, 410, 429, 500, 599)),
        ],
    )
    async def test_only_2xx_is_delivered(self, status: int, error: str | None) -> None:
        async with serve(ok) as other:

            async def answer(exchange: Exchange) -> None:
                await exchange.answer(status, b"", f"location: {other.url}")

            async with serve(answer) as web:
                assert await answer_of(web.url) == Answer(status, error, "")
            assert other.exchanges == []

    async def test_one_that_never_answers(self) -> None:
        async with serve(hanging) as web:
            assert await answer_of(web.url, timeout_s=0.05) == Answer(None, "timed_out")

    async def test_one_that_never_ends_its_answer(self) -> None:
        """A byte now and then does not keep it alive."""

        async def drip(exchange: Exchange) -> None:
            await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while not exchange.closed.is_set():
                await exchange.send(b"x")
                await asyncio.sleep(0.01)

        async with serve(drip) as web:
            assert await answer_of(web.url, timeout_s=0.1) == Answer(None, "timed_out")

    async def test_of_a_large_answer_the_beginning(self) -> None:
        sent = 0

        async def large(exchange: Exchange) -> None:
            nonlocal sent
            await exchange.send(b"HTTP/1.1 500 X\r\ncontent-length: 1000000000\r\n\r\n")
            while True:
                await exchange.send(b"y" * 65_536)
                sent += 65_536

        async with serve(large) as web:
            assert await answer_of(web.url) == Answer(500, "status", "y" * 1024)
        assert sent < 20_000_000

    async def test_a_compressed_answer_is_not_unpacked(self) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)

        async def answer(exchange: Exchange) -> None:
            await exchange.answer(200, bomb, "content-encoding: gzip")

        async with serve(answer) as web:
            assert await answer_of(web.url) == Answer(200, None, "")

    async def test_an_answer_that_is_no_text(self) -> None:
        async def answer(exchange: Exchange) -> None:
            await exchange.answer(500, b"a\0\xff\xc3")

        async with serve(answer) as web:
            assert await answer_of(web.url) == Answer(500, "status", "a\0��")

    @pytest.mark.parametrize(
        "said", [b"", b"HELLO\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"]
    )
    async def test_what_is_no_whole_answer(self, said: bytes) -> None:
        async def answer(exchange: Exchange) -> None:
            await exchange.send(said)

        async with serve(answer) as web:
            assert await answer_of(web.url) == Answer(None, "connection_failed")

    async def test_nobody_listens(self) -> None:
        async with serve(ok) as web:
            url = web.url
        assert await answer_of(url) == Answer(None, "connection_failed")

    async def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path) -> None:
        async with serve(ok, self_signed(tmp_path)) as web:
            url = f"https://127.0.0.1:{web.port}"
            assert await answer_of(url) == Answer(None, "tls_failed")
        assert web.exchanges == []

    async def test_a_name_that_was_public_when_it_was_saved(self) -> None:
        """It resolves to this machine by the time it is used."""

        async def resolve(host: str, port: int) -> Sequence[str]:
            return ["93.184.215.14"] if not moved else ["127.0.0.1"]

        moved = False
        egress = Egress(resolve=resolve)
        async with serve(ok) as web:
            url = f"http://hook.example.com:{web.port}"
            assert egress.check_url(url) is None
            assert await egress.addresses("hook.example.com", web.port) == ["93.184.215.14"]
            moved = True
            assert await answer_of(url, egress) == Answer(None, "blocked_address")
        assert web.connections == []

    async def test_a_connection_is_used_again(self, clock: ManualClock) -> None:
        connections = 0

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            with suppress(asyncio.IncompleteReadError):
                while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                    length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
                    await reader.readexactly(int(length))
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server, sending(clock) as sender:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            answers = [(await sender.send(await flight(url))).answer for _ in range(3)]
        assert answers == [Answer(200, None, "ok")] * 3
        assert connections == 1

    async def test_secrets_that_do_not_open(self) -> None:
        async with serve(ok) as web, sending(ManualClock()) as sender:
            damaged = Flight(WS, WEBHOOK, new_id("evt"), web.url, b"{}", 1, BODY)
            assert (await sender.send(damaged)).answer == Answer(None, "internal")
        assert web.exchanges == []


class TestOpenedSecrets:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
        """What was opened."""
        found: list[tuple[str, ...]] = []
        really = Envelope.open

        async def note(self: Envelope, stored: bytes, *bound: str) -> bytes:
            found.append(bound)
            return await really(self, stored, *bound)

        monkeypatch.setattr(Envelope, "open", note)
        return found

    async def test_they_are_kept_for_a_moment(self, opened: list[Any], clock: ManualClock) -> None:
        signer = Signer(Envelope(NoCustody()), clock)
        one = await flight("http://x.com")
        for _ in range(3):
            await signer.headers(one)
        assert opened == [(WS, WEBHOOK, "secret")]
        clock.advance(KEPT_MS)
        await signer.headers(one)
        assert len(opened) == 2

    async def test_other_secrets_count_at_once(self, clock: ManualClock) -> None:
        signer = Signer(Envelope(NoCustody()), clock)
        one = await flight("http://x.com", Secret("a"), Secret("b", clock.now_ms() + 1))
        before = (await signer.headers(one))["webhook-signature"]
        clock.advance(1)
        after = (await signer.headers(one))["webhook-signature"]
        assert before.split(" ")[0] == after
        assert len(before.split(" ")) == 2


class Office:
    """A courier that is moved a step at a time, and the outbox of the one shard it has."""

    serving: "asyncio.Task[None]"

    def __init__(self, store: Store, clock: ManualClock, sender: Sender, name: str = "c1", room: int = 256):
        self.post, self.outbox = Post(store, clock), OutboxStore(store)
        self.bodies = Bodies(self.describe)
        self.courier = Courier(name, self.outbox, self.bodies, sender, clock, [SHARD], room, per_endpoint=8)
        self.shard = self.courier.shards[SHARD]

    async def describe(self, workspace_id: str, execution_id: str) -> dict[str, Any] | None:
        raise AssertionError("no event here is of an execution")

    async def endpoint(self, url: str, *events: str) -> str:
        webhook_id = new_id("wh")
        setting = Setting(orjson.dumps({"url": url}), events or ("*",), True)
        sealed = await seal(Secret(SECRET), signer=webhook_id)
        await self.post.webhooks.create(WS, webhook_id, setting, sealed, "", "")
        return webhook_id

    async def rounds(self) -> None:
        """All that can be done without waiting for receivers."""
        self.shard.news.clear()
        await self.courier.hold()
        while await self.courier.round(self.shard):
            pass

    async def work(self) -> None:
        """Until nothing is in flight and nothing is due."""
        await self.rounds()
        async with asyncio.timeout(10):
            while self.courier.flying or self.shard.ended:
                await self.shard.news.wait()
                await self.rounds()

    async def status(self, webhook_id: str) -> str:
        (delivery,) = await self.post.deliveries(webhook_id)
        return str(delivery["status"])


@pytest.fixture
async def sender(clock: ManualClock) -> AsyncGenerator[Sender]:
    async with sending(clock) as sender:
        yield sender


@pytest.fixture
def office(store: Store, clock: ManualClock, sender: Sender) -> Office:
    return Office(store, clock, sender)


class TestSchedule:
    async def test_ten_attempts_and_then_it_is_dead(self, office: Office, clock: ManualClock) -> None:
        async with serve(failing) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            await office.work()
            for number, seconds in enumerate(SCHEDULE_S, start=1):
                clock.advance(round(900 * seconds) - 1)
                await office.work()
                assert (len(web.exchanges), await office.status(webhook)) == (number, "pending")
                clock.advance(round(200 * seconds) + 1)
                await office.work()
                assert len(web.exchanges) == number + 1
        assert await office.status(webhook) == "dead"
        assert len(set(ids(web))) == 1
        assert len({exchange.body for exchange in web.exchanges}) == 1
        assert len({exchange.header("webhook-timestamp") for exchange in web.exchanges}) == 10
        clock.advance(10 * 86_400_000)
        await office.work()
        assert len(web.exchanges) == 10

    async def test_it_goes_on_to_the_first_success(self, office: Office, clock: ManualClock) -> None:
        async with serve(after(2, ok)) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            for _ in range(3):
                await office.work()
                clock.advance(400_000)
            (delivery,) = await office.post.deliveries(webhook)
            assert [one["status_code"] for one in delivery["attempts"]] == [503, 503, 200]
            assert [one["error"] for one in delivery["attempts"]] == ["status", "status", None]
            assert delivery["status"] == "delivered"

    async def test_the_next_attempt_is_spread(self, office: Office, clock: ManualClock) -> None:
        async with serve(failing) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell(count=8)
            await office.work()
            due = [one["due"] - clock.now_ms() for one in await office.post.deliveries(webhook)]
            assert len(due) == 8
            assert len(set(due)) > 4
            assert all(4_500 <= one <= 5_500 for one in due)

    async def test_gone_disables_at_once(self, office: Office) -> None:
        async def gone(exchange: Exchange) -> None:
            await exchange.answer(410)

        async with serve(gone) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            await office.work()
            await office.post.tell()
            await office.work()
            assert len(web.exchanges) == 1
        stored = await office.post.stored(webhook)
        assert (stored.enabled, stored.disabled_reason) == (False, "gone")
        assert await office.status(webhook) == "dead"
        (text,) = await office.post.store.call("ZRANGE", keys.key("audit", WS), 0, -1)
        assert b'"webhook.disable"' in text

    async def test_five_days_of_failure_disable(self, office: Office, clock: ManualClock) -> None:
        async with serve(failing) as web:
            webhook = await office.endpoint(web.url)
            for day in range(6):
                assert (await office.post.stored(webhook)).enabled, day
                await office.post.tell()
                await office.work()
                clock.advance(86_400_000)
        assert (await office.post.stored(webhook)).disabled_reason == "failing"


class TestCourier:
    async def test_all_of_many_events(self, office: Office) -> None:
        async with serve(ok) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell(count=2 * ROWS + 20)
            await office.work()
            assert len(set(ids(web))) == len(web.exchanges) == 2 * ROWS + 20
        assert {one["status"] for one in await office.post.deliveries(webhook)} == {"delivered"}

    async def test_one_look_takes_all_events(self, office: Office) -> None:
        await office.post.tell(count=2 * ROWS + 20)
        await office.courier.hold()
        while await office.courier.round(office.shard):
            pass
        assert await office.outbox.rows(SHARD, 1) == []

    async def test_one_that_hangs_stands_in_nobodys_way(
        self, store: Store, clock: ManualClock, office: Office
    ) -> None:
        """It gets a few at first, one when that has failed, and the others' events go their way meanwhile."""
        async with serve(hanging) as dead, serve(ok) as live, sending(clock, timeout_s=0.2) as sender:
            office = Office(store, clock, sender)
            await office.endpoint(dead.url, "agent.created")
            await office.post.tell("agent.created", count=50)
            await office.rounds()
            assert len(office.courier.flying) == 8
            await asyncio.wait(office.courier.flying)
            await office.rounds()
            assert len(office.courier.flying) == 0
            clock.advance(PAUSE_MS)
            await office.rounds()
            assert len(office.courier.flying) == 1
            await office.endpoint(live.url, "agent.updated")
            await office.post.tell("agent.updated", count=20)
            while len(live.exchanges) < 20:
                await office.rounds()
                assert len(office.courier.flying) <= 9
                await asyncio.sleep(0)
            await asyncio.wait(office.courier.flying)

    async def test_places_are_limited(self, store: Store, clock: ManualClock, sender: Sender) -> None:
        office = Office(store, clock, sender, room=3)
        most = 0

        async def answer(exchange: Exchange) -> None:
            nonlocal most
            most = max(most, len(office.courier.flying))
            await exchange.answer(200)

        async with serve(answer) as web:
            for _ in range(4):
                await office.endpoint(web.url)
            await office.post.tell(count=5)
            await office.rounds()
            assert len(office.courier.flying) == 3
            await office.work()
            assert len(web.exchanges) == 20
        assert most == 3

    async def test_a_workspace_has_a_quarter_of_the_places(
        self, store: Store, clock: ManualClock, sender: Sender
    ) -> None:
        office, go = Office(store, clock, sender, room=64), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await go.wait()
            await exchange.answer(200)

        async with serve(answer) as web:
            for _ in range(5):
                await office.endpoint(web.url)
            await office.post.tell(count=8)
            await office.rounds()
            assert office.shard.flying == {WS: 16}
            clock.advance(1_000)
            await office.rounds()
            assert len(office.courier.flying) == 16
            go.set()
            await office.work()
            assert len(web.exchanges) == 40
        assert not office.shard.flying

    async def test_those_that_fail_share_half_of_the_places(
        self, store: Store, clock: ManualClock, sender: Sender
    ) -> None:
        office, go = Office(store, clock, sender, room=4), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            if len(web.exchanges) > 3:
                await go.wait()
            await failing(exchange)

        async with serve(answer) as web:
            for _ in range(3):
                await office.endpoint(web.url)
            await office.post.tell()
            await office.work()
            clock.advance(6_000)
            await office.rounds()
            assert len(office.courier.flying) == 2
            go.set()
            await office.work()
            clock.advance(1_000)
            await office.work()
            assert len(web.exchanges) == 6

    async def test_killed_in_flight_the_next_one_delivers_at_once(
        self, store: Store, clock: ManualClock, office: Office, sender: Sender
    ) -> None:
        reached, answers = asyncio.Event(), iter((hanging, ok))

        async def answer(exchange: Exchange) -> None:
            reached.set()
            await next(answers)(exchange)

        async with serve(answer) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            await office.rounds()
            await reached.wait()
            for task in office.courier.flying:
                task.cancel()
            await store.call("DEL", HOLD)
            await Office(store, clock, sender, "c2").work()
            first, second = web.exchanges
            assert first.header("webhook-id") == second.header("webhook-id")
            assert first.body == second.body
        assert await office.status(webhook) == "delivered"

    async def test_one_that_stalled_is_refused(
        self, store: Store, clock: ManualClock, office: Office, sender: Sender
    ) -> None:
        reached, go = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            reached.set()
            await go.wait()
            await exchange.answer(500)

        async with serve(answer) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            await office.rounds()
            await reached.wait()
            await store.call("DEL", HOLD)
            other = Office(store, clock, sender, "c2")
            await other.rounds()
            go.set()
            await asyncio.wait(office.courier.flying)
            assert len(office.shard.ended) == 1
            assert not await office.courier.round(office.shard)
            assert (office.shard.held, office.shard.ended) == (False, [])
            (delivery,) = await office.post.deliveries(webhook)
            assert "attempts" not in delivery
            await other.work()
            (delivery,) = await office.post.deliveries(webhook)
            assert len(delivery["attempts"]) == 1
            await office.post.tell()
            await office.work()
            assert len(web.exchanges) == 2

    async def test_one_that_leaves_ends_what_it_has(
        self, store: Store, clock: ManualClock, office: Office, sender: Sender
    ) -> None:
        async with serve(ok) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell(count=20)
            await office.rounds()
            await office.courier.land()
            assert not await office.courier.round(office.shard)
            await office.courier.leave()
            ended = await office.post.deliveries(webhook, "delivered")
            assert len(ended) == len(web.exchanges) == 8
            assert await store.call("EXISTS", HOLD) == 0
            await Office(store, clock, sender, "c2").work()
            assert len(web.exchanges) == 20

    async def test_what_was_taken_unheard_is_delivered(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store did it and fell over before it said so."""
        really = office.outbox.take

        async def take(*args: Any) -> Any:
            if await really(*args):
                monkeypatch.setattr(office.outbox, "take", really)
                raise Unavailable("The store cannot be reached")
            return []

        monkeypatch.setattr(office.outbox, "take", take)
        async with serve(ok) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            with pytest.raises(Unavailable):
                await office.rounds()
            await office.work()
            assert len(web.exchanges) == 1
        assert await office.status(webhook) == "delivered"

    async def test_an_outcome_that_could_not_be_told_is_told_later(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        really = office.outbox.done

        async def done(*args: Any) -> Any:
            monkeypatch.setattr(office.outbox, "done", really)
            await really(*args)
            raise Unavailable("The store cannot be reached")

        monkeypatch.setattr(office.outbox, "done", done)
        async with serve(ok) as web:
            webhook = await office.endpoint(web.url)
            await office.post.tell()
            with pytest.raises(Unavailable):
                await office.work()
            await office.work()
            assert len(web.exchanges) == 1
        (delivery,) = await office.post.deliveries(webhook)
        assert (delivery["status"], len(delivery["attempts"])) == ("delivered", 1)

    async def test_what_breaks_unforeseen_is_recorded_and_tried_again(
        self, office: Office, sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(flight: Flight) -> Any:
            raise KeyError("a fault of ours")

        monkeypatch.setattr(sender, "send", broken)
        webhook = await office.endpoint("https://example.com")
        await office.post.tell()
        await office.work()
        (delivery,) = await office.post.deliveries(webhook)
        assert [one["error"] for one in delivery["attempts"]] == ["internal"]
        assert delivery["due"] > office.post.now


class TestEventsOfExecutions:
    async def tell(self, office: Office) -> None:
        row = ("*", "ws", WS, "event", "execution.completed", "at", office.post.now, "x", "exec_1")
        await office.post.store.call("XADD", keys.shard_key("outbox", SHARD), *row)

    async def test_one_that_breaks_is_told_by_its_id(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It holds up neither others nor itself."""

        async def broken(row: Any) -> bytes:
            raise KeyError("a fault of ours")

        monkeypatch.setattr(office.bodies, "of", broken)
        async with serve(ok) as web:
            await office.endpoint(web.url)
            await self.tell(office)
            await office.work()
        data = orjson.loads(web.exchanges[0].body)["data"]
        assert data == {"execution_id": "exec_1", "agent_id": None, "status": "completed"}

    async def test_one_that_cannot_be_read_now_waits(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known: dict[str, Any] = {}

        async def describe(workspace_id: str, execution_id: str) -> dict[str, Any]:
            if not known:
                raise Unavailable("The store cannot be reached")
            return known

        office.bodies = Bodies(describe)
        monkeypatch.setattr(office.courier, "_bodies", office.bodies)
        async with serve(ok) as web:
            await office.endpoint(web.url)
            await self.tell(office)
            await office.post.tell("agent.created")
            with pytest.raises(Unavailable):
                await office.work()
            known["agent_id"] = "agent_1"
            await office.work()
        events = [orjson.loads(exchange.body) for exchange in web.exchanges]
        assert sorted(one["event"] for one in events) == ["agent.created", "execution.completed"]
        assert next(one for one in events if "execution" in one["event"])["data"]["agent_id"] == "agent_1"


class TestServing:
    @pytest.fixture
    async def served(self, store: Store, sender: Sender) -> AsyncGenerator[Office]:
        """By the clock of the system, as the actor does."""
        office = Office(store, SystemClock(), sender)  # type: ignore[arg-type]
        subscriptions = Subscriptions(store)
        await office.courier.hold()
        office.serving = asyncio.create_task(serve_courier(office.courier, subscriptions))
        async with asyncio.timeout(5):
            await subscriptions.listen(keys.channel("drain"), lambda _: None)
        yield office
        office.serving.cancel()
        await asyncio.gather(office.serving, return_exceptions=True)
        await subscriptions.close()

    async def test_a_word_wakes_it(self, store: Store, served: Office) -> None:
        """Long before it would look by itself."""
        got = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await exchange.answer(200)
            got.set()

        async with serve(answer) as web:
            await served.endpoint(web.url)
            await served.post.tell()
            await store.call("PUBLISH", keys.channel("outbox"), keys.PREFIXES[SHARD])
            async with asyncio.timeout(RENEW_S / 2):
                await got.wait()
            assert len(web.exchanges) == 1

    async def test_what_is_due_comes_by_itself(self, served: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kernel.webhooks.delivery.SCHEDULE_S", (0.02,) * 9)
        monkeypatch.setattr("kernel.storage.outbox.PAUSE_MS", 1)
        third = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await failing(exchange)
            if len(web.exchanges) == 3:
                third.set()

        async with serve(answer) as web:
            await served.endpoint(web.url)
            await served.post.tell()
            served.courier.told(None)
            async with asyncio.timeout(1.7 * RENEW_S):  # renewals of the hold bring one each
                await third.wait()

    async def test_told_to_it_ends_its_work(self, store: Store, served: Office) -> None:
        reached, go = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            reached.set()
            await go.wait()
            await exchange.answer(200)

        async with serve(answer) as web:
            webhook = await served.endpoint(web.url)
            await served.post.tell()
            served.courier.told(None)
            await reached.wait()
            drained = asyncio.create_task(drain(store.url))
            while not served.courier.draining:
                await store.call("PING")
            go.set()
            await drained
            async with asyncio.timeout(5):
                await served.serving
        assert await served.status(webhook) == "delivered"
        assert await store.call("EXISTS", HOLD) == 0

    async def test_without_a_courier_nobody_waits_for_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whose hold has not ended, or whose store has."""
        monkeypatch.setattr("kernel.storage.store.PATIENCE_S", 0.05)
        await store.call("SET", HOLD, "killed")
        async with asyncio.timeout(PATIENCE_S):
            await drain(store.url)
            await drain("redis://127.0.0.1:1/0")

    async def test_an_idle_one_asks_little(self, store: Store, clock: ManualClock, sender: Sender) -> None:
        courier = Courier(
            "c1", OutboxStore(store), Office(store, clock, sender).bodies, sender, clock, range(16), 1, 1
        )

        async def calls() -> int:
            stats = (await store.call("INFO", "commandstats")).decode()
            return int(stats.partition("cmdstat_evalsha:calls=")[2].partition(",")[0])

        await courier.hold()
        before = await calls()
        await courier.hold()
        assert await calls() - before == 16
        assert not any(shard.news.is_set() for shard in courier.shards.values())
        assert 16 / (0.95 * RENEW_S) <= 8
        assert 2 * RENEW_S < HOLD_MS / 1000, "one renewal may be lost"
