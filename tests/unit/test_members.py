"""Members and their roles, and workspaces as members and the operator handle them."""

import asyncio
from dataclasses import replace
from typing import Any

import pydantic
import pytest

from kernel.access import workspaces
from kernel.access.access import Access
from kernel.access.members import MemberCreate
from kernel.access.principal import Principal
from kernel.access.roles import Role
from kernel.access.workspaces import WorkspaceCreate, WorkspacePatch
from kernel.clock import ManualClock
from kernel.errors import AuthorizationError, CodexError, Conflict, NotFound, ValidationError
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.members import MemberStore, StoredUser
from kernel.storage.store import Store
from tests.access import joined, order, refused_soon, replica

pytestmark = pytest.mark.anyio


def newcomer(role: str = "viewer", **fields: Any) -> MemberCreate:
    return MemberCreate.model_validate(
        {"role": role} | ({} if "user_id" in fields else {"name": "Ada"}) | fields
    )


async def elsewhere(access: Access, owner: Principal) -> Principal:
    """The owner of another workspace, who is nobody in this one."""
    workspace = await access.workspaces.create(owner, WorkspaceCreate(name="Elsewhere"))
    token = (await access.keys.create(owner, order("admin", workspace_id=workspace.id))).token
    return await joined(access, await access.authenticate(token), "owner", "admin")


