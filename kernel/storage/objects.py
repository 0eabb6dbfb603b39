"""Values too large for Redis, by path, in a folder or an object store (`s3://bucket/prefix`) through pyarrow."""

import asyncio
from pathlib import Path
from typing import Any

from kernel.errors import NotFound, Unavailable


class ObjectStore:
    """Paths are made by this program only, never by a caller."""

    def __init__(self, root: Path | str):
        self._root = root
        self._opened: tuple[Any, str] | None = None

    async def put(self, path: str, data: bytes) -> str:
        """Raises Unavailable when it cannot be written, on a full disk for one."""
        try:
            await asyncio.to_thread(self._put, path, data)
        except OSError as error:
            raise Unavailable("A large value cannot be stored", {"reason": "objects"}) from error
        return path

    async def get(self, path: str) -> bytes:
        """Raises NotFound."""
        return await asyncio.to_thread(self._get, path)

    async def delete_folder(self, path: str) -> None:
        await asyncio.to_thread(self._delete_folder, path)

    def _files(self) -> tuple[Any, str]:
        if self._opened is None:
            from pyarrow import fs

            if isinstance(self._root, Path):
                self._root.mkdir(parents=True, exist_ok=True)
            filesystem, base = fs.FileSystem.from_uri(
                self._root.resolve().as_uri() if isinstance(self._root, Path) else self._root
            )
            self._opened = filesystem, base
        return self._opened

    def _put(self, path: str, data: bytes) -> None:
        """Whole or not at all: written beside its place, then moved there."""
        filesystem, base = self._files()
        folder, _, name = f"{base}/{path}".rpartition("/")
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(f"{folder}/.{name}.part") as out:
            out.write(data)
        filesystem.move(f"{folder}/.{name}.part", f"{folder}/{name}")

    def _get(self, path: str) -> bytes:
        filesystem, base = self._files()
        try:
            with filesystem.open_input_file(f"{base}/{path}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise NotFound("The stored value is gone") from None

    def _delete_folder(self, path: str) -> None:
        filesystem, base = self._files()
        try:
            filesystem.delete_dir(f"{base}/{path}")
        except FileNotFoundError:
            return
