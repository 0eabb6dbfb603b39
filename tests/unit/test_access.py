import asyncio
import hmac
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from kernel.access import authentication
from kernel.access.access import Access
from kernel.access.authentication import CACHED, FRESH_MS, Authentication
from kernel.access.principal import Principal
from kernel.access.record import KeyCreate, KeyPatch
from kernel.access.scopes import Scope
from kernel.access.secret import new_token, read_pepper
from kernel.access.workspaces import WorkspaceCreate, WorkspacePatch
from kernel.clock import ManualClock, rfc3339
from kernel.errors import AuthenticationError, AuthorizationError, CodexError, NotFound, ValidationError
from kernel.ids import new_id
from kernel.metering.plans import FILE, Plans, load_plans
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.access import OWNERS_SHARD, AccessStore, FoundKey, id_in
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions
from tests.access import PEPPER, joined, order, refused, refused_soon, replica

pytestmark = pytest.mark.anyio

HOUR = 3_600_000


class CountingStore(Store):
    """Counts the scripts that leave for the server."""

    def __init__(self, url: str):
        super().__init__(url)
        self.runs: list[str] = []

    async def run(self, script: str, workspace_or_prefix: str, *args: Any) -> Any:
        self.runs.append(script)
        return await super().run(script, workspace_or_prefix, *args)


class LateStore(AccessStore):
    """Keeps what it has read to itself until it may answer."""

    def __init__(self, store: Store):
        super().__init__(store)
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()

    async def find_key(self, key_id: str) -> FoundKey | None:
        found = await super().find_key(key_id)
        self.has_read.set()
        await self.may_answer.wait()
        return found


@pytest.fixture
async def counting(valkey_url: str, store: Store) -> AsyncGenerator[CountingStore]:
    counting = CountingStore(valkey_url)
    yield counting
    await counting.close()


class TestBootstrap:
    async def test_gives_the_operator_an_admin_key_once(self, access: Access, owner_key: str) -> None:
        who = await access.authenticate(owner_key)
        assert who.plan == "enterprise"
        assert who.scopes == {"admin"}
        assert await access.bootstrap() is None

    async def test_two_processes_make_one_owner(
        self, access: Access, store: Store, clock: ManualClock
    ) -> None:
        async with replica(store, clock) as other:
            made = await asyncio.gather(*(a.bootstrap() for a in (access, other) * 10))
        tokens = [token for token in made if token]
        assert len(tokens) == 1
        assert (await access.authenticate(tokens[0])).scopes == {"admin"}

    async def test_a_lost_key_is_replaced(self, access: Access, owner: Principal) -> None:
        again = await access.authenticate(await access.issue_owner_key("prod"))
        assert (again.user_id, again.workspace_id) == (owner.user_id, owner.workspace_id)
        assert again.key_id != owner.key_id
        assert again.environment == "prod"

    async def test_it_is_of_a_workspace_where_the_owner_still_is(
        self, access: Access, owner: Principal
    ) -> None:
        heir = await joined(access, owner, "owner", "admin")
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        await access.members.change(heir, owner.workspace_id, owner.user_id, None)
        assert (await access.authenticate(await access.issue_owner_key())).workspace_id == other.id

    async def test_no_owner_no_key(self, access: Access) -> None:
        with pytest.raises(NotFound):
            await access.issue_owner_key()

    async def test_me(self, access: Access, owner: Principal) -> None:
        assert await access.me(owner) == {
            "user": {"id": owner.user_id, "name": "Owner", "role": "owner"},
            "workspace": {"id": owner.workspace_id, "name": "Default", "plan": "enterprise"},
            "key": {"id": owner.key_id, "scopes": ["admin"]},
        }

    async def test_all_of_it_is_in_one_shard(self, store: Store, owner: Principal) -> None:
        names = await store.call("KEYS", "cx1:*")
        assert {name.split(b":")[1] for name in names} == {b"{s00}"}


