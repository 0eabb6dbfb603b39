"""Blocks that were lost with each worker that had them: their documents come again, each by itself, and one that takes
its workers along even so fails alone."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from kernel.knowledge.contract import document_id
from kernel.knowledge.patience import patiently
from kernel.knowledge.reading import failed
from kernel.knowledge.work import Block, Order, Tools
from kernel.storage.jobs import JobStore

REASON = "What reads it stops working, each time that it is tried"
WAITS_S = (0.2, 0.6, 1.5, 3.0, 6.0, 12.0)
"""Between the tries to write, while the store is away."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is not settled of blocks that were worked off, by number: to be run again as they are; and suspect."""

    again: Set[int] = frozenset()
    suspect: Set[int] = frozenset()


async def taken_apart(jobs: JobStore, order: Order, block: Block, first: int) -> Sequence[Block]:
    """A block for each of its documents, numbered from `first`; none when it is settled after all. Raises JobLost."""
    if not await patiently(WAITS_S, jobs.withdraw, order.lease, block.number):
        return []
    return [Block(first + at, [one]) for at, one in enumerate(block.listed)]


async def convict(tools: Tools, order: Order, block: Block) -> None:
    """The one document of a block fails, unless it is settled. Raises JobLost, VectorsMoved."""
    (one,) = block.listed
    settled = [failed(document_id(order.lease.collection_id, one.found.location), one, REASON)]
    now, live = tools.clock.now_ms(), order.place.live
    await patiently(WAITS_S, tools.manifest.commit, order.lease, block.number, now, live, settled, ())
