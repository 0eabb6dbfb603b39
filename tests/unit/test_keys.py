"""Keys for other members, keys that follow keys, and every way to make one's own key stronger."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
import pytest

from kernel.access import keys as access_keys
from kernel.access.access import Access
from kernel.access.principal import Principal
from kernel.access.record import KeyPatch, KeyRotation
from kernel.access.roles import Role, effective
from kernel.access.scopes import Scope
from kernel.access.workspaces import WorkspaceCreate, WorkspacePatch
from kernel.clock import ManualClock, rfc3339
from kernel.errors import (
    AuthenticationError,
    AuthorizationError,
    CodexError,
    Conflict,
    NotFound,
    ValidationError,
)
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.budgets import Budget, BudgetStore
from kernel.storage.store import Store
from tests.access import joined, order, refused, refused_soon, replica

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
DAY = 24 * HOUR


async def refused_for_want_of(what: dict[str, str], ask: Awaitable[Any]) -> None:
    with pytest.raises(AuthorizationError) as caught:
        await ask
    assert caught.value.details == what


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "given", "left"),
        [
            ("owner", {"admin"}, {"admin"}),
            ("admin", {"admin", "agents:read"}, {"admin", "agents:read"}),
            ("developer", {"agents:write", "vault:admin"}, {"agents:write"}),
            ("developer", {"vault:admin"}, set()),
            ("viewer", {"agents:read", "agents:write", "vault:read"}, {"agents:read"}),
            ("viewer", {"webhooks:write"}, set()),
        ],
    )
    def test_a_key_may_do_what_it_and_the_role_allow(
        self, role: str, given: set[str], left: set[str]
    ) -> None:
        assert effective(map(Scope, given), Role(role)) == left

    def test_admin_stands_for_all_that_the_role_allows(self) -> None:
        developer = effective([Scope.ADMIN], Role.DEVELOPER)
        assert developer == set(Scope) - {"admin", "vault:admin"}
        viewer = effective([Scope.ADMIN], Role.VIEWER)
        assert viewer == {
            *("agents:read", "executions:read", "rag:read"),
            *("vault:list", "marketplace:read", "usage:read"),
        }

    async def test_the_role_cuts_what_the_key_says(self, access: Access, owner: Principal) -> None:
        who = await joined(access, owner, "viewer", "admin")
        assert (who.role, who.may("agents:read"), who.may("agents:write")) == ("viewer", True, False)
        assert (await access.me(who))["key"]["scopes"] == sorted(who.scopes)
        assert (await access.me(who))["user"]["role"] == "viewer"


class TestForOthers:
    async def test_a_key_acts_for_the_member(self, access: Access, owner: Principal) -> None:
        who = await joined(access, owner, "developer", "agents:write")
        shown = await access.keys.get(owner, who.key_id)
        assert (shown["user_id"], shown["created_by"]) == (who.user_id, owner.user_id)
        assert who.delegated

    async def test_only_members_have_keys(self, access: Access, owner: Principal) -> None:
        for user in (new_id("user"), "user_x", "", "*"):
            with pytest.raises(ValidationError) as caught:
                await access.keys.create(owner, order("admin", user_id=user))
            assert caught.value.details["field"] == "user_id"

    async def test_admins_make_none_for_an_owner(self, access: Access, owner: Principal) -> None:
        admin = await joined(access, owner, "admin", "admin")
        ask = access.keys.create(admin, order("agents:read", user_id=owner.user_id))
        await refused_for_want_of({"role": "owner"}, ask)
        other = await joined(access, owner, "viewer", "agents:read")
        assert await access.keys.create(admin, order("agents:read", user_id=other.user_id))

    async def test_nobody_gives_others_more_than_they_have(self, access: Access, owner: Principal) -> None:
        small = await access.authenticate((await access.keys.create(owner, order("agents:read"))).token)
        other = await joined(access, owner, "developer", "agents:read")
        ask = access.keys.create(small, order("agents:write", user_id=other.user_id))
        await refused_for_want_of({"scope": "agents:write"}, ask)

    async def test_developers_make_none_elsewhere(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        """A key of one's own workspace opens no way into another where one is but a developer."""
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        token = (await access.keys.create(owner, order("admin", workspace_id=other.id))).token
        there = await access.authenticate(token)
        await joined(access, there, "owner", "admin")
        await access.members.change(there, other.id, owner.user_id, Role.DEVELOPER)
        ask = access.keys.create(owner, order("admin", workspace_id=other.id))
        await refused_for_want_of({"role": "admin"}, ask)