class TestAuthenticate:
    async def test_every_single_change_of_a_letter_is_refused(self, access: Access, owner_key: str) -> None:
        for at, letter in enumerate(owner_key):
            for bit in range(7):
                await refused(access, owner_key[:at] + chr(ord(letter) ^ 1 << bit) + owner_key[at + 1 :])
        assert await access.authenticate(owner_key)

    @pytest.mark.parametrize(
        "token", ["", " ", "cxk", "cxk_dev_", "Bearer", "ключ", "\x00", "\ud800", "x" * 10_000]
    )
    async def test_what_is_no_key_is_refused(self, access: Access, token: str) -> None:
        await refused(access, token)

    @pytest.mark.parametrize(
        "change",
        [lambda t: t[:-1], lambda t: t + "a", lambda t: t + "\n", str.upper, str.lower, lambda t: f" {t}"],
    )
    async def test_a_key_must_be_exact(
        self, access: Access, owner_key: str, change: Callable[[str], str]
    ) -> None:
        await refused(access, change(owner_key))

    async def test_another_pepper_opens_nothing(
        self, store: Store, clock: ManualClock, owner_key: str
    ) -> None:
        async with replica(store, clock, b"q" * 32) as other:
            await refused(other, owner_key)

    async def test_the_store_holds_no_secret(self, store: Store, owner: Principal, owner_key: str) -> None:
        kept = await store.call("HGETALL", keys.key("key", owner.key_id, id=owner.key_id))
        assert owner_key.rsplit("_", 1)[1].encode() not in b"".join(kept)

    async def test_a_key_ends_at_the_moment_it_expires(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        end = clock.now_ms() + HOUR
        token = (await access.keys.create(owner, order("agents:read", expires_at=rfc3339(end)))).token
        clock.advance(HOUR - 1)
        assert await access.authenticate(token)
        clock.advance(1)
        await refused(access, token)

    async def test_a_disabled_workspace_is_refused_and_comes_back(
        self, access: Access, owner: Principal
    ) -> None:
        workspace = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        token = (await access.keys.create(owner, order("admin", workspace_id=workspace.id))).token
        before = await access.authenticate(token)
        await access.workspaces.update(owner, workspace.id, WorkspacePatch(status="disabled"))
        await refused(access, token)
        await access.workspaces.update(owner, workspace.id, WorkspacePatch(status="active"))
        assert await access.authenticate(token) == before

    async def test_a_new_plan_counts_at_once(self, access: Access, owner: Principal, owner_key: str) -> None:
        patch = WorkspacePatch.model_validate({"plan": "pro", "limits": {"concurrent": 80}})
        await access.workspaces.update(owner, owner.workspace_id, patch)
        who = await access.authenticate(owner_key)
        assert (who.plan, who.overrides) == ("pro", '{"concurrent":80}')

    async def test_every_key_is_compared_the_same_way(
        self, access: Access, owner: Principal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unknown, changed, expired and good keys differ in nothing that could be timed: one comparison of 32 bytes."""
        compared: list[tuple[int, int]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return hmac.compare_digest(one, other)

        end = rfc3339(clock.now_ms() + HOUR)
        good = (await access.keys.create(owner, order("agents:read"))).token
        short = (await access.keys.create(owner, order("agents:read", expires_at=end))).token
        clock.advance(HOUR)
        changed = good[:-1] + chr(ord(good[-1]) ^ 1)
        monkeypatch.setattr(authentication, "hmac", SimpleNamespace(compare_digest=compare))
        for token in (changed, short, new_token("dev", new_id("key"))):
            await refused(access, token)
        await access.authenticate(good)
        assert compared == [(32, 32)] * 4


class TestCache:
    async def test_one_call_serves_all_who_ask_at_once_and_after(
        self, counting: CountingStore, clock: ManualClock, owner_key: str
    ) -> None:
        async with replica(counting, clock) as access:
            await asyncio.gather(*(access.authenticate(owner_key) for _ in range(100)))
            await access.authenticate(owner_key)
            assert counting.runs.count("access_find") == 1
            clock.advance(FRESH_MS)
            await access.authenticate(owner_key)
            assert counting.runs.count("access_find") == 2

    async def test_while_nothing_changes_one_look_serves_all_keys(
        self, counting: CountingStore, clock: ManualClock, owner: Principal, owner_key: str
    ) -> None:
        async with replica(counting, clock) as access:
            tokens = [(await access.keys.create(owner, order("agents:read"))).token for _ in range(20)]
            for _ in range(5):
                await asyncio.gather(*(access.authenticate(token) for token in tokens))
                clock.advance(FRESH_MS)
            assert counting.runs.count("access_find") == 2 * len(tokens)

    async def test_what_was_asked_before_a_change_was_known_is_asked_again(
        self, store: Store, clock: ManualClock, access: Access, owner: Principal
    ) -> None:
        """The answer is late: the change, and a look that counts it already, come before it."""
        issued = await access.keys.create(owner, order("agents:read"))
        late = LateStore(store)
        deaf = Authentication(late, clock, PEPPER)
        asking = asyncio.create_task(deaf.authenticate(issued.token))
        await late.has_read.wait()
        await access.keys.revoke(owner, issued.key.id)
        await deaf._turns.look()
        late.may_answer.set()
        await asking
        clock.advance(FRESH_MS)
        with pytest.raises(AuthenticationError):
            await deaf.authenticate(issued.token)

    async def test_bad_keys_of_one_id_cost_one_call(
        self, counting: CountingStore, clock: ManualClock
    ) -> None:
        key_id = new_id("key")
        async with replica(counting, clock) as access:
            for _ in range(1000):
                await refused(access, new_token("dev", key_id))
        assert counting.runs.count("access_find") == 1

    async def test_it_is_bounded(self, access: Access) -> None:
        for _ in range(CACHED // 100 + 1):
            tokens = [new_token("dev", new_id("key")) for _ in range(100)]
            await asyncio.gather(*(refused(access, token) for token in tokens))
        assert len(access._authentication._seen) == CACHED

    async def test_a_caller_that_leaves_takes_no_one_along(self, access: Access, owner_key: str) -> None:
        first, second = (asyncio.create_task(access.authenticate(owner_key)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).scopes == {"admin"}

    async def test_use_is_noted_once_a_minute(
        self, counting: CountingStore, clock: ManualClock, owner: Principal, owner_key: str
    ) -> None:
        async with replica(counting, clock) as access:
            for _ in range(4):
                await access.authenticate(owner_key)
                clock.advance(30_000)
            await access._authentication.close()
            shown = await access.keys.get(owner, owner.key_id)
        assert counting.runs.count("access_use") == 1  # 0 s is noted by the fixture, 60 s here
        assert shown["last_used_at"] == rfc3339(clock.now_ms() - 60_000)


class TestRevocation:
    async def test_word_of_it_reaches_another_replica(
        self, access: Access, store: Store, clock: ManualClock, owner: Principal, owner_key: str
    ) -> None:
        issued = await access.keys.create(owner, order("agents:read"))
        async with replica(store, clock) as other:
            await other.authenticate(issued.token)
            await access.keys.revoke(owner, issued.key.id)
            await refused(access, issued.token)
            await refused_soon(store, lambda: other.authenticate(issued.token))
            with pytest.raises(AuthenticationError):
                await other.principal(issued.key.id)

    async def test_without_word_of_it_a_second_is_the_bound(
        self, access: Access, store: Store, clock: ManualClock, owner: Principal
    ) -> None:
        issued = await access.keys.create(owner, order("agents:read"))
        deaf = Access(store, Subscriptions(store), clock, PEPPER, Plans(FILE, clock))
        await deaf.authenticate(issued.token)
        await access.keys.revoke(owner, issued.key.id)
        assert await deaf.authenticate(issued.token)
        clock.advance(999)
        await refused(deaf, issued.token)
        await deaf.close()

    async def test_a_narrowed_key_is_narrow_elsewhere(
        self, access: Access, store: Store, clock: ManualClock, owner: Principal
    ) -> None:
        issued = await access.keys.create(owner, order("agents:read", "agents:write"))
        async with replica(store, clock) as other:
            await other.authenticate(issued.token)
            await access.keys.update(
                owner, issued.key.id, KeyPatch.model_validate({"scopes": ["agents:read"]})
            )
            async with asyncio.timeout(1):
                while (await other.authenticate(issued.token)).may("agents:write"):
                    await store.call("PING")

    async def test_a_workspaces_keys_alone_are_forgotten_with_it(
        self, access: Access, owner: Principal, owner_key: str
    ) -> None:
        """Those of another in its shard stay; a key that opens nothing may be anybody's."""
        other, nothing = id_in(keys.shard_of(owner.workspace_id), "ws"), id_in(OWNERS_SHARD, "key")
        elsewhere = id_in(OWNERS_SHARD + 1, "key")
        for key_id in (nothing, elsewhere):
            await refused(access, new_token("dev", key_id))
        access._authentication.forget(other)
        assert set(access._authentication._seen) == {owner.key_id, elsewhere}
        access._authentication.forget(owner.workspace_id)
        assert set(access._authentication._seen) == {elsewhere}

    @pytest.mark.parametrize("changed", ["key_id", "workspace_id"])
    async def test_an_answer_on_its_way_is_not_kept(
        self, access: Access, owner: Principal, owner_key: str, changed: str
    ) -> None:
        access._authentication.forget_all()
        asking = asyncio.create_task(access.authenticate(owner_key))
        await asyncio.sleep(0)
        access._authentication.forget(getattr(owner, changed))
        await asking
        assert owner.key_id not in access._authentication._seen


class TestKeys:
    async def test_what_is_shown(self, access: Access, owner: Principal, clock: ManualClock) -> None:
        issued = await access.keys.create(owner, order("executions:read", "agents:read", "agents:read"))
        shown = issued.shown()
        assert shown["key"].startswith(shown["prefix"] + "_")
        assert shown["scopes"] == ["agents:read", "executions:read"]
        assert shown["created_at"] == rfc3339(clock.now_ms())
        assert shown["last_used_at"] is None
        assert await access.keys.get(owner, issued.key.id) == {k: v for k, v in shown.items() if k != "key"}

    async def test_lists_are_newest_first_and_page(self, access: Access, owner: Principal) -> None:
        made = [(await access.keys.create(owner, order("agents:read"))).key.id for _ in range(4)]
        first = await access.keys.list(owner, PageQuery(1, 3))
        newest = sorted([*made, owner.key_id], reverse=True)
        assert [item["id"] for item in first.items] == newest[:3]
        assert (first.total, first.more) == (5, True)
        rest = await access.keys.list(owner, PageQuery(1, 3, first.last_id))
        assert [item["id"] for item in rest.items] == newest[3:]
        assert not rest.more

    async def test_no_key_gives_what_it_lacks(self, access: Access, owner: Principal) -> None:
        small = await access.authenticate((await access.keys.create(owner, order("agents:read"))).token)
        with pytest.raises(AuthorizationError, match="agents:write") as caught:
            await access.keys.create(small, order("agents:read", "agents:write"))
        assert caught.value.details == {"scope": "agents:write"}
        with pytest.raises(AuthorizationError, match="admin"):
            await access.keys.create(small, order("admin"))
        assert (await access.keys.create(small, order("agents:read"))).key.scopes == [Scope.AGENTS_READ]

    async def test_no_key_widens_itself(self, access: Access, owner: Principal) -> None:
        small = await access.authenticate((await access.keys.create(owner, order("agents:read"))).token)
        with pytest.raises(AuthorizationError, match="admin"):
            await access.keys.update(small, small.key_id, KeyPatch.model_validate({"scopes": ["admin"]}))
        with pytest.raises(AuthorizationError, match="admin"):
            await access.keys.update(small, owner.key_id, KeyPatch.model_validate({"name": "mine"}))

    async def test_a_limited_key_gives_no_wider_limit(self, access: Access, owner: Principal) -> None:
        own, other = new_id("agent"), new_id("agent")
        limited = await access.authenticate(
            (await access.keys.create(owner, order("admin", agents=[own]))).token
        )
        assert (await access.keys.create(limited, order("admin", agents=[own]))).key.agents == [own]
        for wider in (None, [other], [own, other]):
            with pytest.raises(AuthorizationError, match="limited"):
                await access.keys.create(limited, order("admin", agents=wider))
        limited.require_agent(own)
        with pytest.raises(NotFound):
            limited.require_agent(other)
        with pytest.raises(AuthorizationError):
            limited.require_all_agents()

    async def test_another_workspaces_key_does_not_exist(self, access: Access, owner: Principal) -> None:
        workspace = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        issued = await access.keys.create(owner, order("admin", workspace_id=workspace.id))
        stranger = await access.authenticate(issued.token)
        assert (stranger.workspace_id, stranger.plan) == (workspace.id, "free")
        for act in (
            access.keys.get(stranger, owner.key_id),
            access.keys.revoke(stranger, owner.key_id),
            access.keys.update(stranger, owner.key_id, KeyPatch(name="x")),
            access.keys.get(stranger, "key_\ud800"),
            access.keys.revoke(stranger, "nonsense"),
            access.keys.create(owner, order("admin", workspace_id=new_id("ws"))),
            access.keys.create(owner, order("admin", workspace_id="*")),
        ):
            with pytest.raises(NotFound):
                await act
        assert await access.keys.get(owner, owner.key_id)

    async def test_changes_made_at_once_are_all_kept(self, access: Access, owner: Principal) -> None:
        key = (await access.keys.create(owner, order("agents:read"))).key.id
        agent = new_id("agent")
        patches = [{"name": "new"}, {"scopes": ["admin"]}, {"agents": [agent]}]
        await asyncio.gather(*(access.keys.update(owner, key, KeyPatch.model_validate(p)) for p in patches))
        shown = await access.keys.get(owner, key)
        assert (shown["name"], shown["scopes"], shown["agents"]) == ("new", ["admin"], [agent])

    async def test_an_end_in_the_past_is_refused(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            await access.keys.create(owner, order("admin", expires_at=rfc3339(clock.now_ms())))
        assert caught.value.details["field"] == "expires_at"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""), ("name", " "), ("name", "a\u202eb"), ("name", "x" * 129), ("name", 1),
            ("name", "a\r\nx-admin: 1"), ("name", "a\nb"), ("name", "a\x00"), ("name", "a\x1bb"), ("name", "a\x7f"),
            ("name", "a\ud800"), ("name", "a\u2028b"), ("name", "a\u0085b"),
            ("name", None), ("scopes", []), ("scopes", ["root"]), ("scopes", "admin"), ("scopes", None),
            ("expires_at", "2030-01-01"),
            ("expires_at", "2030-01-01T00:00:00"), ("expires_at", 1_900_000_000),
            ("expires_at", "2030-02-30T00:00:00Z"), ("expires_at", "2030-01-01T00:00:00+25:00"),
            ("agents", ["agent_1"]), ("agents", "all"), ("collections", [new_id("agent")]),
            ("is_admin", True), ("id", new_id("key")),
        ],
    )  # fmt: skip
    async def test_bad_bodies(self, field: str, value: Any) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            KeyCreate.model_validate({"name": "CI", "scopes": ["admin"]} | {field: value})
        assert caught.value.errors()[0]["loc"][0] == field


