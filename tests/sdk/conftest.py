"""The Python SDK against the whole API, listening on loopback. Each test runs with `AsyncClient` and with `Client`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

import pytest
from fastapi import FastAPI

from codexos import AsyncClient, Client
from tests.api.conftest import app, http, kernel, key, listening, owner, runner, settings, stranger  # noqa: F401

DONE = object()


@pytest.fixture
async def base_url(app: FastAPI) -> AsyncGenerator[str]:  # noqa: F811
    async with listening(app) as address:
        yield f"http://{address}/v1"


class Pending:
    """A call of the sync client, to be awaited, entered or iterated over like one of the async client."""

    def __init__(self, call: Callable[[], Any]):
        self._call = call

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._done().__await__()

    async def _done(self) -> Any:
        return in_thread(await asyncio.to_thread(self._call))

    async def __aiter__(self) -> AsyncIterator[Any]:
        items = iter(await asyncio.to_thread(self._call))
        while (item := await asyncio.to_thread(next, items, DONE)) is not DONE:
            yield in_thread(item)

    async def __aenter__(self) -> Any:
        self._entered = await asyncio.to_thread(self._call)
        return in_thread(self._entered.__enter__())

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._entered.__exit__, None, None, None)


class InThread:
    """An object of the sync client with the manners of its async twin."""

    def __init__(self, target: Any):
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not callable(value) or is_ours(value):
            return in_thread(value)
        return lambda *args, **options: Pending(lambda: value(*args, **options))

    def with_options(self, **options: Any) -> "InThread":
        return InThread(self.target.with_options(**options))

    def __aiter__(self) -> AsyncIterator[Any]:
        return Pending(lambda: self.target).__aiter__()


def is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("codexos._sync")


def in_thread(value: Any) -> Any:
    return InThread(value) if is_ours(value) else value


@pytest.fixture(params=["async", "sync"])
async def connected(request: pytest.FixtureRequest) -> AsyncGenerator[Callable[..., Any]]:
    """Makes clients, with the same arguments as the classes take."""
    made: list[Any] = []

    def connect(**options: Any) -> Any:
        made.append(AsyncClient(**options) if request.param == "async" else InThread(Client(**options)))
        return made[-1]

    yield connect
    for client in made:
        await client.close()


@pytest.fixture
def client(connected: Callable[..., Any], base_url: str, key: str) -> Any:  # noqa: F811
    """With the owner's key."""
    return connected(base_url=base_url, api_key=key)
