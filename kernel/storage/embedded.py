"""What models of providers have embedded for documents and for searches over the API: tokens, and what they cost.

It is of no execution, and so counted apart from those, in `usage` (x, y, z) and, its cost alone, in `spend`. A token
costs far less than a millionth of a USD, so these costs are counted in thousandths of it. What costs nothing, such as a
model that runs here, is not counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from kernel.clock import Clock
from kernel.storage.store import Store

NANO = 1_000_000_000
"""Parts of a USD."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """cost: USD, None when the price is not known. collection: '' when it was for several."""

    model: str
    tokens: int
    cost: float | None
    collection: str = ""


def told(embedded: Iterable[Embedded]) -> bytes:
    """As scripts read it; empty for nothing that costs."""
    rows = [
        [one.model, one.collection, one.tokens, None if one.cost is None else round(one.cost * NANO)]
        for one in embedded
        if one.cost != 0
    ]
    return orjson.dumps(rows) if rows else b""


class EmbeddedStore:
    def __init__(self, store: Store, clock: Clock):
        self._store, self._clock = store, clock

    async def add(self, workspace_id: str, key_id: str, embedded: Sequence[Embedded]) -> None:
        """Counts it in this hour, in one step. Raises Unavailable."""
        if rows := told(embedded):
            now_ms = self._clock.now_ms()
            await self._store.run("usage_embed", workspace_id, workspace_id, now_ms, key_id, rows)
