"""What tests of access share: one replica's, and the owner of the installation."""

from collections.abc import AsyncGenerator

import pytest

from kernel.access.access import Access
from kernel.access.principal import Principal
from kernel.clock import ManualClock
from kernel.storage.store import Store
from tests.access import replica


@pytest.fixture
async def access(store: Store, clock: ManualClock) -> AsyncGenerator[Access]:
    async with replica(store, clock) as access:
        yield access


@pytest.fixture
async def owner_key(access: Access) -> str:
    key = await access.bootstrap()
    assert key is not None
    return key


@pytest.fixture
async def owner(access: Access, owner_key: str) -> Principal:
    return await access.authenticate(owner_key)
