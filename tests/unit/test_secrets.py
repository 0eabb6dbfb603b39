"""Who uses a secret finds it by name, by id, or as the key of a provider; access tokens are renewed on the way."""

import asyncio
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from kernel.clock import ManualClock, rfc3339
from kernel.errors import NotFound, ProviderError, Unavailable
from kernel.ids import new_id
from kernel.outbound import Egress
from kernel.sealing import Damaged, Envelope
from kernel.storage import keys
from kernel.storage.store import Store
from kernel.storage.vault import Listed, VaultStore
from kernel.vault.custody import FileKeys
from kernel.vault.oauth import MAX_LIFE_S, Renewal
from kernel.vault.record import Item
from kernel.vault.secrets import Secrets
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio

WS, USER = new_id("ws"), "agent_1"


class Desk:
    """Secrets over a real store, and a short way to put some in."""

    def __init__(self, store: Store, clock: ManualClock, folder: Any):
        self.store, self.clock = VaultStore(store), clock
        self.envelope = Envelope(FileKeys(folder / "kek.json").make())
        self.slept: list[float] = []
        renewal = Renewal(self.store, self.envelope, Egress(("127.0.0.0/8",)), clock, self.sleep)
        self.secrets = Secrets(self.store, self.envelope, renewal, "production")

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0.005)

    async def put(self, name: str, value: Any, kind: str = "api_key", **more: Any) -> str:
        credential_id, now = new_id("cred"), self.clock.now_ms()
        facts = {
            "tags": [],
            "environment": None,
            "description": None,
            "hint": None,
            "expires_at": None,
        } | more
        times = {"created_by": "user_1", "created_at": now, "updated_at": now}
        item = Item.model_validate({"name": name, "type": kind} | facts | times)
        sealed = await self.envelope.seal(orjson.dumps(value), WS, credential_id, "1")
        await self.store.create(WS, credential_id, item.draft(), sealed, "")
        return credential_id


@pytest.fixture
def desk(store: Store, clock: ManualClock, tmp_path: Any) -> Desk:
    return Desk(store, clock, tmp_path)


async def test_by_name_in_any_case_and_by_id(desk: Desk) -> None:
    plain = await desk.put("My Key", "sk-1")
    parts = await desk.put("db", {"user": "u", "password": "p", "port": 5}, "custom")
    assert await desk.secrets.named(WS, "my KEY", USER) == "sk-1"
    assert await desk.secrets.named(WS, "db", USER) == {"user": "u", "password": "p", "port": 5}
    gone = new_id("cred")
    known = await desk.secrets.known(WS, ["my key", "db", "x"], [plain, gone, "cred_1", "*"])
    assert known == ({"my key": plain, "db": parts}, {plain})
    assert await desk.secrets.known(WS, ["x"], []) == ({}, frozenset())
    assert await desk.secrets.fields(WS, USER, plain) == {"value": "sk-1"}
    assert await desk.secrets.fields(WS, USER, parts) == {"user": "u", "password": "p"}
    assert (await desk.secrets.key(WS, plain, USER), await desk.secrets.key(WS, parts, USER)) == ("sk-1", "p")
    for missing in (new_id("cred"), "cred_1", "x"):
        with pytest.raises(NotFound):
            await desk.secrets.value(WS, missing, USER)
    with pytest.raises(NotFound):
        await desk.secrets.named(new_id("ws"), "db", USER)


async def test_the_key_of_a_provider(desk: Desk) -> None:
    """By name before tag, its environment before none, never another's."""
    assert await desk.secrets.provider_key(WS, "openai", USER) is None
    await desk.put("a", "sk-staging", tags=["openai"], environment="staging")
    assert not await desk.secrets.has_key(WS, "openai")
    await desk.put("b", "sk-any", tags=["OpenAI"])
    assert await desk.secrets.provider_key(WS, "openai", USER) == "sk-any"
    await desk.put("c", "sk-production", tags=["openai", "x"], environment="production")
    assert await desk.secrets.provider_key(WS, "openai", USER) == "sk-production"
    await desk.put("OpenAI", "sk-named", environment="production")
    assert await desk.secrets.provider_key(WS, "openai", USER) == "sk-named"
    assert await desk.secrets.provider_key(WS, "anthropic", USER) is None
    assert await desk.secrets.has_key(WS, "openAI")


