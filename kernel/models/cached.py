"""Embeds only what was not embedded before, as far as it is remembered."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Protocol

import numpy as np

from kernel.errors import Unavailable
from kernel.models.embedding import Embedder, Used, Vectors


class Shelf(Protocol):
    """Where vectors are kept, by name, as bytes. Both methods may raise Unavailable."""

    async def take(self, names: Sequence[bytes]) -> list[bytes | None]: ...

    async def put(self, vectors: Mapping[bytes, bytes]) -> None: ...


class CachedEmbedder:
    """An `Embedder` over another one. A shelf that is away or full costs no more than embedding again.

    model_id: vectors of one model are of no use to another.
    """

    def __init__(self, embedder: Embedder, model_id: str, shelf: Shelf):
        self.dimension = embedder.dimension
        self._embedder = embedder
        self._model_id = model_id
        self._shelf = shelf

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> Vectors:
        """used: told of what is embedded now, not of what was remembered."""
        names = [self._name(text) for text in texts]
        known = await self._known(list(dict.fromkeys(names)))
        fresh = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
        if fresh:
            rows = await self._embedder.embed(list(fresh.values()), used)
            new = {name: row.astype("<f4").tobytes() for name, row in zip(fresh, rows, strict=True)}
            known |= new
            with suppress(Unavailable):
                await self._shelf.put(new)
        joined = b"".join(known[name] for name in names)
        return np.frombuffer(joined, "<f4").reshape(len(texts), self.dimension)

    def _name(self, text: str) -> bytes:
        return sha256(f"{self._model_id}\n{text}".encode()).digest()

    async def _known(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        found: list[bytes | None] = []
        with suppress(Unavailable):
            found = await self._shelf.take(names)
        size = 4 * self.dimension
        return {name: row for name, row in zip(names, found, strict=False) if row and len(row) == size}
