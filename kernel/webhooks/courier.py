"""The courier: of the shards it holds, it fans the outbox out, delivers what is due, many at once, and records what
became of it.

It holds no truth. Killed, its hold ends, and the next courier delivers what was in flight at once: a receiver may get
an event twice, under one id. Pub/sub wakes it; renewing its hold tells what is due as well, so a lost word is found.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from kernel.clock import Clock
from kernel.errors import Unavailable
from kernel.storage import keys
from kernel.storage.outbox import Flight, OutboxStore, Outcome, Places, Row
from kernel.webhooks.delivery import Answer, Attempt, Sender, outcome
from kernel.webhooks.events import Bodies

log = structlog.get_logger()
Made = TypeVar("Made")

HOLD_MS = 5_000
RENEW_S = 2.3
"""16 shards ask 7 times a second, and nothing else while there is nothing to do."""
RETRY_S = 0.5
"""Until a shard is asked for again that another courier had."""
ROWS = 50
"""Events fanned out between two looks at what is due."""
ENDED = 200
"""Outcomes told in one step."""
SHARE = 64
"""Deliveries that a shard takes in one step."""


@dataclass(slots=True)
class Shard:
    """due: ms when the next delivery can be taken, as far as is known. unread: whether the outbox may have rows.

    unsure: something may have been taken that we were not told of. flying: deliveries in flight, by workspace.
    """

    number: int
    held: bool = False
    unsure: bool = False
    due: int | None = None
    unread: bool = False
    ended: list[Outcome] = field(default_factory=list)
    flying: Counter[str] = field(default_factory=Counter)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, unread: bool = False) -> None:
        self.unread = self.unread or unread
        self.news.set()

    def expect(self, at: int | None) -> None:
        if at is not None:
            self.due = at if self.due is None else min(self.due, at)

    def lose(self) -> None:
        """What is in flight is delivered anew; what we know of it would be refused."""
        self.held, self.due = False, None
        self.ended.clear()


class Courier:
    """name: new with each life. room: deliveries at once. per_endpoint: of those, to one endpoint.

    A workspace has a quarter of the room at most, and endpoints whose last attempt failed have half of it together.
    """

    def __init__(
        self,
        name: str,
        outbox: OutboxStore,
        bodies: Bodies,
        sender: Sender,
        clock: Clock,
        shards: Iterable[int],
        room: int,
        per_endpoint: int,
    ):
        self.name, self.shards = name, {number: Shard(number) for number in shards}
        self._outbox, self._bodies, self._sender, self._clock = outbox, bodies, sender, clock
        self._free, self._failing_free = room, max(1, room // 2)
        self._per_endpoint, self._per_workspace = per_endpoint, max(per_endpoint, room // 4)
        self.flying: set[asyncio.Task[None]] = set()
        self._crowded: list[Shard] = []
        self.draining = False

    def told(self, message: bytes | None) -> None:
        """A shard has something new, or (None) such words may have been lost. To be called from pub/sub."""
        for shard in self.shards.values():
            if message is None or keys.PREFIXES[shard.number] == message.decode():
                shard.wake(unread=True)

    async def keep(self) -> None:
        """Takes the shards and keeps them, without end. Raises Unavailable."""
        while True:
            await self.hold()
            every = RENEW_S if all(shard.held for shard in self.shards.values()) else RETRY_S
            await asyncio.sleep(every * random.uniform(0.95, 1.0))

    async def hold(self) -> None:
        """Raises Unavailable."""
        self._sender.signer.forget()
        await _all(*map(self._hold, self.shards.values()))

    async def _hold(self, shard: Shard) -> None:
        if shard.unsure:
            await self._outbox.release(shard.number, self.name, self._clock.now_ms())
            shard.unsure = False
        now = self._clock.now_ms()
        hold = await self._outbox.hold(shard.number, self.name, HOLD_MS, now)
        if hold is None:
            return shard.lose()
        shard.held = True
        shard.expect(hold.next_due)
        if hold.rows or shard.ended or (shard.due is not None and shard.due <= now):
            shard.wake(unread=hold.rows > 0)

    async def tend(self, shard: Shard) -> None:
        """Works for a shard, without end. Raises Unavailable."""
        while True:
            shard.news.clear()
            if not await self.round(shard):
                await self._rest(shard)

    async def round(self, shard: Shard) -> bool:
        """Tells what has ended, fans out, takes what is due: whether there may be more. Raises Unavailable.

        All three leave in one go: the store answers them after one sync.
        """
        if not shard.held:
            return False
        _, fanned, taken = await _all(self._tell(shard), self._fan(shard), self._take(shard))
        return bool(fanned or taken)

    async def _rest(self, shard: Shard) -> None:
        """Until there is news, or something is due."""
        left = None if shard.due is None else max(0, shard.due - self._clock.now_ms()) / 1000
        try:
            async with asyncio.timeout(left):
                await shard.news.wait()
        except TimeoutError:
            pass

    async def land(self) -> None:
        """Takes nothing new, and waits for what is in flight. To be called while the shards are kept."""
        self.draining = True
        while self.flying:
            await asyncio.wait(self.flying)

    async def leave(self) -> None:
        """Tells what is left to tell and gives the shards up; nobody may work for them here now. Raises Unavailable."""
        for shard in self.shards.values():
            while shard.held and shard.ended:
                await self._tell(shard)
            await self._outbox.release(shard.number, self.name, self._clock.now_ms())

    async def _tell(self, shard: Shard) -> None:
        if not (batch := shard.ended[:ENDED]):
            return
        disabled = await self._outbox.done(shard.number, self.name, batch, self._clock.now_ms())
        if disabled is None:
            return shard.lose()
        del shard.ended[: len(batch)]
        for told in batch:
            shard.expect(told.retry_at or None)
        for one in disabled:
            log.warning("webhook disabled", webhook_id=one.webhook_id, reason=one.reason)

    async def _fan(self, shard: Shard) -> bool:
        """Whether there were rows. One that cannot be read now stays, and the others go on."""
        if not shard.unread:
            return False
        shard.unread = False
        rows = await self._outbox.rows(shard.number, ROWS)
        shard.unread = shard.unread or len(rows) == ROWS
        if not all(await _all(*map(self._fan_row, rows))):
            shard.lose()
        return bool(rows)

    async def _fan_row(self, row: Row) -> bool:
        body = await _recorded(self._bodies.of(row), event_id=row.event_id)
        if body is None:
            body = self._bodies.bare(row)
        return await self._outbox.fan(self.name, row, body, self._clock.now_ms())

    async def _take(self, shard: Shard) -> bool:
        """Whether there may be more that is due. Without room, the end of any delivery wakes the shard."""
        now = self._clock.now_ms()
        if shard.due is not None and shard.due <= now:
            shard.due = None
        if self.draining:
            return False
        if (share := min(SHARE, self._free)) < 1:
            self._crowded.append(shard)
            return False
        failing = min(share, self._failing_free)
        self._keep(-share, -failing)
        try:
            flights = await self._taken(shard, share, failing, now)
        finally:
            self._keep(share, failing)
        for flight in flights:
            self._keep(-1, -flight.failing)
            shard.flying[flight.workspace_id] += 1
            task = asyncio.create_task(self._deliver(shard, flight))
            self.flying.add(task)
            task.add_done_callback(self.flying.discard)
        return bool(flights)

    def _keep(self, free: int, failing: int) -> None:
        """More places are free, or (below 0) fewer; failing: of those that endpoints may have that fail."""
        self._free += free
        self._failing_free += failing

    async def _taken(self, shard: Shard, most: int, failing: int, now: int) -> list[Flight]:
        places = Places(most, failing, self._per_endpoint, self._per_workspace)
        try:
            flights = await self._outbox.take(shard.number, self.name, now, places, shard.flying)
        except Unavailable:
            shard.lose()
            shard.unsure = True
            raise
        if flights is None:
            shard.lose()
        return flights or []

    async def _deliver(self, shard: Shard, flight: Flight) -> None:
        attempt = await _recorded(self._sender.send(flight), event_id=flight.event_id)
        now = self._clock.now_ms()
        if attempt is None:
            attempt = Attempt(now, 0, Answer(None, "internal"))
        shard.ended.append(outcome(flight, attempt, now))
        self._keep(1, int(flight.failing))
        shard.flying[flight.workspace_id] -= 1
        shard.flying = +shard.flying
        shard.wake()
        while self._crowded:
            self._crowded.pop().wake()


async def _all(*work: Awaitable[Any]) -> list[Any]:
    """What each makes, once all have ended. Raises what the first of them did."""
    made = await asyncio.gather(*work, return_exceptions=True)
    for one in made:
        if isinstance(one, BaseException):
            raise one
    return made


async def _recorded(work: Awaitable[Made], **about: str) -> Made | None:
    """What it makes; None when it broke, which is written down. Raises Unavailable."""
    try:
        return await work
    except Unavailable:
        raise
    except Exception:  # the courier's edge: others' events go on
        log.exception("an event stumbled", **about)
        return None