class TestDelegated:
    """A key that somebody else made for a user stands for them in its workspace alone."""

    @pytest.fixture
    async def posing(self, access: Access, owner: Principal) -> Principal:
        """Poses as the operator: made by another owner of their workspace."""
        other = await joined(access, owner, "owner", "admin")
        issued = await access.keys.create(other, order("admin", user_id=owner.user_id))
        return await access.authenticate(issued.token)

    async def test_it_is_no_operator(self, access: Access, posing: Principal, owner: Principal) -> None:
        assert posing.user_id == owner.user_id
        for ask in (
            access.workspaces.update(posing, posing.workspace_id, WorkspacePatch(plan="pro")),
            access.workspaces.create(posing, WorkspaceCreate(name="Mine")),
        ):
            with pytest.raises(AuthorizationError):
                await ask

    async def test_the_users_other_workspaces_do_not_exist(
        self, access: Access, posing: Principal, owner: Principal
    ) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Secret"))
        for ask in (
            access.workspaces.get(posing, other.id),
            access.workspaces.update(posing, other.id, WorkspacePatch(name="Mine")),
            access.members.list(posing, other.id, PageQuery()),
            access.keys.create(posing, order("admin", workspace_id=other.id)),
        ):
            with pytest.raises(NotFound):
                await ask
        listed = await access.workspaces.list(posing, PageQuery())
        assert [workspace.id for workspace in listed.items] == [posing.workspace_id]

    async def test_it_cannot_make_or_rotate_one_that_is_not(
        self, access: Access, posing: Principal, owner: Principal
    ) -> None:
        for issued in (
            await access.keys.create(posing, order("admin")),
            await access.keys.rotate(posing, posing.key_id, KeyRotation()),
            await access.keys.rotate(posing, owner.key_id, KeyRotation()),
        ):
            assert (await access.authenticate(issued.token)).delegated

    async def test_whoever_rotates_anothers_key_holds_a_delegated_one(
        self, access: Access, owner: Principal
    ) -> None:
        other = await joined(access, owner, "owner", "admin")
        issued = await access.keys.rotate(other, owner.key_id, KeyRotation())
        assert (await access.authenticate(issued.token)).delegated
        assert issued.shown()["created_by"] == other.user_id


class TestMakers:
    """A key is worth no more than those who made it for somebody else are now."""

    @pytest.fixture
    async def admin(self, access: Access, owner: Principal) -> Principal:
        return await joined(access, owner, "admin", "admin")

    async def test_it_does_not_rise_above_its_maker(
        self, access: Access, owner: Principal, admin: Principal
    ) -> None:
        made = await joined(access, admin, "developer", "admin")
        ws = owner.workspace_id
        await access.members.change(owner, ws, made.user_id, Role.OWNER)
        made = await access.principal(made.key_id)
        assert made.role == "admin"
        await refused_for_want_of({"role": "owner"}, access.members.change(made, ws, owner.user_id, None))
        await access.members.change(owner, ws, admin.user_id, Role.VIEWER)
        assert "admin" not in (await access.principal(made.key_id)).scopes

    async def test_it_ends_with_its_makers_membership(
        self, access: Access, owner: Principal, admin: Principal
    ) -> None:
        """As do keys that it made, or rotated, and those of whoever had one of them."""
        made = await joined(access, admin, "admin", "admin")
        other = await joined(access, made, "admin", "admin")
        own = (await access.keys.create(made, order("admin"))).key.id
        rotated = (await access.keys.rotate(admin, other.key_id, KeyRotation())).key.id
        kept = (await access.keys.rotate(owner, made.key_id, KeyRotation())).key.id
        await access.members.change(owner, owner.workspace_id, admin.user_id, None)
        for key in (made.key_id, other.key_id, own, rotated):
            with pytest.raises(AuthenticationError):
                await access.principal(key)
        assert (await access.principal(kept)).role == "admin"

    async def test_what_the_operator_made_stays(
        self, access: Access, owner: Principal, admin: Principal
    ) -> None:
        heir = await joined(access, owner, "owner", "admin")
        await access.members.change(heir, owner.workspace_id, owner.user_id, None)
        assert (await access.principal(admin.key_id)).role == "admin"
        assert (await access.principal(heir.key_id)).role == "owner"