class TestWorkspaces:
    async def test_lists_those_of_the_user(self, access: Access, owner: Principal) -> None:
        made = [
            await access.workspaces.create(owner, WorkspaceCreate(name=f"W{n}", plan="pro")) for n in range(3)
        ]
        page = await access.workspaces.list(owner, PageQuery(1, 2))
        newest = sorted([owner.workspace_id, *(w.id for w in made)], reverse=True)
        assert [w.id for w in page.items] == newest[:2]
        assert (page.total, page.more) == (4, True)

    async def test_an_unknown_plan_is_refused(self, access: Access, owner: Principal) -> None:
        with pytest.raises(ValidationError) as caught:
            await access.workspaces.create(owner, WorkspaceCreate(name="W", plan="gold"))
        assert caught.value.details["field"] == "plan"


class TestPepper:
    def test_is_made_once_and_private(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            peppers = set(pool.map(lambda _: read_pepper(tmp_path), range(64)))
        assert len(peppers) == 1
        assert len(peppers.pop()) == 32
        assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["pepper"]
        assert (tmp_path / "secrets" / "pepper").stat().st_mode & 0o777 == 0o600

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        read_pepper(tmp_path)
        (tmp_path / "secrets" / "pepper").write_bytes(b"short")
        with pytest.raises(CodexError, match="damaged"):
            read_pepper(tmp_path)


def test_plans_are_those_of_the_price_page() -> None:
    plans = load_plans()
    limits = {name: (p.requests_per_hour, p.burst, p.concurrent) for name, p in plans.items()}
    assert limits == {"free": (1000, 50, 10), "pro": (10_000, 500, 50), "enterprise": (None, None, None)}
