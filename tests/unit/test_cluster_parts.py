"""The real Valkey and the real Milvus Lite, started the way the platform starts them."""

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cluster.environment import child_environment, store_url
from cluster.failure import Refused
from cluster.layout import Home
from cluster.parts.contract import Site
from cluster.parts.milvus import Milvus
from cluster.parts.valkey import Valkey, damaged_file
from cluster.ports import choose
from cluster.processes import alive
from cluster.state import PartRecord, PartState
from configs.settings import Settings
from kernel.storage.store import opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path: Path) -> Site:
    home, settings = Home(tmp_path), Settings()
    home.prepare()
    home.sockets.rmdir()
    ports = choose(settings.port, None)
    return Site(home, settings, ports, child_environment(home, settings, ports))


@pytest.fixture
async def valkey(site: Site) -> AsyncGenerator[Valkey]:
    valkey = Valkey(site)
    yield valkey
    await valkey.stop()


async def test_a_killed_store_has_every_acknowledged_write(site: Site, valkey: Valkey) -> None:
    await valkey.start()
    async with opened(store_url(site.home, site.ports), "test") as store:
        await store.call("SET", "key", "value")
    assert valkey.process
    os.kill(valkey.process.pid, signal.SIGKILL)
    await valkey.died()
    assert valkey.record() == PartRecord()
    await valkey.start()
    async with opened(store_url(site.home, site.ports), "test") as store:
        assert await store.call("GET", "key") in ("value", b"value")


async def test_the_store_is_configured_to_lose_nothing(site: Site, valkey: Valkey) -> None:
    await valkey.start()
    configuration = (site.home.run / "valkey.conf").read_text().splitlines()
    assert {"appendonly yes", "appendfsync always", "no-appendfsync-on-rewrite no", 'save ""'} <= set(
        configuration
    )
    assert {"maxmemory-policy noeviction", "bind 127.0.0.1"} <= set(configuration)


async def test_a_running_store_is_adopted_and_a_dead_one_is_not(site: Site, valkey: Valkey) -> None:
    await valkey.start()
    later = Valkey(site)
    assert await later.adopt(valkey.record())
    assert later.process == valkey.process
    await later.stop()
    assert valkey.process
    assert not alive(valkey.process)
    assert not await Valkey(site).adopt(PartRecord(processes={"valkey": valkey.process}))


async def test_a_damaged_file_is_named_with_what_to_do(site: Site, valkey: Valkey) -> None:
    await valkey.start()
    async with opened(store_url(site.home, site.ports), "test") as store:
        for number in range(20):
            await store.call("SET", f"key{number}", "value")
    await valkey.stop()
    (file,) = (site.home.valkey / "appendonlydir").glob("*.incr.aof")
    sound = file.read_bytes()
    half = len(sound) // 2
    file.write_bytes(sound[:half] + b"\xff\xfeJUNKJUNK" + sound[half:])
    with pytest.raises(Refused) as refused:
        await valkey.start()
    assert str(file) in refused.value.problem
    assert f"valkey-check-aof --fix {file}" in refused.value.remedy
    assert file.read_bytes() != sound


async def test_milvus_starts_and_stops(site: Site) -> None:
    milvus = Milvus(site)
    assert str(site.ports.milvus) in await milvus.start()
    assert milvus.record().state == PartState.RUNNING
    await milvus.stop()
    assert milvus.record() == PartRecord()
    assert (site.home.milvus / "milvus.db").exists()


async def test_children_get_no_word_of_another_ray_cluster(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "stray")
    environment = child_environment(site.home, site.settings, site.ports)
    assert "RAY_ADDRESS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(site.home.ray_token)


async def test_the_damaged_file_is_the_one_named_last() -> None:
    assert damaged_file("loading a.base.rdb\nBad file format b.1.incr.aof: make a backup") == "b.1.incr.aof"
    assert damaged_file("nothing is named") is None
