"""Credentials: what may be one, who uses them, and that their values stay where they were sealed."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import orjson
import pydantic
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kernel.access.access import Access
from kernel.access.act import Act
from kernel.access.principal import Principal
from kernel.clock import ManualClock, rfc3339
from kernel.errors import CodexError, Conflict, NotFound, PayloadTooLarge, ValidationError
from kernel.ids import new_id
from kernel.outbound import Egress
from kernel.paging import PageQuery
from kernel.sealing import Damaged
from kernel.storage import keys
from kernel.storage.store import Store
from kernel.vault.record import CredentialCreate, CredentialPatch, Item, Rotation
from kernel.vault.values import LAST_MS, MAX_BYTES, checked
from kernel.vault.vault import Wanted
from tests.vault import SECRET, Safe

pytestmark = pytest.mark.anyio

DAY = 86_400_000
OAUTH = {"token_url": "https://auth.example.com/token", "client_id": "me", "client_secret": "s" * 20}


@pytest.fixture
def safe(store: Store, clock: ManualClock, access: Access, owner: Principal, tmp_path: Path) -> Safe:
    return Safe(store, clock, access, owner, tmp_path)


def certificate(until_ms: int) -> str:
    """In PEM, valid until then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")])
    until = dt.datetime.fromtimestamp(until_ms // 1000, dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(until - dt.timedelta(days=365)).not_valid_after(until)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def refused(kind: str, value: Any) -> CodexError:
    with pytest.raises(CodexError) as caught:
        checked(kind, value, Egress().check_url)
    return caught.value


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "value", "field"),
        [
            ("api_key", {"key": "CANARY"}, "value"),
            ("api_key", "CANARY\n", "value"),
            ("api_key", " CANARY", "value"),
            ("password", "", "value"),
            ("password", " \t", "value"),
            ("password", 7, "value"),
            ("password", None, "value"),
            ("password", ["CANARY"], "value"),
            ("custom", {}, "value"),
            ("oauth2", {"access_tokn": "CANARY"}, "value"),
            ("oauth2", {"CANARY": "x"}, "value"),
            ("oauth2", {"client_id": "CANARY", "client_secret": "CANARY"}, "value"),
            ("oauth2", {"token_url": "https://auth.example.com", "client_id": "CANARY"}, "value"),
            ("oauth2", OAUTH | {"token_url": "http://127.0.0.1/CANARY"}, "value.token_url"),
            ("oauth2", {"access_token": "CANARY", "expires_at": "CANARY"}, "value.expires_at"),
            (
                "oauth2",
                {"access_token": "CANARY", "expires_at": "9999-12-31T23:59:59-01:00"},
                "value.expires_at",
            ),
            ("oauth2", {"access_token": "CANARY", "expires_at": "1969-12-31T23:59:59Z"}, "value.expires_at"),
            ("oauth2", {"access_token": {"CANARY": 1}}, "value.access_token"),
            ("certificate", "-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----", "value"),
            ("certificate", {"certificate": "-----BEGIN CANARY-----"}, "value.certificate"),
            ("certificate", {"private_key": "CANARY"}, "value"),
            ("ssh_key", {"private_key": " "}, "value.private_key"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_not_repeated(self, kind: str, value: Any, field: str) -> None:
        error = refused(kind, value)
        assert isinstance(error, ValidationError)
        assert error.details["field"] == field
        assert "CANARY" not in str(error.body())

    def test_the_largest_and_one_more(self) -> None:
        for value in ("x" * MAX_BYTES, "ä" * (MAX_BYTES // 2)):
            assert checked("password", value, Egress().check_url).value == value
        for value in ("x" * (MAX_BYTES + 1), "ä" * (MAX_BYTES // 2 + 1), {"a": "x" * MAX_BYTES}):
            assert isinstance(refused("custom", value), PayloadTooLarge)

    @pytest.mark.parametrize(
        ("kind", "value", "hint"),
        [
            ("api_key", "sk-123456789012", "9012"),
            ("password", "12345678901", None),
            ("password", "123456789012", "9012"),
            ("connection_string", "postgres://u:p@h/orders", "ders"),
            ("oauth2", {"access_token": "t" * 8 + "1234"}, "1234"),
            ("oauth2", OAUTH | {"client_secret": "s" * 8 + "9876"}, "9876"),
            ("oauth2", "t" * 8 + "1234", "1234"),
            ("custom", {"a": "x" * 20}, None),
            ("ssh_key", "-----BEGIN OPENSSH PRIVATE KEY-----", None),
        ],
    )
    def test_hints(self, kind: str, value: Any, hint: str | None) -> None:
        assert checked(kind, value, Egress().check_url).hint == hint

    def test_a_bare_access_token_becomes_an_object(self) -> None:
        assert checked("oauth2", "abc", Egress().check_url).value == {"access_token": "abc"}

    def test_when_it_ends(self, clock: ManualClock) -> None:
        end = clock.now_ms() + DAY
        given = {"access_token": "x", "expires_at": rfc3339(end)}
        assert checked("oauth2", given, Egress().check_url).expires_at == end
        text = certificate(end)
        for value in (text, {"certificate": text, "private_key": "y"}):
            assert checked("certificate", value, Egress().check_url).expires_at == end
        assert checked("certificate", "MIIB", Egress().check_url).expires_at is None

    @pytest.mark.parametrize("name", ["a/b", "", " ", "a\0b", "a\nb", "x" * 129, "\u202e"])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(pydantic.ValidationError):
            CredentialCreate.model_validate({"name": name, "type": "password", "value": "x"})

    def test_models_do_not_print_values(self) -> None:
        order = {"name": "x", "type": "password", "value": SECRET}
        assert SECRET not in repr(CredentialCreate.model_validate(order))
        assert SECRET not in repr(Rotation(value=SECRET))

    def test_a_patch_does_not_take_a_value(self) -> None:
        with pytest.raises(pydantic.ValidationError, match="rotate") as caught:
            CredentialPatch.model_validate({"value": SECRET})
        assert caught.value.errors()[0]["loc"] == ("value",)


class TestLife:
    async def test_nothing_of_the_value_is_stored_or_shown(self, safe: Safe, store: Store) -> None:
        made = await safe.kept()
        await safe.vault.rotate(safe.act, made, Rotation(value=SECRET + "-2"))
        assert await safe.read(made, await safe.token()) == SECRET + "-2"
        shown = safe.vault.shown(await safe.vault.get(safe.act, made))
        assert (shown["value_hint"], shown["version"]) == ("89-2", 2)
        assert "CANARY" not in str(shown) + str(await safe.entries())
        kept = [str(await dumped(store, name)) for name in await store.call("KEYS", "*")]
        assert "CANARY" not in "".join(kept)

    async def test_names_are_unique_in_any_case(self, safe: Safe) -> None:
        made, other = await safe.kept("Straße"), await safe.kept("Other")
        with pytest.raises(Conflict) as caught:
            await safe.kept("strAßE")
        assert caught.value.details == {"field": "name", "reason": "taken"}
        with pytest.raises(Conflict):
            await safe.vault.patch(safe.act, other, CredentialPatch(name="STRAßE"), None)
        renamed = await safe.vault.patch(safe.act, made, CredentialPatch(name="STRAßE"), None)
        assert Item.of(renamed).name == "STRAßE"
        assert await safe.store.known(safe.ws, ["straße", "other", "key"], []) == (
            {"straße": made, "other": other},
            frozenset(),
        )
        assert await safe.store.id_of(safe.ws, "StraßE") == made

    async def test_twins_at_once(self, safe: Safe) -> None:
        done = await asyncio.gather(*(safe.kept("Twin") for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(one, str) for one in done) == 1
        assert all(isinstance(one, str | Conflict) for one in done)

    async def test_it_is_found(self, safe: Safe, clock: ManualClock) -> None:
        first = await safe.kept("Open AI", tags=["OpenAI", "Prod"], environment="production")
        second = await safe.kept("Database", "password", environment="test", tags=["prod"])
        third = await safe.kept("data lake", "custom")
        for wanted, found in [
            (Wanted(), [third, second, first]),
            (Wanted(type="password"), [second]),
            (Wanted(tag="PROD"), [second, first]),
            (Wanted(tag="prod", environment="production"), [first]),
            (Wanted(search="DATA"), [third, second]),
            (Wanted(search="data", type="custom"), [third]),
            (Wanted(search="%a"), []),
        ]:
            page = await safe.vault.list(safe.act, wanted, PageQuery())
            ids = [item["id"] for item in page.items]
            assert (ids, page.total) == (sorted(found, reverse=True), len(found)), wanted
        of_provider = await safe.store.of_provider(safe.ws, "OpenAI", "production")
        assert of_provider is not None
        assert of_provider.id == first

    @pytest.mark.parametrize("search", [None, "key"])
    async def test_pages(self, safe: Safe, search: str | None) -> None:
        made = sorted([await safe.kept(f"Key {number}") for number in range(5)], reverse=True)
        wanted = Wanted(search=search)
        first = await safe.vault.list(safe.act, wanted, PageQuery(1, 2))
        again = await safe.vault.list(safe.act, wanted, PageQuery(2, 2))
        rest = await safe.vault.list(safe.act, wanted, PageQuery(1, 3, before=first.last_id))
        assert [item["id"] for item in first.items] == made[:2]
        assert [item["id"] for item in again.items] == made[2:4]
        assert [item["id"] for item in rest.items] == made[2:]
        assert (first.more, rest.more, first.total, rest.total) == (True, False, 5, 5)

    async def test_a_patch_moves_it_between_the_sets(self, safe: Safe) -> None:
        made = await safe.kept(tags=["a", "b"], environment="test", description="x")
        patch = CredentialPatch(tags=["B", "c"], environment=None, description=None)
        stored = await safe.vault.patch(safe.act, made, patch, None)
        shown = safe.vault.shown(stored)
        assert (shown["tags"], shown["environment"], shown["description"]) == (["B", "c"], None, None)
        for wanted, total in [
            (Wanted(tag="a"), 0),
            (Wanted(tag="b"), 1),
            (Wanted(tag="c"), 1),
            (Wanted(environment="test"), 0),
        ]:
            assert (await safe.vault.list(safe.act, wanted, PageQuery())).total == total
        assert await safe.read(made, await safe.token()) == SECRET

    async def test_edits_are_bound_to_a_state(self, safe: Safe) -> None:
        made = await safe.kept()
        first = (await safe.vault.get(safe.act, made)).etag
        await safe.vault.patch(safe.act, made, CredentialPatch(tags=["x"]), f"W/{first}")
        for stale in (first, '"1.abc"', '"x"', ""):
            with pytest.raises(Conflict):
                await safe.vault.patch(safe.act, made, CredentialPatch(tags=[]), stale)
            with pytest.raises(Conflict):
                await safe.vault.delete(safe.act, made, stale)
        await safe.vault.delete(safe.act, made, '"2.abc"')

    async def test_a_patch_beside_a_rotation_loses_nothing(self, safe: Safe) -> None:
        made = await safe.kept()
        token = await safe.token()
        for number in range(10):
            await asyncio.gather(
                safe.vault.rotate(safe.act, made, Rotation(value=f"{SECRET}-{number}")),
                safe.vault.patch(safe.act, made, CredentialPatch(description=f"{number}"), None),
                safe.read(made, token),
            )
            item = Item.of(await safe.vault.get(safe.act, made))
            assert (item.description, item.tags, item.hint) == (f"{number}", [], f"89-{number}")
            assert await safe.read(made, token) == f"{SECRET}-{number}"

    async def test_warnings_of_certificates(self, safe: Safe, clock: ManualClock) -> None:
        made = await safe.kept("tls", "certificate", certificate(clock.now_ms() + 31 * DAY))
        told = []
        for days in (0, 2, 29):
            clock.advance(days * DAY)
            page = await safe.vault.list(safe.act, Wanted(), PageQuery())
            told.append(page.items[0]["warning"])
        assert told == [None, "expires_soon", "expired"]
        assert page.items[0]["id"] == made

    async def test_deleted_it_is_gone(self, safe: Safe, store: Store) -> None:
        made = await safe.kept(tags=["x"], environment="test")
        sealed = keys.shard_key("sealed", keys.shard_of(safe.ws))
        assert await store.call("SISMEMBER", sealed, f"{safe.ws} cred {made}")
        await safe.vault.delete(safe.act, made, None)
        for ask in (
            safe.vault.get(safe.act, made),
            safe.vault.delete(safe.act, made, None),
            safe.vault.rotate(safe.act, made, Rotation(value="x")),
            safe.read(made, await safe.token()),
        ):
            with pytest.raises(NotFound):
                await ask
        left = await store.call("KEYS", f"*{safe.ws}:cred*")
        assert left == []
        assert not await store.call("SCARD", sealed)
        assert await safe.kept()


async def test_what_it_takes_is_counted(safe: Safe, store: Store) -> None:
    async def weighed() -> int:
        found: int = await store.run("usage_weigh", safe.ws, safe.ws, 10)
        return found

    before = await weighed()
    for number in range(20):
        await safe.kept(f"Key {number}", "password", "x" * 4_000)
    assert await weighed() - before > 20 * 4_000


class TestUse:
    @pytest.fixture
    async def used(self, safe: Safe, store: Store) -> str:
        """By an agent and a collection."""
        made = await safe.kept()
        agent = keys.key("agent", safe.ws, id="agent_1")
        await store.call("HSET", agent, "status", "active", "item", '{"name":"x"}', "version", "1.0.0")
        for user in ("agent agent_1", "collection col_1"):
            await store.call("SADD", keys.key("credential_users", safe.ws, id=made), user)
            await store.call("SADD", keys.key("credentials_used", safe.ws, user=user), made)
        return made

    async def test_it_is_not_deleted(self, safe: Safe, used: str) -> None:
        users = [{"type": "agent", "id": "agent_1"}, {"type": "collection", "id": "col_1"}]
        with pytest.raises(Conflict) as caught:
            await safe.vault.delete(safe.act, used, None)
        assert caught.value.details == {"reason": "in_use", "used_by": users}
        assert await safe.vault.used_by(safe.act, used) == users
        assert await safe.read(used, await safe.token()) == SECRET

    async def test_by_force_its_agents_are_in_error(self, safe: Safe, used: str, store: Store) -> None:
        await safe.vault.delete(safe.act, used, None, force=True)
        assert await store.call("HGET", keys.key("agent", safe.ws, id="agent_1"), "status") == b"error"
        assert await store.call("KEYS", f"*{safe.ws}:cred*") == []

    async def test_agents_hold_its_name(self, safe: Safe, used: str, store: Store) -> None:
        with pytest.raises(Conflict) as caught:
            await safe.vault.patch(safe.act, used, CredentialPatch(name="Other"), None)
        assert {"type": "agent", "id": "agent_1"} in caught.value.details["used_by"]
        await safe.vault.patch(safe.act, used, CredentialPatch(name="KEY", tags=["x"]), None)
        await store.call("SREM", keys.key("credential_users", safe.ws, id=used), "agent agent_1")
        await safe.vault.patch(safe.act, used, CredentialPatch(name="Other"), None)
        assert await safe.store.known(safe.ws, ["straße", "other", "key"], []) == (
            {"other": used},
            frozenset(),
        )


class TestRenewal:
    async def test_a_version_is_put_once(self, safe: Safe) -> None:
        made = await safe.kept(tags=["x"])
        stored = await safe.store.read(safe.ws, made)
        assert stored is not None
        item = Item.of(stored).model_copy(update={"expires_at": LAST_MS})
        sealed = await safe.envelope.seal(orjson.dumps("next"), safe.ws, made, "2")
        assert await safe.store.put_version(safe.ws, stored, item.encode(), sealed, "")
        assert not await safe.store.put_version(safe.ws, stored, item.encode(), sealed, "")
        assert await safe.read(made, await safe.token()) == "next"
        now = await safe.vault.get(safe.act, made)
        assert (now.version, now.revision, Item.of(now)) == (2, stored.revision, item), (
            "nobody is told of a renewal"
        )
        assert safe.vault.shown(now)["expires_at"] == "9999-12-31T23:59:59.999Z"

    async def test_nobody_writes_over_the_other(self, safe: Safe) -> None:
        made = await safe.kept()
        stored = await safe.store.read(safe.ws, made)
        assert stored is not None
        before = Item.of(stored).draft()
        sealed = await safe.envelope.seal(orjson.dumps("next"), safe.ws, made, "2")
        item = Item.of(stored).model_copy(update={"expires_at": 5})
        assert await safe.store.put_version(safe.ws, stored, item.encode(), sealed, "")
        assert await safe.store.update(safe.ws, stored, before, before, "") == "moved"
        await safe.vault.patch(safe.act, made, CredentialPatch(tags=["x"]), stored.etag)
        now = Item.of(await safe.vault.get(safe.act, made))
        assert (now.expires_at, now.tags) == (5, ["x"])

    async def test_one_at_a_time(self, safe: Safe) -> None:
        made = new_id("cred")
        assert await safe.store.begin_refresh(safe.ws, made, "one")
        assert not await safe.store.begin_refresh(safe.ws, made, "two")
        await safe.store.end_refresh(safe.ws, made, "two")
        assert not await safe.store.begin_refresh(safe.ws, made, "two")
        await safe.store.end_refresh(safe.ws, made, "one")
        assert await safe.store.begin_refresh(safe.ws, made, "two")


class TestDamage:
    """What was moved or cut in the store does not open, and that it was tried is written down."""

    async def test_a_moved_value(self, safe: Safe, store: Store, access: Access, tmp_path: Path) -> None:
        made, other = await safe.kept(), await safe.kept("Other", value="other-CANARY")
        here, there = (keys.key("credential", safe.ws, id=one) for one in (made, other))
        sealed = [await store.call("HGET", name, "sealed") for name in (here, there)]
        await store.call("HSET", here, "sealed", sealed[1])
        await self.refused(safe, made)
        await store.call("HSET", here, "sealed", sealed[0], "version", 2)
        await self.refused(safe, made)

    async def test_a_record_of_another_workspace(
        self, safe: Safe, store: Store, access: Access, tmp_path: Path
    ) -> None:
        made, elsewhere = await safe.kept(), new_id("ws")
        other = Act(Principal(**{**fields(safe.act.who), "workspace_id": elsewhere, "key_id": "key_2"}))
        theirs = Safe(store, safe.clock, access, other.who, tmp_path)
        row = await store.call("HGETALL", keys.key("credential", safe.ws, id=made))
        flat = [part for pair in row.items() for part in pair] if isinstance(row, dict) else row
        await store.call("HSET", keys.key("credential", elsewhere, id=made), *flat)
        await self.refused(theirs, made)

    @pytest.mark.parametrize("kept", [0, 1, 40, -1])
    async def test_a_cut_one(self, safe: Safe, store: Store, kept: int) -> None:
        made = await safe.kept()
        name = keys.key("credential", safe.ws, id=made)
        sealed = await store.call("HGET", name, "sealed")
        await store.call("HSET", name, "sealed", sealed[:kept])
        await self.refused(safe, made)

    async def refused(self, safe: Safe, credential_id: str) -> None:
        before = len(await safe.tries())
        with pytest.raises(Damaged) as caught:
            await safe.read(credential_id, await safe.token())
        assert (caught.value.status, caught.value.details) == (500, {})
        assert "CANARY" not in str(caught.value.body())
        assert (await safe.tries())[before:] == [("ok", None), ("refused", "damaged")]


def fields(who: Principal) -> dict[str, Any]:
    return {name: getattr(who, name) for name in Principal.__dataclass_fields__}


async def dumped(store: Store, name: bytes) -> Any:
    reads = {
        b"hash": ("HGETALL", name),
        b"set": ("SMEMBERS", name),
        b"zset": ("ZRANGE", name, 0, -1),
        b"list": ("LRANGE", name, 0, -1),
        b"string": ("GET", name),
    }
    kind = await store.call("TYPE", name)
    return await store.call(*reads[kind if isinstance(kind, bytes) else kind.encode()])