class TestAdd:
    async def test_a_new_user(self, access: Access, owner: Principal) -> None:
        made = await access.members.add(owner, owner.workspace_id, newcomer(email="Ada@example.com"))
        assert (made["name"], made["email"], made["role"]) == ("Ada", "Ada@example.com", "viewer")
        assert await access.members.get(owner, owner.workspace_id, made["user_id"]) == made

    async def test_pages_are_newest_first(self, access: Access, owner: Principal) -> None:
        made = [
            (await access.members.add(owner, owner.workspace_id, newcomer()))["user_id"] for _ in range(4)
        ]
        newest = sorted([*made, owner.user_id], reverse=True)
        first = await access.members.list(owner, owner.workspace_id, PageQuery(1, 3))
        assert [item["user_id"] for item in first.items] == newest[:3]
        assert (first.total, first.more) == (5, True)
        rest = await access.members.list(owner, owner.workspace_id, PageQuery(1, 3, first.last_id))
        assert [item["user_id"] for item in rest.items] == newest[3:]
        assert not rest.more

    async def test_an_email_is_of_one_member(self, access: Access, owner: Principal) -> None:
        made = await access.members.add(owner, owner.workspace_id, newcomer(email="ada@example.com"))
        with pytest.raises(Conflict):
            await access.members.add(owner, owner.workspace_id, newcomer(email="ADA@example.com"))
        await access.members.change(owner, owner.workspace_id, made["user_id"], None)
        assert await access.members.add(owner, owner.workspace_id, newcomer(email="ADA@example.com"))

    async def test_of_twins_at_once_one_is_added(self, access: Access, owner: Principal) -> None:
        adding = (access.members.add(owner, owner.workspace_id, newcomer(email="a@b.cd")) for _ in range(8))
        done = await asyncio.gather(*adding, return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in done) == 1
        assert {type(one) for one in done if isinstance(one, BaseException)} == {Conflict}

    async def test_somebody_of_another_workspace_of_ones_own(self, access: Access, owner: Principal) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="Lab"))
        ada = await access.members.add(owner, owner.workspace_id, newcomer(email="ada@example.com"))
        added = await access.members.add(owner, other.id, newcomer("admin", user_id=ada["user_id"]))
        assert added == ada | {"role": "admin"}
        with pytest.raises(Conflict):
            await access.members.add(owner, other.id, newcomer(user_id=ada["user_id"]))
        issued = await access.keys.create(
            owner, order("admin", workspace_id=other.id, user_id=ada["user_id"])
        )
        ada_there = await access.authenticate(issued.token)
        assert (ada_there.role, ada_there.user_id) == ("admin", ada["user_id"])

    async def test_users_of_others_are_as_those_there_are_not(
        self, access: Access, owner: Principal, store: Store
    ) -> None:
        stranger = await elsewhere(access, owner)
        await access.members.change(owner, stranger.workspace_id, owner.user_id, None)
        told = []
        for user in (owner.user_id, new_id("user"), "user_\ud800", ""):
            with pytest.raises(ValidationError) as caught:
                await access.members.add(stranger, stranger.workspace_id, newcomer(user_id=user))
            told.append(caught.value.body())
        assert told == [told[0]] * 4
        listed = keys.key("user_workspaces", owner.user_id, id=owner.user_id)
        assert await store.call("ZSCORE", listed, stranger.workspace_id) is None

    async def test_whoever_may_not_see_members_adds_none_of_them(
        self, access: Access, owner: Principal
    ) -> None:
        ada = await access.members.add(owner, owner.workspace_id, newcomer(email="ada@example.com"))
        bob = replace(await joined(access, owner, "developer", "agents:read"), delegated=False)
        own = await access.workspaces.create(bob, WorkspaceCreate(name="Mine"))
        with pytest.raises(ValidationError) as caught:
            await access.members.add(bob, own.id, newcomer(user_id=ada["user_id"]))
        assert caught.value.details["field"] == "user_id"
        await access.members.change(owner, owner.workspace_id, bob.user_id, Role.ADMIN)
        assert await access.members.add(bob, own.id, newcomer(user_id=ada["user_id"])) == ada

    async def test_a_lost_answer_is_given_again(self, access: Access, owner: Principal) -> None:
        made = await access.members.add(owner, owner.workspace_id, newcomer(email="a@b.cd"))
        again = await access.members.add(
            owner, owner.workspace_id, newcomer(email="a@b.cd"), created_before=made["user_id"]
        )
        assert again == made
        meant = keys.shard_of(owner.workspace_id)
        user = next(name for name in iter(lambda: new_id("user"), "") if keys.shard_of(name) == meant)
        late = await access.members.add(owner, owner.workspace_id, newcomer(), created_before=user)
        assert late["user_id"] == user

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": None}, "name"),
            ({"user_id": new_id("user"), "name": "Ada"}, "name"),
            ({"user_id": new_id("user"), "email": "a@b.cd"}, "email"),
        ],
    )
    async def test_one_or_the_other(
        self, access: Access, owner: Principal, fields: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            await access.members.add(owner, owner.workspace_id, newcomer(**fields))
        assert caught.value.details["field"] == field

    @pytest.mark.parametrize(
        "email",
        ["", "ada", "ada@", "@b.cd", "a@b", "a b@c.de", "a@b.cd\r\nx: 1", "a@b..cd", "ä@b.cd", "a@b.cd\x00", 1,
         "a" * 65 + "@b.cd", "a@" + "b" * 64 + ".cd", "<a@b.cd>", "a@b.cd,c@d.ef", "=1@b.cd\n"],
    )  # fmt: skip
    def test_what_is_no_email(self, email: Any) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            newcomer(email=email)
        assert caught.value.errors()[0]["loc"] == ("email",)

    @pytest.mark.parametrize("role", ["", "root", "Owner", "operator", None, 1, ["owner"]])
    def test_what_is_no_role(self, role: Any) -> None:
        with pytest.raises(pydantic.ValidationError):
            MemberCreate.model_validate({"name": "Ada", "role": role})


class TestRights:
    @pytest.mark.parametrize("role", ["developer", "viewer"])
    async def test_only_owners_and_admins_manage(self, access: Access, owner: Principal, role: str) -> None:
        """The route's scope keeps them out already; this is for keys of other workspaces."""
        who, ws = await joined(access, owner, role, "admin"), owner.workspace_id
        for ask in (
            access.members.list(who, ws, PageQuery()),
            access.members.get(who, ws, owner.user_id),
            access.members.add(who, ws, newcomer()),
            access.members.change(who, ws, who.user_id, Role.OWNER),
            access.members.change(who, ws, owner.user_id, None),
            access.workspaces.update(who, ws, WorkspacePatch(name="Mine")),
        ):
            with pytest.raises(AuthorizationError) as caught:
                await ask
            assert caught.value.details == {"role": "admin"}

    async def test_admins_neither_make_nor_change_nor_remove_owners(
        self, access: Access, owner: Principal
    ) -> None:
        admin, ws = await joined(access, owner, "admin", "admin"), owner.workspace_id
        for ask in (
            access.members.add(admin, ws, newcomer("owner")),
            access.members.change(admin, ws, admin.user_id, Role.OWNER),
            access.members.change(admin, ws, owner.user_id, Role.VIEWER),
            access.members.change(admin, ws, owner.user_id, None),
        ):
            with pytest.raises(AuthorizationError) as caught:
                await ask
            assert caught.value.details == {"role": "owner"}
        other = await access.members.add(admin, ws, newcomer("viewer"))
        assert (await access.members.change(admin, ws, other["user_id"], Role.ADMIN))["role"] == "admin"
        await access.members.change(admin, ws, other["user_id"], None)

    async def test_to_others_the_workspace_does_not_exist(self, access: Access, owner: Principal) -> None:
        stranger, ws = await elsewhere(access, owner), owner.workspace_id
        told = []
        for workspace in (ws, new_id("ws"), "ws_\ud800", "*"):
            for ask in (
                access.workspaces.get(stranger, workspace),
                access.workspaces.update(stranger, workspace, WorkspacePatch(name="Mine", plan="pro")),
                access.members.list(stranger, workspace, PageQuery()),
                access.members.get(stranger, workspace, owner.user_id),
                access.members.add(stranger, workspace, newcomer()),
                access.members.change(stranger, workspace, owner.user_id, Role.VIEWER),
                access.keys.create(stranger, order("admin", workspace_id=workspace)),
            ):
                with pytest.raises(NotFound) as caught:
                    await ask
                told.append(caught.value.body())
        assert told == [told[0]] * 28

    async def test_a_limited_key_manages_nothing(self, access: Access, owner: Principal) -> None:
        token = (await access.keys.create(owner, order("admin", agents=[new_id("agent")]))).token
        who = await access.authenticate(token)
        for ask in (
            access.members.list(who, who.workspace_id, PageQuery()),
            access.members.add(who, who.workspace_id, newcomer("owner")),
            access.workspaces.update(who, who.workspace_id, WorkspacePatch(name="Mine")),
        ):
            with pytest.raises(AuthorizationError):
                await ask


class TestChange:
    async def test_the_last_owner_stays(self, access: Access, owner: Principal) -> None:
        ws = owner.workspace_id
        for role in (Role.ADMIN, None):
            with pytest.raises(Conflict) as caught:
                await access.members.change(owner, ws, owner.user_id, role)
            assert caught.value.details == {"reason": "last_owner"}
        assert (await access.members.change(owner, ws, owner.user_id, Role.OWNER))["role"] == "owner"

    async def test_of_two_owners_who_go_at_once_one_stays(self, access: Access, owner: Principal) -> None:
        other, ws = await joined(access, owner, "owner", "admin"), owner.workspace_id
        going = [access.members.change(who, ws, who.user_id, None) for who in (owner, other)]
        done = await asyncio.gather(*going, return_exceptions=True)
        assert sum(isinstance(one, Conflict) for one in done) == 1

    async def test_one_who_is_removed_is_out_everywhere(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock
    ) -> None:
        member = await access.members.add(owner, owner.workspace_id, newcomer("developer"))
        token = (await access.keys.create(owner, order("agents:read", user_id=member["user_id"]))).token
        async with replica(store, clock) as other:
            await other.authenticate(token)
            await access.members.change(owner, owner.workspace_id, member["user_id"], None)
            error = await refused_soon(store, lambda: other.authenticate(token))
        assert (str(error), error.details) == ("Invalid or missing API key", {})
        with pytest.raises(NotFound):
            await access.members.get(owner, owner.workspace_id, member["user_id"])

    @pytest.mark.parametrize("command", ["ZADD", "ZREM"])
    async def test_one_who_is_added_while_being_removed_finds_the_workspace(
        self, access: Access, owner: Principal, store: Store, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        """The other way's steps fall between the two of adding, and of removing."""
        made = await access.members.add(owner, owner.workspace_id, newcomer())
        user, ws = StoredUser(made["user_id"], "Ada", ""), owner.workspace_id
        members, call = MemberStore(store), store.call

        async def add() -> None:
            assert await members.add(ws, user, "viewer", 9, None, "") == "ok"

        async def remove() -> None:
            assert await members.set_role(ws, user, "viewer", "", "") == "ok"

        async def between(*words: Any) -> Any:
            said = b"" if words[0] == "ZREM" else await call(*words)
            if words[0] == command:
                monkeypatch.undo()
                await (remove if command == "ZADD" else add)()
            return await call(*words) if words[0] == "ZREM" else said

        monkeypatch.setattr(store, "call", between)
        await (add if command == "ZADD" else remove)()
        assert await members.role(ws, user.id) == "viewer"
        assert await members.is_listed(ws, user.id)

    async def test_one_who_is_demoted_loses_rights_everywhere(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock
    ) -> None:
        who = await joined(access, owner, "developer", "agents:write", "agents:read")
        async with replica(store, clock) as other:
            assert (await other.principal(who.key_id)).may("agents:write")
            await access.members.change(owner, owner.workspace_id, who.user_id, Role.VIEWER)
            assert not (await access.principal(who.key_id)).may("agents:write")
            async with asyncio.timeout(1):
                while (await other.principal(who.key_id)).may("agents:write"):
                    await store.call("PING")
            assert (await other.principal(who.key_id)).may("agents:read")

    async def test_a_new_plan_counts_everywhere(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock
    ) -> None:
        patch = WorkspacePatch.model_validate({"plan": "pro", "limits": {"burst": 60}})
        async with replica(store, clock) as other:
            assert (await other.principal(owner.key_id)).plan == "enterprise"
            await access.workspaces.update(owner, owner.workspace_id, patch)
            async with asyncio.timeout(1):
                while (who := await other.principal(owner.key_id)).plan != "pro":
                    await store.call("PING")
            assert who.overrides == '{"burst":60}'

    async def test_without_word_of_it_a_second_is_the_bound(
        self, access: Access, owner: Principal, store: Store, clock: ManualClock
    ) -> None:
        who = await joined(access, owner, "developer", "agents:write")
        async with replica(store, clock) as other:
            await other.close()
            await other.principal(who.key_id)
            await access.members.change(owner, owner.workspace_id, who.user_id, None)
            clock.advance(999)
            with pytest.raises(CodexError):
                await other.principal(who.key_id)

    async def test_a_membership_that_was_cut_off_halfway_leads_nowhere(
        self, access: Access, owner: Principal, store: Store
    ) -> None:
        """The user's list names a workspace that does not know them: a crash between the two steps."""
        stranger = await elsewhere(access, owner)
        listed = keys.key("user_workspaces", stranger.user_id, id=stranger.user_id)
        await store.call("ZADD", listed, 0, owner.workspace_id)
        with pytest.raises(NotFound):
            await access.workspaces.get(stranger, owner.workspace_id)
        found = await access.workspaces.list(stranger, PageQuery())
        assert [workspace.id for workspace in found.items] == [stranger.workspace_id]


class TestWorkspaces:
    async def test_one_user_makes_only_so_many(
        self, access: Access, owner: Principal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many they ask for at once, and whether or not they leave those they made."""
        monkeypatch.setattr(workspaces, "MAX_WORKSPACES", 2)
        who = replace(await joined(access, owner, "admin", "admin"), delegated=False)
        making = (access.workspaces.create(who, WorkspaceCreate(name="Lab")) for _ in range(8))
        done = await asyncio.gather(*making, return_exceptions=True)
        made = [one for one in done if not isinstance(one, BaseException)]
        assert [one for one in done if isinstance(one, BaseException) and not isinstance(one, Conflict)] == []
        assert len(made) == 2
        await access.members.add(who, made[0].id, newcomer("owner"))
        await access.members.change(who, made[0].id, who.user_id, None)
        with pytest.raises(Conflict, match="at most 2"):
            await access.workspaces.create(who, WorkspaceCreate(name="Lab"))
        for _ in range(3):
            assert await access.workspaces.create(owner, WorkspaceCreate(name="Ours"))

    async def test_owners_and_admins_name_it(self, access: Access, owner: Principal) -> None:
        admin = await joined(access, owner, "admin", "admin")
        changed = await access.workspaces.update(admin, owner.workspace_id, WorkspacePatch(name="Ours"))
        assert (changed.name, changed.role) == ("Ours", "admin")

    @pytest.mark.parametrize("field", ["plan", "limits", "status"])
    async def test_the_rest_is_the_operators(self, access: Access, owner: Principal, field: str) -> None:
        other = await joined(access, owner, "owner", "admin")
        value = {"plan": "pro", "limits": {"burst": 1}, "status": "active"}[field]
        patch = WorkspacePatch.model_validate({"name": "Ours", field: value})
        with pytest.raises(AuthorizationError) as caught:
            await access.workspaces.update(other, owner.workspace_id, patch)
        assert caught.value.details == {"field": field}
        assert (await access.workspaces.get(owner, owner.workspace_id)).name == "Default"

    async def test_the_operator_sets_it_where_they_are_no_member(
        self, access: Access, owner: Principal
    ) -> None:
        stranger = await elsewhere(access, owner)
        await access.members.change(owner, stranger.workspace_id, owner.user_id, None)
        patch = WorkspacePatch.model_validate(
            {"plan": "pro", "limits": {"tokens_per_day": 10, "concurrent": None}}
        )
        changed = await access.workspaces.update(owner, stranger.workspace_id, patch)
        assert (changed.plan, changed.role) == ("pro", None)
        assert changed.limits == {
            "requests_per_hour": 10_000,
            "burst": 500,
            "concurrent": None,
            "tokens_per_day": 10,
            "ingest_mb_per_day": None,
        }
        with pytest.raises(AuthorizationError):
            await access.workspaces.update(owner, stranger.workspace_id, WorkspacePatch(name="Mine"))
        with pytest.raises(NotFound):
            await access.members.list(owner, stranger.workspace_id, PageQuery())

    async def test_a_small_key_of_the_operator_sees_no_others(self, access: Access, owner: Principal) -> None:
        stranger = await elsewhere(access, owner)
        await access.members.change(owner, stranger.workspace_id, owner.user_id, None)
        small = await access.authenticate((await access.keys.create(owner, order("agents:read"))).token)
        with pytest.raises(NotFound):
            await access.workspaces.get(small, stranger.workspace_id)

    @pytest.mark.parametrize(
        ("patch", "field"),
        [
            ({"plan": "gold"}, "plan"),
            ({"limits": {"requests_per_hour": None}}, "limits"),
            ({"limits": {"requests_per_hour": 3_600_000_001, "burst": 1}}, "limits.requests_per_hour"),
            ({"limits": {"concurrent": 1_000_001}}, "limits.concurrent"),
        ],
    )
    async def test_limits_that_do_not_fit(
        self, access: Access, owner: Principal, patch: dict[str, Any], field: str
    ) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="W", plan="free"))
        with pytest.raises(ValidationError) as caught:
            await access.workspaces.update(owner, other.id, WorkspacePatch.model_validate(patch))
        assert caught.value.details["field"] == field
        assert await access.workspaces.get(owner, other.id) == other

    async def test_limits_that_do_not_fit_a_new_plan(self, access: Access, owner: Principal) -> None:
        other = await access.workspaces.create(owner, WorkspaceCreate(name="W"))
        patch = WorkspacePatch.model_validate({"limits": {"burst": 60}})
        await access.workspaces.update(owner, other.id, patch)
        with pytest.raises(ValidationError):
            await access.workspaces.update(owner, other.id, WorkspacePatch(plan="enterprise"))
        both = WorkspacePatch.model_validate({"plan": "enterprise", "limits": None})
        changed = await access.workspaces.update(owner, other.id, both)
        assert (changed.plan, changed.limits["burst"]) == ("enterprise", None)

    @pytest.mark.parametrize(
        ("patch", "at"),
        [
            ({"name": None}, ("name",)),
            ({"plan": None}, ("plan",)),
            ({"status": None}, ("status",)),
            ({"status": "gone"}, ("status",)),
            ({"limits": {"burst": 0}}, ("limits", "burst")),
            ({"limits": {"burst": True}}, ("limits", "burst")),
            ({"limits": {"burst": 1.5}}, ("limits", "burst")),
            ({"limits": {"brust": 1}}, ("limits", "brust")),
            ({"limits": []}, ("limits",)),
            ({"owner": "me"}, ("owner",)),
            ({"created_at": 1}, ("created_at",)),
        ],
    )
    def test_bad_bodies(self, patch: dict[str, Any], at: tuple[str, ...]) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            WorkspacePatch.model_validate(patch)
        assert caught.value.errors()[0]["loc"] == at

    async def test_nobody_disables_the_workspace_they_ask_from(
        self, access: Access, owner: Principal
    ) -> None:
        with pytest.raises(Conflict):
            await access.workspaces.update(owner, owner.workspace_id, WorkspacePatch(status="disabled"))

    async def test_changes_made_at_once_are_all_kept(self, access: Access, owner: Principal) -> None:
        patches: list[dict[str, Any]] = [{"name": "New"}, {"plan": "pro"}, {"limits": {"concurrent": 7}}]
        ask = (
            access.workspaces.update(owner, owner.workspace_id, WorkspacePatch.model_validate(patch))
            for patch in patches
        )
        await asyncio.gather(*ask)
        found = await access.workspaces.get(owner, owner.workspace_id)
        assert (found.name, found.plan, found.limits["concurrent"]) == ("New", "pro", 7)
