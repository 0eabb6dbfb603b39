"""Access as one replica has it, for tests without HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kernel.access.access import Access
from kernel.access.members import MemberCreate
from kernel.access.principal import Principal
from kernel.access.record import KeyCreate
from kernel.clock import ManualClock
from kernel.errors import AuthenticationError, CodexError
from kernel.metering.plans import FILE, Plans
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions

PEPPER = b"p" * 32


@asynccontextmanager
async def replica(store: Store, clock: ManualClock, pepper: bytes = PEPPER) -> AsyncGenerator[Access]:
    subscriptions = Subscriptions(store)
    access = Access(store, subscriptions, clock, pepper, Plans(FILE, clock))
    await access.open()
    try:
        yield access
    finally:
        await access.close()
        await subscriptions.close()


def order(*scopes: str, **more: Any) -> KeyCreate:
    return KeyCreate.model_validate({"name": "CI", "scopes": list(scopes)} | more)


async def refused(access: Access, token: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        await access.authenticate(token)
    assert str(caught.value) == "Invalid or missing API key"
    assert caught.value.details == {}


async def refused_soon(store: Store, ask: Callable[[], Awaitable[Any]]) -> CodexError:
    """Asks until it is refused; each try gives the server one more turn to pass its word on."""
    async with asyncio.timeout(1):
        while True:
            try:
                await ask()
            except AuthenticationError as error:
                return error
            await store.call("PING")


async def joined(access: Access, who: Principal, role: str, *scopes: str, **more: Any) -> Principal:
    """A new member of the caller's workspace, as a key that was made for them sees it."""
    member = await access.members.add(
        who, who.workspace_id, MemberCreate.model_validate({"name": "New", "role": role})
    )
    issued = await access.keys.create(who, order(*scopes, user_id=member["user_id"], **more))
    return await access.authenticate(issued.token)
