"""Changes to stored data, as a list of functions run once, in order, when a process starts.

The number of those that have run is kept under `layout`. Data that is newer than the code is refused.
"""

from collections.abc import Awaitable, Callable

from kernel.errors import CodexError
from kernel.storage import keys
from kernel.storage.store import Store

MIGRATIONS: tuple[Callable[[Store], Awaitable[None]], ...] = ()


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