async def test_the_newest_of_those_that_are_tagged(desk: Desk) -> None:
    for number in range(3):
        await desk.put(f"k{number}", f"sk-{number}", tags=["openai"])
    await desk.put("openai", "sk-staging", environment="staging")
    assert await desk.secrets.provider_key(WS, "openai", USER) == "sk-2"


class TestRenewal:
    async def offer(self, desk: Desk, web: Web, **more: Any) -> str:
        """A credential whose access token ends in half a minute."""
        value = {
            "access_token": "old",
            "refresh_token": "r1",
            "token_url": f"{web.url}/token",
            "client_id": "c",
        }
        value |= {"expires_at": rfc3339(desk.clock.now_ms() + 30_000)} | more
        return await desk.put("o", value, "oauth2")

    async def test_once_for_all_who_ask_at_once(self, desk: Desk) -> None:
        async def answer(exchange: Exchange) -> None:
            await asyncio.sleep(0.02)
            told = {"access_token": "new", "expires_in": 3600, "refresh_token": "r2"}
            await exchange.answer(200, orjson.dumps(told))

        async with serve(answer) as web:
            credential = await self.offer(desk, web)
            values = await asyncio.gather(*(desk.secrets.value(WS, credential, USER) for _ in range(20)))
            assert {value["access_token"] for value in values} == {"new"}
            assert len(web.exchanges) == 1
            form = parse_qs(web.exchanges[0].body.decode())
            assert form == {"grant_type": ["refresh_token"], "refresh_token": ["r1"], "client_id": ["c"]}
            stored = await desk.store.read(WS, credential)
            assert stored is not None
            assert (stored.version, Item.of(stored).expires_at) == (2, desk.clock.now_ms() + 3_600_000)
            again = await desk.secrets.fields(WS, USER, credential)
            assert (again["token"], again["refresh_token"], len(web.exchanges)) == ("new", "r2", 1)

    @pytest.mark.parametrize(
        ("status", "body"), [(400, b"{}"), (200, b"[]"), (200, b'{"token": 1}'), (302, b"")]
    )
    async def test_one_that_fails_leaves_what_still_works(self, desk: Desk, status: int, body: bytes) -> None:
        async def answer(exchange: Exchange) -> None:
            await exchange.answer(status, body, "location: http://169.254.169.254/")

        async with serve(answer) as web:
            credential = await self.offer(desk, web)
            assert (await desk.secrets.value(WS, credential, USER))["access_token"] == "old"
            desk.clock.advance(60_000)
            with pytest.raises(ProviderError, match="was not renewed") as refused:
                await desk.secrets.value(WS, credential, USER)
            assert "r1" not in str(refused.value)

    async def test_one_that_failed_is_not_asked_again_at_once(self, desk: Desk) -> None:
        async with serve(lambda exchange: exchange.answer(503)) as web:
            credential = await self.offer(desk, web)
            for _ in range(3):
                assert await desk.secrets.key(WS, credential, USER) == "old"
            assert len(web.exchanges) == 1
            desk.clock.advance(10_000)
            assert await desk.secrets.key(WS, credential, USER) == "old"
            assert len(web.exchanges) == 2

    async def test_one_that_never_ends(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kernel.vault.oauth.ANSWER_WITHIN_S", 0.02)
        done = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await done.wait()

        async with serve(answer) as web:
            credential = await self.offer(desk, web, access_token="")
            with pytest.raises(ProviderError, match="took longer than"):
                await desk.secrets.value(WS, credential, USER)
            done.set()

    async def test_who_is_cancelled_loses_no_refresh_token(self, desk: Desk) -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            asked.set()
            await go_on.wait()
            await exchange.answer(200, b'{"access_token": "new", "refresh_token": "r2", "expires_in": 1e300}')

        async with serve(answer) as web:
            credential = await self.offer(desk, web)
            call = asyncio.create_task(desk.secrets.value(WS, credential, USER))
            await asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            go_on.set()
            await desk.secrets.aclose()
            value = await desk.secrets.value(WS, credential, USER)
            assert (value["access_token"], value["refresh_token"], len(web.exchanges)) == ("new", "r2", 1)
            assert value["expires_at"] == rfc3339(desk.clock.now_ms() + MAX_LIFE_S * 1000)

    async def test_it_is_kept_when_the_store_was_away_and_somebody_edits(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, tries = desk.store.put_version, 0

        async def unsteady(ws: str, was: Listed, *new: Any) -> bool:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise Unavailable("away")
            if tries == 3:
                draft = Item.of(was).model_copy(update={"description": "edited"}).draft()
                assert await desk.store.update(ws, was, draft, draft, "") == "ok"
            return await put(ws, was, *new)

        monkeypatch.setattr(desk.store, "put_version", unsteady)
        async with serve(lambda exchange: exchange.answer(200, b'{"access_token": "new"}')) as web:
            credential = await self.offer(desk, web)
            assert await desk.secrets.key(WS, credential, USER) == "new"
        stored = await desk.store.read(WS, credential)
        assert stored is not None
        assert (stored.version, stored.revision, Item.of(stored).description, tries) == (2, 2, "edited", 4)

    async def test_an_address_that_may_not_be_reached(self, desk: Desk) -> None:
        async with serve(lambda exchange: exchange.answer(200)) as web:
            where = {"token_url": "http://169.254.169.254/token", "access_token": ""}
            credential = await self.offer(desk, web, **where)
            with pytest.raises(ProviderError, match="not a public one"):
                await desk.secrets.value(WS, credential, USER)

    async def test_client_credentials(self, desk: Desk) -> None:
        async def answer(exchange: Exchange) -> None:
            await exchange.answer(200, b'{"access_token": "first"}')

        async with serve(answer) as web:
            value = {"token_url": f"{web.url}/token", "client_id": "c", "client_secret": "s", "scope": "a b"}
            credential = await desk.put("o", value, "oauth2")
            assert await desk.secrets.key(WS, credential, USER) == "first"
            form = parse_qs(web.exchanges[0].body.decode())
            assert form["grant_type"] == ["client_credentials"]
            assert form["scope"] == ["a b"]

    async def test_a_token_that_nobody_can_renew_is_used_as_it_is(self, desk: Desk) -> None:
        credential = await desk.put("o", {"access_token": "t"}, "oauth2")
        assert await desk.secrets.key(WS, credential, USER) == "t"


class TestAudit:
    async def rows(self, desk: Desk) -> list[tuple[str, Any]]:
        """Outcome and details of each use that is in the audit log, oldest first."""
        found = await desk.store._store.call("ZRANGE", keys.key("audit", WS), 0, -1)
        entries = [orjson.loads(row.partition(b" ")[2]) for row in found]
        return [(one["outcome"], one["details"]) for one in entries if one["action"] == "credential.use"]

    async def test_once_an_hour_for_each_user(self, desk: Desk, store: Store) -> None:
        await desk.put("k", "sk-1")
        for user in ("agent_1", "agent_1", "agent_2"):
            await desk.secrets.named(WS, "k", user)
        elsewhere = Secrets(desk.store, desk.envelope, desk.secrets._renewal, "production")
        await elsewhere.named(WS, "k", "agent_1")
        assert await self.rows(desk) == [("ok", {"by": "agent_1"}), ("ok", {"by": "agent_2"})]
        name = keys.key("credential_noted", WS, id=await desk.store.id_of(WS, "k") or "", user="agent_1")
        assert 3_500 < await store.call("TTL", name) <= 3_600

    async def test_one_that_does_not_open_is_told_of_each_time(self, desk: Desk, store: Store) -> None:
        credential = await desk.put("k", "sk-1")
        await store.call("HSET", keys.key("credential", WS, id=credential), "sealed", b"{}")
        for _ in range(2):
            with pytest.raises(Damaged):
                await desk.secrets.named(WS, "k", USER)
        damaged = ("refused", {"by": USER, "reason": "damaged"})
        assert (await self.rows(desk)).count(damaged) == 2
