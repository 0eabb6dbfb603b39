"""Values in a folder, by path."""

from pathlib import Path

import pytest

from kernel.errors import NotFound
from kernel.storage.objects import ObjectStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


async def test_what_is_put_can_be_read_until_it_is_deleted(objects: ObjectStore) -> None:
    await objects.put("a/b", b"12")
    assert await objects.get("a/b") == b"12"
    await objects.delete("a/b")
    await objects.delete("a/b")
    with pytest.raises(NotFound):
        await objects.get("a/b")


async def test_names_and_sizes_of_a_folder(objects: ObjectStore) -> None:
    for path, size in (("a/one", 1), ("a/two", 2), ("a/deep/er", 4), ("ab/no", 8)):
        await objects.put(path, b"x" * size)
    assert sorted(await objects.names("a")) == ["one", "two"]
    assert await objects.size_of_folder("a") == 7
    assert await objects.names("nowhere") == []
    assert await objects.size_of_folder("nowhere") == 0
