"""Whatever is done to an audit log behind the platform's back shows when the chain is walked."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kernel.access.access import Access
from kernel.access.audit import LOCAL
from kernel.access.chain import Chain
from kernel.access.principal import Principal
from kernel.storage import keys
from kernel.storage.audit import AuditStore
from kernel.storage.migrations import number_audit_entries
from kernel.storage.objects import ObjectStore
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
def chain(store: Store, tmp_path: Path) -> Chain:
    return Chain(AuditStore(store), ObjectStore(tmp_path), b"p" * 32)


@pytest.fixture
async def ws(access: Access, owner: Principal, chain: Chain) -> str:
    """A workspace with 20 sealed entries beside those of its making."""
    for number in range(20):
        await access.trail.note(owner, LOCAL, "test.act", f"thing_{number}")
    await chain.round()
    return owner.workspace_id


async def entries(store: Store, ws: str) -> list[bytes]:
    found: list[bytes] = await store.call("ZRANGE", keys.key("audit", ws), 0, -1)
    return found


async def test_untouched_it_is_whole(
    chain: Chain, ws: str, access: Access, owner: Principal, store: Store
) -> None:
    verdict = await chain.verify(ws)
    assert (verdict.sealed, verdict.waiting, verdict.whole) == (len(await entries(store, ws)), 0, True)
    await access.trail.note(owner, LOCAL, "test.act", "one more")
    assert (await chain.verify(ws)).waiting == 1
    await chain.round()
    assert (await chain.verify(ws)).sealed == verdict.sealed + 1
    assert await store.call("SMEMBERS", keys.key("audit_open", ws)) == []


async def test_entries_of_one_moment_keep_their_order(chain: Chain, access: Access, owner: Principal) -> None:
    """Ids of one millisecond, or of two clocks, sort in any way: the chain goes by the order of writing."""
    for at in range(3):
        for number in range(30):
            await access.trail.note(owner, LOCAL, "test.act", f"{at}.{number}")
        await chain.round()
    assert (await chain.verify(owner.workspace_id)).whole


async def test_a_changed_entry(chain: Chain, ws: str, store: Store) -> None:
    text = (await entries(store, ws))[7]
    await store.call("ZREM", keys.key("audit", ws), text)
    await store.call("ZADD", keys.key("audit", ws), 0, text.replace(b'"ok"', b'"no"'))
    verdict = await chain.verify(ws)
    assert not verdict.whole
    assert text.split()[0].decode() in verdict.broken
    assert "is not what was sealed" in verdict.broken


async def test_a_missing_entry(chain: Chain, ws: str, store: Store) -> None:
    await store.call("ZREM", keys.key("audit", ws), (await entries(store, ws))[7])
    assert "is missing" in (await chain.verify(ws)).broken


async def test_an_entry_slipped_in(chain: Chain, ws: str, store: Store) -> None:
    text = (await entries(store, ws))[7]
    await store.call("ZADD", keys.key("audit", ws), 0, text.replace(b"evt_", b"evt_0", 1))
    assert not (await chain.verify(ws)).whole
    twin = text.split()[0] + b' {"forged": true}'
    await store.call("ZADD", keys.key("audit", ws), 0, twin)
    assert "is not what was sealed" in (await chain.verify(ws)).broken


async def test_an_end_cut_off(chain: Chain, ws: str, store: Store) -> None:
    """All three stores are cut alike; only the file beside tells."""
    for text in (await entries(store, ws))[-5:]:
        await store.call("ZREM", keys.key("audit", ws), text)
    ids = await store.call("LRANGE", keys.key("audit_order", ws), 0, -1)
    left = {text.split()[0] for text in await entries(store, ws)}
    kept = [one for one in ids if one in left]
    assert ids[: len(kept)] == kept, "the last written have the last ids here"
    for name in ("audit_order", "audit_chain"):
        await store.call("LTRIM", keys.key(name, ws), 0, len(kept) - 1)
    assert "had been sealed, and only" in (await chain.verify(ws)).broken


async def test_a_chain_made_anew_with_another_key(
    chain: Chain, ws: str, store: Store, tmp_path: Path
) -> None:
    await store.call("DEL", keys.key("audit_chain", ws))
    await store.call("SADD", keys.key("audit_open", ws), ws)
    forger = Chain(AuditStore(store), ObjectStore(tmp_path / "elsewhere"), b"x" * 32)
    await forger.round()
    assert (await forger.verify(ws)).whole
    assert not (await chain.verify(ws)).whole


async def test_two_who_seal_at_once(
    chain: Chain, ws: str, store: Store, access: Access, owner: Principal
) -> None:
    await access.trail.note(owner, LOCAL, "test.act", "one more")
    number, _ = await AuditStore(store).sealed(ws)
    assert await AuditStore(store).seal(ws, number, [bytes(32)])
    assert not await AuditStore(store).seal(ws, number, [bytes(32)])


async def test_a_log_from_before_the_chain(ws: str, store: Store, tmp_path: Path) -> None:
    for name in ("audit_order", "audit_chain", "audit_open"):
        await store.call("DEL", keys.key(name, ws))
    await number_audit_entries(store)
    await number_audit_entries(store)
    chain = Chain(AuditStore(store), ObjectStore(tmp_path / "new"), b"p" * 32)
    await chain.round()
    verdict = await chain.verify(ws)
    assert (verdict.sealed, verdict.whole) == (len(await entries(store, ws)), True)


async def test_the_supervisor_does_not_seal_what_was_forged(chain: Chain, ws: str, store: Store) -> None:
    """An entry is replaced and the chain cut off before it, so that all after it waits to be sealed again."""
    text = (await entries(store, ws))[7]
    await store.call("ZREM", keys.key("audit", ws), text)
    await store.call("ZADD", keys.key("audit", ws), 0, text.replace(b'"ok"', b'"no"'))
    for left in (7, 0):
        await store.call("LTRIM", keys.key("audit_chain", ws), 0, left - 1)
        if not left:
            await store.call("DEL", keys.key("audit_chain", ws))
        await store.call("SADD", keys.key("audit_open", ws), ws)
        with capture_logs() as logs:
            await chain.round()
        assert [one["event"] for one in logs] == ["audit log is not what was sealed"]
        assert not (await chain.verify(ws)).whole


async def test_a_workspace_that_the_store_forgot(chain: Chain, ws: str, store: Store) -> None:
    for name in ("audit", "audit_order", "audit_chain"):
        await store.call("DEL", keys.key(name, ws))
    assert await chain.known() == [ws]
    assert not (await chain.verify(ws)).whole


async def test_an_entry_before_the_migration_came(chain: Chain, ws: str, store: Store) -> None:
    newest = (await entries(store, ws))[-1].split()[0]
    await store.call("DEL", keys.key("audit_chain", ws), keys.key("audit_order", ws))
    await store.call("RPUSH", keys.key("audit_order", ws), newest)
    await number_audit_entries(store)
    order = await store.call("LRANGE", keys.key("audit_order", ws), 0, -1)
    assert order == [text.split()[0] for text in await entries(store, ws)]
