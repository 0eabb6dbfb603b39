"""Changes to stored data, as a list of functions run once, in order, when a process starts.

The number of those that have run is kept under `layout`. Data that is newer than the code is refused.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable

from kernel.errors import CodexError
from kernel.storage import keys
from kernel.storage.store import Store


async def number_audit_entries(store: Store) -> None:
    """Entries from before the chain are taken to have been written in the order of their ids."""
    async for workspace_id in _workspaces_with("audit", store):
        await store.run("audit_number", workspace_id, workspace_id)


async def _workspaces_with(name: str, store: Store) -> AsyncIterator[str]:
    """Those that have this key; one may come twice."""
    pattern = re.compile(rf"{keys.LAYOUT}:{{s\d\d}}:{keys.SHARD_KEYS[name].format(ws='(ws_[0-9A-Z]+)')}")
    cursor = b"0"
    while True:
        cursor, found = await store.call("SCAN", cursor, "MATCH", f"{keys.LAYOUT}:*:{name}", "COUNT", 1000)
        for one in found:
            if match := pattern.fullmatch(one.decode()):
                yield match[1]
        if cursor == b"0":
            return


MIGRATIONS: tuple[Callable[[Store], Awaitable[None]], ...] = (number_audit_entries,)


class DataTooNew(CodexError):
    """The store was written by a later version of this program."""

    code, status = "UNAVAILABLE", 503


async def migrate(store: Store) -> int:
    """Brings the data up to this code's version and returns it. Raises DataTooNew."""
    name = keys.global_key("layout")
    done = int(await store.call("GET", name) or 0)
    if done > len(MIGRATIONS):
        raise DataTooNew(
            f"The data is at version {done}, this program knows {len(MIGRATIONS)}: install a newer one"
        )
    for number, step in enumerate(MIGRATIONS[done:], done + 1):
        await step(store)
        await store.call("SET", name, number)
    return len(MIGRATIONS)
