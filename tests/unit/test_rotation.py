"""Everything comes under the new key-encryption key while it is read, written and deleted."""

import asyncio
from pathlib import Path

import orjson
import pytest

from kernel.ids import new_id
from kernel.sealing import Envelope
from kernel.storage import keys
from kernel.storage.sealed import SealedStore
from kernel.storage.store import Store
from kernel.vault.custody import FileKeys, Ring
from kernel.vault.rotation import Progress, Rotation

pytestmark = pytest.mark.anyio

KINDS = {"cred": "credential", "wh": "webhook"}


class Shelf:
    def __init__(self, store: Store, folder: Path):
        self.store, self.keys = store, FileKeys(folder / "kek.json").make()
        self.envelope = Envelope(self.keys)
        self.rotation = Rotation(SealedStore(store), self.envelope)
        self.told: list[Progress] = []

    async def put(self, kind: str, ws: str, one: str, version: int = 1) -> None:
        bound = (ws, one, str(version) if kind == "cred" else "secret")
        sealed = await self.envelope.seal(orjson.dumps(one), *bound)
        name = keys.key(KINDS[kind], ws, id=one)
        await self.store.call("HSET", name, "sealed", sealed, "version", version)
        await self.store.call("SADD", keys.key("sealed", ws), f"{ws} {kind} {one}")

    async def read(self, kind: str, ws: str, one: str) -> bytes:
        sealed, version = await self.store.call(
            "HMGET", keys.key(KINDS[kind], ws, id=one), "sealed", "version"
        )
        bound = (ws, one, version.decode() if kind == "cred" else "secret")
        return await self.envelope.open(sealed, *bound)

    async def fill(self, count: int) -> list[tuple[str, str, str]]:
        made = [("wh" if at % 5 == 0 else "cred", new_id("ws"), new_id("cred")) for at in range(count)]
        await asyncio.gather(*(self.put(*one) for one in made))
        return made


@pytest.fixture
def shelf(store: Store, tmp_path: Path) -> Shelf:
    return Shelf(store, tmp_path)


async def test_all_of_it_while_everybody_reads_and_some_write(shelf: Shelf) -> None:
    made = await shelf.fill(300)
    old = await shelf.keys.current()
    shelf.keys.change(Ring.with_new)
    done = asyncio.Event()

    async def reads() -> int:
        count = 0
        while not done.is_set():
            for one in made[count % 7 :: 7]:
                assert await shelf.read(*one) == orjson.dumps(one[2])
                count += 1
        return count

    async def writes() -> None:
        for _, ws, one in made[1:200:5]:
            await shelf.put("cred", ws, one, 2)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(reads()) for _ in range(3)]
    writer = asyncio.create_task(writes())
    last = await shelf.rotation.run(shelf.told.append)
    await writer
    done.set()
    assert sum(await asyncio.gather(*readers)) > 100
    assert (last.moved, last.damaged, last.total) == (0, 0, 300)
    assert max(one.moved for one in shelf.told) > 200
    assert set(await shelf.rotation.counts()) == {await shelf.keys.current()} != {old}
    shelf.keys.change(lambda ring: ring.without({old}))
    for one in made:
        assert await shelf.read(*one) == orjson.dumps(one[2])


async def test_what_does_not_open_is_counted_and_left(shelf: Shelf) -> None:
    (kind, ws, one), *_ = await shelf.fill(3)
    name = keys.key(KINDS[kind], ws, id=one)
    sealed = await shelf.store.call("HGET", name, "sealed")
    await shelf.store.call("HSET", name, "sealed", sealed[:-20])
    shelf.keys.change(Ring.with_new)
    done = await shelf.rotation.run(shelf.told.append)
    assert (done.damaged, done.moved) == (1, 0)
    assert await shelf.store.call("HGET", name, "sealed") == sealed[:-20]


async def test_what_is_gone_is_no_trouble(shelf: Shelf) -> None:
    (kind, ws, one), *_ = await shelf.fill(3)
    await shelf.store.call("DEL", keys.key(KINDS[kind], ws, id=one))
    shelf.keys.change(Ring.with_new)
    assert (await shelf.rotation.run(shelf.told.append)).looked == 2
