"""Who may do what: the parts of access behind one name, and how an installation gets its first key."""

import asyncio
from collections.abc import Collection
from typing import Any

from kernel.access.authentication import Authentication
from kernel.access.keys import ApiKeys
from kernel.access.principal import Principal
from kernel.access.record import ApiKey
from kernel.access.scopes import Scope
from kernel.access.workspaces import Workspaces
from kernel.clock import Clock
from kernel.errors import NotFound
from kernel.storage.access import OWNERS_SHARD, AccessStore, id_in
from kernel.storage.keys import channel, shard_of
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions

OPERATORS_PLAN = "enterprise"


class Access:
    """`open()` begins to listen for revocations; without it they still count within a second.

    pepper: from `secret.read_pepper`. plans: the names of those there are.
    """

    def __init__(
        self, store: Store, subscriptions: Subscriptions, clock: Clock, pepper: bytes, plans: Collection[str]
    ):
        self._subscriptions = subscriptions
        self._store, self._clock = AccessStore(store), clock
        self._authentication = Authentication(self._store, clock, pepper)
        self.authenticate = self._authentication.authenticate
        self.principal = self._authentication.principal
        self.keys = ApiKeys(self._store, clock, pepper, self._authentication.forget)
        self.workspaces = Workspaces(self._store, clock, plans, self._authentication.forget)

    async def open(self) -> None:
        """Raises Unavailable when the store is away."""
        await self._subscriptions.listen(channel("revoked"), self._changed)

    async def close(self) -> None:
        self._subscriptions.unlisten(channel("revoked"), self._changed)
        await self._authentication.close()

    async def bootstrap(self, environment: str = "dev") -> str | None:
        """The key of the first owner, made with their workspace; None when there is an owner already."""
        user, workspace = id_in(OWNERS_SHARD, "user"), id_in(OWNERS_SHARD, "ws")
        now = self._clock.now_ms()
        issued, new = self.keys.draft(self._owner_key(user, workspace, environment))
        made = await self._store.bootstrap((user, "Owner"), (workspace, "Default", OPERATORS_PLAN), now, new)
        return issued.token if made else None

    async def issue_owner_key(self, environment: str = "dev") -> str:
        """Another key of the installation's owner, who lost theirs. Raises NotFound before bootstrap."""
        user = await self._store.owner()
        workspaces = await self._store.workspace_ids(user) if user else []
        if user is None or not workspaces:
            raise NotFound("This installation has no owner yet")
        return (await self.keys.store(self._owner_key(user, workspaces[0], environment))).token

    async def me(self, who: Principal) -> dict[str, Any]:
        name, workspace = await asyncio.gather(
            self._store.user_name(who.user_id), self.workspaces.get(who.workspace_id)
        )
        return {
            "user": {"id": who.user_id, "name": name},
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
