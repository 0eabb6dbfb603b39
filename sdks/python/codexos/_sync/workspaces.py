from __future__ import annotations

from codexos._call import Call, given, value_of
from codexos._listing import Listing
from codexos._sync.paging import Page, listed
from codexos._sync.transport import Transport
from codexos.types.access import Workspace


class Workspaces:
    def __init__(self, transport: Transport):
        self._transport = transport

    def list(self, *, page: int | None = None, limit: int | None = None) -> Page[Workspace]:
        """Those of the user behind the key."""
        call = Call("GET", "/workspaces", {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "workspaces", Workspace.read))

    def create(self, *, name: str, plan: str | None = None) -> Workspace:
        body = given(name=name, plan=plan)
        return Workspace.read(value_of(self._transport.send(Call("POST", "/workspaces", json=body))))
