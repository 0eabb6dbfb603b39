from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.platform import Platform


@pytest.fixture
async def api(platform: Platform) -> AsyncGenerator[httpx2.AsyncClient]:
    async with platform.client() as client:
        yield client
