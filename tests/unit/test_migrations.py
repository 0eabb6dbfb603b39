import pytest

from kernel.storage import keys, migrations
from kernel.storage.migrations import DataTooNew, migrate
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio


async def test_each_step_runs_once_and_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    async def first(store: Store) -> None:
        ran.append("first")

    async def second(store: Store) -> None:
        ran.append("second")

    monkeypatch.setattr(migrations, "MIGRATIONS", (first,))
    assert await migrate(store) == 1
    monkeypatch.setattr(migrations, "MIGRATIONS", (first, second))
    assert await migrate(store) == 2
    assert await migrate(store) == 2
    assert ran == ["first", "second"]


async def test_data_of_a_later_version_is_refused(store: Store) -> None:
    await store.call("SET", keys.global_key("layout"), 99)
    with pytest.raises(DataTooNew, match="install a newer one"):
        await migrate(store)
