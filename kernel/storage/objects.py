"""Values too large for Redis, by path, in a folder or an object store (`s3://bucket/prefix`) through pyarrow."""

import asyncio
from collections.abc import AsyncIterator
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

    async def put_stream(self, path: str, parts: AsyncIterator[bytes]) -> None:
        """As it arrives, never whole in memory. Raises Unavailable, and what `parts` raises: nothing is left then."""
        folder, _, name = path.rpartition("/")
        unfinished = f"{folder}/.{name}.part"
        finished = False
        try:
            out = await asyncio.to_thread(self._begin, folder, unfinished)
            try:
                async for part in parts:
                    await asyncio.to_thread(out.write, part)
            finally:
                await asyncio.to_thread(out.close)
            await asyncio.to_thread(self._move, unfinished, path)
            finished = True
        except OSError as error:
            raise Unavailable("A file cannot be stored", {"reason": "objects"}) from error
        finally:
            if not finished:
                await asyncio.to_thread(self._delete, unfinished)

    async def get(self, path: str) -> bytes:
        """Raises NotFound."""
        return await asyncio.to_thread(self._get, path)

    async def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, what is half written included; of one that is not there, none."""
        found = await asyncio.to_thread(self._found, folder, False)
        return [file.base_name for file in found]

    async def delete(self, path: str) -> None:
        """Of a file that is not there, nothing."""
        await asyncio.to_thread(self._delete, path)

    async def delete_folder(self, path: str) -> None:
        await asyncio.to_thread(self._delete_folder, path)

    async def size_of_folder(self, path: str) -> int:
        """Bytes of all files in it and below."""
        return sum(file.size for file in await asyncio.to_thread(self._found, path, True))

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

    def _begin(self, folder: str, path: str) -> Any:
        filesystem, base = self._files()
        filesystem.create_dir(f"{base}/{folder}", recursive=True)
        return filesystem.open_output_stream(f"{base}/{path}")

    def _move(self, path: str, there: str) -> None:
        filesystem, base = self._files()
        filesystem.move(f"{base}/{path}", f"{base}/{there}")

    def _get(self, path: str) -> bytes:
        filesystem, base = self._files()
        try:
            with filesystem.open_input_file(f"{base}/{path}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise NotFound("The stored value is gone") from None

    def _found(self, folder: str, below: bool) -> list[Any]:
        from pyarrow import fs

        filesystem, base = self._files()
        selector = fs.FileSelector(f"{base}/{folder}", allow_not_found=True, recursive=below)
        return [file for file in filesystem.get_file_info(selector) if file.is_file]

    def _delete(self, path: str) -> None:
        filesystem, base = self._files()
        try:
            filesystem.delete_file(f"{base}/{path}")
        except FileNotFoundError:
            return

    def _delete_folder(self, path: str) -> None:
        filesystem, base = self._files()
        try:
            filesystem.delete_dir(f"{base}/{path}")
        except FileNotFoundError:
            return
