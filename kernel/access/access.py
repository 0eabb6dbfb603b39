"""Who may do what: the parts of access behind one name, and how an installation gets its first key."""

import asyncio
from typing import Any

from kernel.access.audit import AuditEntry, Trail
from kernel.access.authentication import Authentication
from kernel.access.keys import ApiKeys
from kernel.access.members import Members
from kernel.access.membership import Membership
from kernel.access.principal import Principal
from kernel.access.record import ApiKey
from kernel.access.scopes import Scope
from kernel.access.workspaces import Plans, Workspaces
from kernel.clock import Clock
from kernel.errors import NotFound
from kernel.storage.access import OWNERS_SHARD, AccessStore, id_in
from kernel.storage.audit import AuditStore
from kernel.storage.keys import channel, shard_of
from kernel.storage.members import MemberStore
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions
from kernel.storage.workspaces import WorkspaceStore

OPERATORS_PLAN = "enterprise"


class Access:
    """`open()` begins to listen for revocations; without it they still count within a second.

    pepper: from `secret.read_pepper`. plans: the kernel's `metering.plans`.
    """

    def __init__(self, store: Store, subscriptions: Subscriptions, clock: Clock, pepper: bytes, plans: Plans):
        self._subscriptions, self._clock = subscriptions, clock
        self._store, self._users = AccessStore(store), MemberStore(store)
        self._workspaces = WorkspaceStore(store)
        self._authentication = Authentication(self._store, clock, pepper)
        self.authenticate = self._authentication.authenticate
        self.principal = self._authentication.principal
        changed = self._authentication.forget
        membership = Membership(self._store, self._users)
        self.trail = Trail(AuditStore(store), clock)
        self.keys = ApiKeys(self._store, membership, self.trail, clock, pepper, changed)
        self.members = Members(self._users, membership, self.trail, clock, changed)
        self.workspaces = Workspaces(
            self._workspaces, self._users, membership, self.trail, clock, plans, changed
        )

    async def open(self) -> None:
        """Raises Unavailable when the store is away."""
        await self._subscriptions.listen(channel("revoked"), self._changed)

    async def close(self) -> None:
        self._subscriptions.unlisten(channel("revoked"), self._changed)
        await self._authentication.close()

    async def bootstrap(self, environment: str = "dev") -> str | None:
        """The key of the first owner, made with their workspace; None when there is an owner already."""
        user, workspace = id_in(OWNERS_SHARD, "user"), id_in(OWNERS_SHARD, "ws")
        key = self._owner_key(user, workspace, environment)
        issued, new = self.keys.draft(key)
        named = (workspace, "Default", OPERATORS_PLAN)
        audit = self._made_here(key, "workspace.create", workspace)
        made = await self._store.bootstrap((user, "Owner"), named, key.created_at, new, audit)
        return issued.token if made else None

    async def issue_owner_key(self, environment: str = "dev") -> str:
        """Another key of the installation's owner, who lost theirs. Raises NotFound before bootstrap."""
        user = await self._store.owner()
        if user is None:
            raise NotFound("This installation has no owner yet")
        listed = await self._users.workspace_ids(user)
        roles = await self._users.roles(listed, user)
        own = [workspace for workspace, role in zip(listed, roles, strict=True) if role]
        if not own:
            raise NotFound("The owner of this installation is a member of no workspace any more")
        key = self._owner_key(user, own[0], environment)
        return (await self.keys.store(key, self._made_here(key, "key.create", key.id))).token

    async def me(self, who: Principal) -> dict[str, Any]:
        """`scopes` are those that count: the key's, as far as the role allows them."""
        user, workspace = await asyncio.gather(
            self._users.user(who.user_id), self._workspaces.read(who.workspace_id)
        )
        if user is None or workspace is None:
            raise NotFound("User or workspace not found")
        return {
            "user": {"id": user.id, "name": user.name, "role": str(who.role)},
            "workspace": {"id": workspace.id, "name": workspace.name, "plan": workspace.plan},
            "key": {"id": who.key_id, "scopes": sorted(who.scopes)},
        }

    def _changed(self, changed_id: bytes | None) -> None:
        """None: word of some changes may have been missed."""
        if changed_id is None:
            self._authentication.forget_all()
        else:
            self._authentication.forget(changed_id.decode())

    def _owner_key(self, user: str, workspace: str, environment: str) -> ApiKey:
        return ApiKey(
            id=id_in(shard_of(workspace), "key"),
            workspace_id=workspace,
            user_id=user,
            environment=environment,
            name="Owner",
            scopes=[Scope.ADMIN],
            created_at=self._clock.now_ms(),
        )

    def _made_here(self, key: ApiKey, action: str, target: str) -> str:
        """The audit entry of what is done on the machine itself, without a request."""
        return AuditEntry(
            at=key.created_at,
            user_id=key.user_id,
            key_id=key.id,
            action=action,
            target=target,
            outcome="ok",
            request_id="",
            address="",
            details={"by": "the installation's own command"},
        ).text()
