"""What a caller's user is in a workspace, and whether they run the installation."""

from kernel.access.principal import Principal
from kernel.access.roles import Role, least
from kernel.errors import NotFound
from kernel.ids import is_id
from kernel.storage.access import AccessStore
from kernel.storage.members import MemberStore


class Membership:
    def __init__(self, keys: AccessStore, members: MemberStore):
        self._keys, self._members = keys, members

    async def role(self, who: Principal, workspace_id: str) -> Role:
        """Raises NotFound when they are no member or the key does not reach it: to them it does not exist.

        Nothing of a workspace is looked at before the user's own list names it. A key that somebody else made may be
        less there than its user.
        """
        role = await self.of(workspace_id, who.user_id) if await self._reaches(who, workspace_id) else None
        if role is None:
            raise NotFound("Workspace not found")
        return least((role, who.role)) if who.delegated else role

    async def of(self, workspace_id: str, user_id: str) -> Role | None:
        """None for no member."""
        role = await self._members.role(workspace_id, user_id)
        return None if role is None else Role(role)

    async def is_operator(self, who: Principal) -> bool:
        """Whether the owner of the installation asks, with a key that nobody else made."""
        return not who.bound and await self._keys.owner() == who.user_id

    async def _reaches(self, who: Principal, workspace_id: str) -> bool:
        if workspace_id == who.workspace_id:
            return True
        if who.bound or not is_id("ws", workspace_id):
            return False
        return await self._members.is_listed(workspace_id, who.user_id)
