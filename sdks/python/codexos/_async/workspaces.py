from __future__ import annotations

from codexos._async.paging import AsyncPages, listed
from codexos._async.transport import AsyncTransport
from codexos._call import Call, given, value_of
from codexos._listing import Listing
from codexos.types.access import Workspace


class AsyncWorkspaces:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    def list(self, *, page: int | None = None, limit: int | None = None) -> AsyncPages[Workspace]:
        """Those of the user behind the key."""
        call = Call("GET", "/workspaces", {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "workspaces", Workspace.read))

    async def create(self, *, name: str, plan: str | None = None) -> Workspace:
        body = given(name=name, plan=plan)
        return Workspace.read(value_of(await self._transport.send(Call("POST", "/workspaces", json=body))))