class TestRotation:
    async def test_the_successor_is_as_the_key_was(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        agent, end = new_id("agent"), rfc3339(clock.now_ms() + 30 * DAY)
        old = await access.keys.create(owner, order("agents:read", agents=[agent], expires_at=end))
        clock.advance(HOUR)
        new = (await access.keys.rotate(owner, old.key.id, KeyRotation())).shown()
        fields = ("name", "scopes", "agents", "collections", "user_id", "workspace_id", "expires_at")
        assert [new[name] for name in fields] == [old.shown()[name] for name in fields]
        assert new["created_at"] == rfc3339(clock.now_ms())
        assert new["replaces"] == {"id": old.key.id, "expires_at": rfc3339(clock.now_ms() + DAY)}

    async def test_both_work_until_the_overlap_ends(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        old = await access.keys.create(owner, order("agents:read"))
        new = await access.keys.rotate(owner, old.key.id, KeyRotation(overlap_ms=HOUR))
        clock.advance(HOUR - 1)
        assert await access.authenticate(old.token)
        clock.advance(1)
        await refused(access, old.token)
        assert (await access.authenticate(new.token)).scopes == {"agents:read"}

    async def test_a_sooner_end_of_its_own_stays(
        self, access: Access, owner: Principal, clock: ManualClock
    ) -> None:
        end = rfc3339(clock.now_ms() + HOUR)
        old = await access.keys.create(owner, order("agents:read", expires_at=end))
        new = await access.keys.rotate(owner, old.key.id, KeyRotation(overlap_ms=DAY))
        assert new.replaces == {"id": old.key.id, "expires_at": end}
        assert (await access.keys.get(owner, old.key.id))["expires_at"] == end

    async def test_without_overlap_it_ends_at_once_everywhere(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock
    ) -> None:
        old = await access.keys.create(owner, order("agents:read"))
        async with replica(store, clock) as other:
            await other.authenticate(old.token)
            new = await access.keys.rotate(owner, old.key.id, KeyRotation(overlap_ms=0))
            await refused(access, old.token)
            await refused_soon(store, lambda: other.authenticate(old.token))
            assert await other.authenticate(new.token)
        with pytest.raises(NotFound):
            await access.keys.get(owner, old.key.id)

    async def test_a_key_rotates_itself(self, access: Access, owner: Principal) -> None:
        issued = await access.keys.rotate(owner, owner.key_id, KeyRotation(overlap_ms=0))
        who = await access.authenticate(issued.token)
        assert (who.scopes, who.delegated) == ({"admin"}, False)

    async def test_it_has_one_successor(self, access: Access, owner: Principal) -> None:
        old = (await access.keys.create(owner, order("agents:read"))).key.id
        tries = (access.keys.rotate(owner, old, KeyRotation()) for _ in range(8))
        done = await asyncio.gather(*tries, return_exceptions=True)
        made = [one for one in done if not isinstance(one, BaseException)]
        assert len(made) == 1
        assert {type(one) for one in done if isinstance(one, BaseException)} == {Conflict}
        assert (await access.keys.get(owner, old))["replaced_by"] == made[0].key.id

    async def test_one_that_is_given_another_end_may_be_rotated_again(
        self, access: Access, owner: Principal
    ) -> None:
        old = (await access.keys.create(owner, order("agents:read"))).key.id
        await access.keys.rotate(owner, old, KeyRotation())
        await access.keys.update(owner, old, KeyPatch(expires_at=None))
        assert (await access.keys.get(owner, old))["expires_at"] is None
        assert await access.keys.rotate(owner, old, KeyRotation())

    async def test_an_expired_one_is_not(self, access: Access, owner: Principal, clock: ManualClock) -> None:
        end = rfc3339(clock.now_ms() + HOUR)
        old = await access.keys.create(owner, order("agents:read", expires_at=end))
        clock.advance(HOUR)
        with pytest.raises(Conflict, match="expired"):
            await access.keys.rotate(owner, old.key.id, KeyRotation())

    @pytest.mark.parametrize("overlap_ms", [0, HOUR])
    async def test_a_lost_successor_is_replaced(
        self, access: Access, owner: Principal, clock: ManualClock, overlap_ms: int
    ) -> None:
        end = rfc3339(clock.now_ms() + 30 * DAY)
        old = await access.keys.create(owner, order("agents:read", expires_at=end))
        lost = await access.keys.rotate(owner, old.key.id, KeyRotation(overlap_ms=overlap_ms))
        clock.advance(1000)
        new = await access.keys.rotate(
            owner, old.key.id, KeyRotation(overlap_ms=overlap_ms), lost=lost.key.id
        )
        await refused(access, lost.token)
        assert (await access.authenticate(new.token)).scopes == {"agents:read"}
        assert new.shown()["expires_at"] == end
        if overlap_ms:
            assert new.replaces == lost.replaces
            assert (await access.keys.get(owner, old.key.id))["replaced_by"] == new.key.id

    @pytest.mark.parametrize("overlap_ms", [-1, 604_800_001, 1.5, "1", None, True])
    def test_overlaps_that_are_none(self, overlap_ms: Any) -> None:
        with pytest.raises(pydantic.ValidationError):
            KeyRotation.model_validate({"overlap_ms": overlap_ms})

    async def test_keys_of_others_do_not_exist(self, access: Access, owner: Principal) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Other"))
        issued = await access.keys.create(owner, order("admin", workspace_id=other.id))
        for key in (issued.key.id, new_id("key"), "key_\ud800", ""):
            with pytest.raises(NotFound):
                await access.keys.rotate(owner, key, KeyRotation())


class TestBudgetsOfARotatedKey:
    """A key does not rid itself of what was spent by being rotated."""

    @pytest.fixture
    async def old(self, access: Access, owner: Principal, store: Store, clock: ManualClock) -> str:
        """Has spent 60 of its 100 millionths of the day, which has told of the half, and of its 90 of the month."""
        key, now = (await access.keys.create(owner, order("agents:read"))).key.id, clock.now_ms()
        await store.call("HSET", keys.key("webhook_events", owner.workspace_id), "usage.threshold", 1)
        for length in (10, 7):
            period = rfc3339(now)[:length]
            await store.call(
                "HINCRBY", keys.key("spend", owner.workspace_id, period=period), f"c|k|{key}", 60
            )
        budgets = [Budget("key", key, "day", 100, (0.5,), True), Budget("key", key, "month", 90, (), False)]
        await BudgetStore(store).replace(owner.workspace_id, now, "", budgets)
        return key

    async def standing(self, store: Store, owner: Principal, now_ms: int) -> dict[str, list[Any]]:
        found = (await BudgetStore(store).read(owner.workspace_id, now_ms)).budgets
        told: dict[str, list[Any]] = {}
        for one in found:
            told.setdefault(one.budget.id, []).append((one.budget.amount, one.spent, one.reached))
        return told

    @pytest.mark.parametrize("overlap_ms", [0, HOUR])
    async def test_the_successor_has_them(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock, old: str, overlap_ms: int
    ) -> None:
        now = clock.now_ms()
        new = (await access.keys.rotate(owner, old, KeyRotation(overlap_ms=overlap_ms))).key.id
        expected = [(90, 60, ()), (100, 60, (now,))]
        ids = [old, new] if overlap_ms else [new]
        assert await self.standing(store, owner, now) == dict.fromkeys(ids, expected)
        assert await store.call("XLEN", keys.shard_key("outbox", keys.shard_of(owner.workspace_id))) == 1

    @pytest.mark.parametrize("overlap_ms", [0, HOUR])
    async def test_so_has_the_successor_of_a_lost_one(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock, old: str, overlap_ms: int
    ) -> None:
        ends = KeyRotation(overlap_ms=overlap_ms)
        lost = (await access.keys.rotate(owner, old, ends)).key.id
        new = (await access.keys.rotate(owner, old, ends, lost=lost)).key.id
        told = await self.standing(store, owner, clock.now_ms())
        assert (lost in told, len(told[new])) == (False, 2)

    async def test_they_end_with_the_key(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock, old: str
    ) -> None:
        await access.keys.revoke(owner, old)
        assert await self.standing(store, owner, clock.now_ms()) == {}


class TestHowManyThereAre:
    async def test_a_workspace_is_full_at_some_point(
        self, access: Access, owner: Principal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(access_keys, "MAX_KEYS", 3)
        made = [access.keys.create(owner, order("agents:read")) for _ in range(8)]
        done = await asyncio.gather(*made, return_exceptions=True)
        (one, _) = (key for key in done if not isinstance(key, BaseException))
        with pytest.raises(Conflict, match="at most 3"):
            await access.keys.rotate(owner, one.key.id, KeyRotation())
        await access.keys.rotate(owner, one.key.id, KeyRotation(overlap_ms=0))
        assert (await access.keys.list(owner, PageQuery())).total == 3


Attempt = Callable[[Access, Principal, Principal], Awaitable[Any]]
"""By the weak one, against the strong one."""

ATTEMPTS: dict[str, Attempt] = {
    "make a stronger key": lambda access, weak, strong: access.keys.create(weak, order("admin")),
    "make an unlimited key": lambda access, weak, strong: access.keys.create(weak, order("agents:read")),
    "widen itself": lambda access, weak, strong: access.keys.update(
        weak, weak.key_id, KeyPatch(scopes=[Scope.ADMIN])
    ),
    "free itself": lambda access, weak, strong: access.keys.update(weak, weak.key_id, KeyPatch(agents=None)),
    "rename a stronger key": lambda access, weak, strong: access.keys.update(
        weak, strong.key_id, KeyPatch(name="mine")
    ),
    "rotate a stronger key": lambda access, weak, strong: access.keys.rotate(
        weak, strong.key_id, KeyRotation()
    ),
    "revoke a stronger key": lambda access, weak, strong: access.keys.revoke(weak, strong.key_id),
    "make a key for an owner": lambda access, weak, strong: access.keys.create(
        weak, order("agents:read", user_id=strong.user_id, agents=list(weak.agents or ()))
    ),
}


class TestEscalation:
    @pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
    @pytest.mark.parametrize("role", ["admin", "developer"])
    async def test_no_key_gets_stronger(
        self, access: Access, owner: Principal, attempt: Attempt, role: str
    ) -> None:
        weak = await joined(access, owner, role, "agents:read", agents=[new_id("agent")])
        before = await self._keys(access, owner)
        with pytest.raises(AuthorizationError):
            await attempt(access, weak, owner)
        assert await self._keys(access, owner) == before

    async def _keys(self, access: Access, owner: Principal) -> list[dict[str, Any]]:
        found = (await access.keys.list(owner, PageQuery(1, 100))).items
        return [key | {"last_used_at": None} for key in found]

    async def test_admins_do_not_touch_an_owners_keys(self, access: Access, owner: Principal) -> None:
        """Though they may do all that it may: whoever rotates a key acts for its user."""
        admin = await joined(access, owner, "admin", "admin")
        mine = (await access.keys.create(owner, order("agents:read"))).key.id
        for ask in (
            access.keys.rotate(admin, mine, KeyRotation()),
            access.keys.update(admin, mine, KeyPatch(name="x")),
            access.keys.revoke(admin, mine),
        ):
            await refused_for_want_of({"role": "owner"}, ask)

    async def test_the_key_of_one_who_left_can_be_revoked(self, access: Access, owner: Principal) -> None:
        admin, other = (
            await joined(access, owner, "admin", "admin"),
            await joined(access, owner, "owner", "admin"),
        )
        await access.members.change(owner, owner.workspace_id, other.user_id, None)
        await access.keys.revoke(admin, other.key_id)
        with pytest.raises(CodexError):
            await access.keys.get(owner, other.key_id)
