"""What several tests share: one replica's access, the owner of the installation, and collections on real stores."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kernel.access.access import Access
from kernel.access.principal import Principal
from kernel.clock import ManualClock
from kernel.storage.store import Store
from kernel.storage.vectors import VectorStore
from tests.access import replica
from tests.knowledge import Library


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


@pytest.fixture
async def vectors(milvus_url: str) -> AsyncGenerator[VectorStore]:
    vectors = VectorStore(milvus_url)
    yield vectors
    await vectors.aclose()


@pytest.fixture
def library(store: Store, vectors: VectorStore, clock: ManualClock, tmp_path: Path) -> Library:
    return Library(store, vectors, clock, tmp_path)
