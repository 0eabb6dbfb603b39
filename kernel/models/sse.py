"""Reads server-sent events off a wire that may send anything, within bounds of size and silence."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

MAX_BYTES = 10_000_000
BOM = b"\xef\xbb\xbf"


class TooLarge(Exception):
    """The stream passed its bound."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: from the request to the first byte of the answer's body, then between bytes."""

    first_byte_s: float = 60.0
    idle_s: float = 30.0


async def within(chunks: AsyncIterator[bytes], deadline: float, idle_s: float) -> AsyncGenerator[bytes]:
    """The chunks. Raises TimeoutError: none by `deadline` (loop time), or none for `idle_s` after another."""
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        yield chunk
        deadline = asyncio.get_running_loop().time() + idle_s


class EventReader:
    """Takes bytes in any pieces and gives the data of each event they complete; comments are passed over.

    One byte order mark at the very start is legal and dropped. What the stream's end cuts off is no event.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._max_bytes = max_bytes
        self._total = 0
        self._mark = BOM
        self._pending: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises TooLarge once all chunks together pass the bound."""
        self._total += len(chunk)
        if self._total > self._max_bytes:
            raise TooLarge
        self._pending.append(chunk)
        if b"\n" not in chunk:
            return []
        *lines, rest = b"".join(self._pending).split(b"\n")
        self._pending = [rest]
        return [event for line in lines if (event := self._line(line.removesuffix(b"\r"))) is not None]

    def _line(self, line: bytes) -> bytes | None:
        name, _, value = line.removeprefix(self._mark).partition(b":")
        self._mark = b""
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        if line or not self._data:
            return None
        event, self._data = b"\n".join(self._data), []
        return event
