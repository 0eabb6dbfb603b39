"""Members of workspaces and what they are there. By owners and admins; what concerns an owner, by owners alone."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from kernel.access.audit import LOCAL, Origin, Trail
from kernel.access.hold import Hold, any_state
from kernel.access.membership import Membership
from kernel.access.principal import Principal
from kernel.access.roles import Role
from kernel.clock import Clock
from kernel.errors import Conflict, NotFound, ValidationError
from kernel.ids import is_id
from kernel.paging import Page, PageQuery
from kernel.shape import Shape
from kernel.storage.access import id_in
from kernel.storage.keys import shard_of
from kernel.storage.members import Added, MemberStore, StoredUser
from kernel.text import Name

MAX_MEMBERS = 10_000
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+")


def _email(text: str) -> str:
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise ValueError("must be an address such as ada@example.com")
    return text


Email = Annotated[str, AfterValidator(_email)]
AnyRole = Annotated[Role, Field(strict=False)]


class MemberCreate(Shape):
    """`user_id`: a member of a workspace that the caller manages; without it a user is made, who has a name."""

    role: AnyRole
    user_id: str | None = None
    name: Name | None = None
    email: Email | None = None


class MemberPatch(Shape):
    role: AnyRole


@dataclass(frozen=True, slots=True)
class Member:
    user: StoredUser
    role: Role

    def shown(self) -> dict[str, Any]:
        email = self.user.email or None
        return {"user_id": self.user.id, "name": self.user.name, "email": email, "role": str(self.role)}


class Members:
    def __init__(
        self,
        store: MemberStore,
        membership: Membership,
        trail: Trail,
        clock: Clock,
        changed: Callable[[str], None],
    ):
        self._store, self._membership = store, membership
        self._trail, self._clock, self._changed = trail, clock, changed

    async def list(self, who: Principal, workspace_id: str, query: PageQuery) -> Page[dict[str, Any]]:
        """The newest users first. Raises NotFound, AuthorizationError."""
        (await self._role(who, workspace_id)).require_manager()
        roles = await self._store.all(workspace_id)
        ids = sorted(roles, reverse=True)
        left = [user for user in ids if query.before is None or user < query.before]
        wanted = left[query.offset : query.offset + query.limit]
        items = await asyncio.gather(*(self._member(user, roles[user]) for user in wanted))
        more = len(left) > query.offset + query.limit
        return Page([member.shown() for member in items], len(ids), wanted[-1] if wanted else None, more)

    async def get(self, who: Principal, workspace_id: str, user_id: str) -> dict[str, Any]:
        """Raises NotFound, AuthorizationError."""
        (await self._role(who, workspace_id)).require_manager()
        return (await self._find(workspace_id, user_id)).shown()

    async def add(
        self,
        who: Principal,
        workspace_id: str,
        order: MemberCreate,
        origin: Origin = LOCAL,
        *,
        created_before: str | None = None,
        idempotency_record: str = "",
    ) -> dict[str, Any]:
        """Raises NotFound, AuthorizationError, Conflict for a member or an address that is there already.

        created_before: the user that an earlier, lost try had added or meant to add.
        """
        own = await self._role(who, workspace_id)
        async with self._trail.watching(who, origin, "member.add", _known(order.user_id)):
            own.require_manager()
            own.require_over(order.role)
        user = await self._user(who, workspace_id, order, created_before)
        if created_before == user.id and await self._store.role(workspace_id, user.id) is not None:
            return Member(user, order.role).shown()
        audit = self._trail.text(who, origin, "member.add", user.id, {"role": order.role, "name": user.name})
        made_ms = self._clock.now_ms() if order.user_id is None else None
        said = await self._store.add(
            workspace_id, user, order.role, MAX_MEMBERS, made_ms, audit, idempotency_record
        )
        _check_added(said)
        self._changed(workspace_id)
        return Member(user, order.role).shown()

    async def change(
        self,
        who: Principal,
        workspace_id: str,
        user_id: str,
        role: Role | None,
        origin: Origin = LOCAL,
        hold: Hold = any_state,
    ) -> dict[str, Any]:
        """Gives them another role, or ends the membership (None): their keys follow within a second, everywhere.

        Returns the member as they are now, or were. Raises NotFound, AuthorizationError, Conflict for the last owner.
        """
        action = "member.remove" if role is None else "member.update"
        details = {} if role is None else {"role": role}
        audit = self._trail.text(who, origin, action, _known(user_id), details)
        while True:
            own = await self._role(who, workspace_id)
            async with self._trail.watching(who, origin, action, _known(user_id)):
                own.require_manager()
                member = await self._find(workspace_id, user_id)
                own.require_over(member.role)
                own.require_over(role)
            hold(member.shown())
            if role is member.role:
                return member.shown()
            said = await self._store.set_role(workspace_id, member.user, member.role, role or "", audit)
            if said == "last":
                raise Conflict("A workspace keeps at least one owner", {"reason": "last_owner"})
            if said == "ok":
                self._changed(workspace_id)
                return Member(member.user, role or member.role).shown()

    async def _role(self, who: Principal, workspace_id: str) -> Role:
        role = await self._membership.role(who, workspace_id)
        who.require_unlimited()
        return role

    async def _find(self, workspace_id: str, user_id: str) -> Member:
        role = await self._membership.of(workspace_id, user_id) if is_id("user", user_id) else None
        if role is None:
            raise NotFound("Member not found")
        return await self._member(user_id, role)

    async def _member(self, user_id: str, role: str) -> Member:
        user = await self._store.user(user_id)
        return Member(user or StoredUser(user_id, "", ""), Role(role))

    async def _user(
        self, who: Principal, workspace_id: str, order: MemberCreate, created_before: str | None
    ) -> StoredUser:
        """Who is added: somebody known, or one to be made, whose id falls in the workspace's shard."""
        if order.user_id is None:
            if order.name is None:
                raise ValidationError.at("name", "Required without user_id")
            name = created_before or id_in(shard_of(workspace_id), "user")
            return StoredUser(name, order.name, order.email or "")
        for field in ("name", "email"):
            if getattr(order, field) is not None:
                raise ValidationError.at(field, "Must not be given with user_id")
        user = await self._store.user(order.user_id) if await self._knows(who, order.user_id) else None
        if user is None:
            raise ValidationError.at("user_id", "must be a member of a workspace that you manage")
        return user

    async def _knows(self, who: Principal, user_id: str) -> bool:
        """Whether the caller manages a workspace of theirs, and so may see who they are.

        Looks at workspaces of the caller only, so it tells nothing of others.
        """
        if not is_id("user", user_id):
            return False
        where = [who.workspace_id] if who.bound else await self._store.workspace_ids(who.user_id)
        own, theirs = await asyncio.gather(*(self._store.roles(where, one) for one in (who.user_id, user_id)))
        return any(mine and Role(mine).manages and other for mine, other in zip(own, theirs, strict=True))


def _known(user_id: str | None) -> str:
    """What the audit log names of what a caller gave: an id, or nothing."""
    return user_id if user_id is not None and is_id("user", user_id) else ""


def _check_added(said: Added) -> None:
    match said:
        case "gone":
            raise NotFound("Workspace not found")
        case "member":
            raise Conflict("They are a member already", {"reason": "member"})
        case "email":
            raise Conflict("Another member has this email", {"reason": "email"})
        case "full":
            raise Conflict(f"A workspace has at most {MAX_MEMBERS} members", {"reason": "members"})
