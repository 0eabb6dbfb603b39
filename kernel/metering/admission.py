"""Admission in one process: requests spend what the meter has granted, or wait for it.

An account holds the spare requests of one key. While it has some, a request costs no call. A busy one is refilled
before it is empty, by as much as the last 0.2 s asked for; a slow one has one to spare while it goes on. What was
spent is told within 0.25 s, what is not spent within 20 s goes back. All accounts of a meter share its one call in
flight: those that come meanwhile leave with the next. An ask that got no answer is sent again as it was, and
settled once, so a meter that dies on the way loses nothing.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from kernel.errors import Unavailable
from kernel.ids import new_id
from kernel.metering.limits import HOLD, SECOND, SMALLEST_SHARED, Limit
from kernel.storage.keys import shard_of
from kernel.storage.meter import Ask, Settled

PATIENCE_S = 1.0
"""How long a request waits for the meter."""
ANSWER_WITHIN_S = 2.0
DEMAND_S = 0.2
MOST_SPARE = 1_000
KEEP_S = 20.0
"""How long spare requests are spent; the rest of the hold is for their way back."""
TELL_S = 0.25
ACCOUNTS = 20_000
RECHECK_S = 1.0
"""A refused key asks again after this long: others may have given back, or the limits have changed."""

NOTHING_YET = Settled(0, 0, 0, 0, 0, 0)


class Meter(Protocol):
    """The one place that grants. `lane` is one of `lanes` that work side by side; a workspace keeps to one."""

    lanes: int

    async def settle(self, lane: int, asks: Sequence[Ask]) -> Sequence[Settled]:
        """Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What the meter said of one request. remaining: more that could come now; wait_s: until one is admitted;
    full_s: until the burst is whole again. None of the numbers means anything without a limit."""

    admitted: bool
    limit: Limit | None
    remaining: int = 0
    wait_s: float = 0.0
    full_s: float = 0.0


@dataclass(slots=True)
class Account:
    """Of one key. Times are of the process's own clock, which nobody sets. spent, free: not told yet."""

    workspace_id: str
    key_id: str
    holder: str
    limit: Limit | None
    left: int = 0
    until: float = 0.0
    spent: int = 0
    free: int = 0
    demand: float = 0.0
    came_at: float = 0.0
    gap_s: float = 0.0
    asked_at: float = 0.0
    settled_at: float = 0.0
    last: Settled = NOTHING_YET
    ask: Ask | None = None
    flying: bool = False
    watched: bool = False
    waiting: "deque[asyncio.Future[Standing]]" = field(default_factory=deque)

    def came(self, now: float) -> None:
        """`demand` is how many came in the last 0.2 s; older ones fade."""
        self.demand = self._demand(now) + 1
        self.gap_s, self.came_at = (now - self.came_at if self.came_at else 0.0), now

    @property
    def untold(self) -> bool:
        return self.spent + self.free > 0

    def goal(self, now: float) -> int:
        """How many to hold ahead: none for one whose next request is not expected soon."""
        if self.gap_s > KEEP_S or now - self.came_at > KEEP_S:
            return 0
        return min(max(int(self._demand(now)) - 1, 1), MOST_SPARE)

    def _demand(self, now: float) -> float:
        return self.demand * math.exp((self.came_at - now) / DEMAND_S)

    def holds(self, now: float) -> int:
        return self.left if now < self.until else 0

    def standing(self, admitted: bool, now: float) -> Standing:
        if self.limit is None:
            return Standing(admitted, None)
        passed = now - self.settled_at
        wait, full = self.last.wait / SECOND - passed, self.last.full / SECOND - passed
        return Standing(admitted, self.limit, self.last.remaining + self.left, max(0.0, wait), max(0.0, full))

    def drained(self, now: float) -> bool:
        """Whether the meter has said that there is nothing yet."""
        if self.limit is None or self.last.remaining or not self.settled_at:
            return False
        return now - self.settled_at < min(self.last.wait / SECOND, RECHECK_S)

    def next_ask(self, number: int, now: float) -> Ask:
        """What there is to tell and to ask for. One that was not settled is kept, with those who wait now."""
        self.drop_the_gone()
        if self.ask is not None:
            return self.ask._replace(waiting=len(self.waiting))
        goal = self.goal(now)
        kept = min(self.holds(now), goal)
        spent, free, self.spent, self.free, self.left, self.asked_at = self.spent, self.free, 0, 0, kept, now
        return Ask(
            *(self.workspace_id, self.holder, self.key_id, number),
            *self._terms,
            hold=HOLD,
            shared=int(self.limit is None or self.limit.burst >= SMALLEST_SHARED),
            spent=spent,
            kept=kept,
            waiting=len(self.waiting),
            spare=goal - kept,
            free=free,
        )

    def is_of(self, ask: Ask) -> bool:
        """Whether the limit is still the one that was asked under."""
        return (ask.emission, ask.burst) == self._terms

    @property
    def _terms(self) -> tuple[int, int]:
        """Emission and burst as an ask names them."""
        return (self.limit.emission, self.limit.burst) if self.limit else (0, 0)

    def drop_the_gone(self) -> None:
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()

    def tell_next(self, admitted: bool, now: float) -> None:
        self.drop_the_gone()
        if self.waiting:
            self.waiting.popleft().set_result(self.standing(admitted, now))


class Admission:
    def __init__(self, meter: Meter, now: Callable[[], float] = time.monotonic):
        self._meter, self._now = meter, now
        self._me = new_id("req")[-12:]
        self._numbers = count(1)
        self._accounts: dict[str, Account] = {}
        self._due: list[dict[str, Account]] = [{} for _ in range(meter.lanes)]
        self._asking: list[asyncio.Task[None] | None] = [None] * meter.lanes
        self._to_tell: dict[str, Account] = {}

    async def admit(self, workspace_id: str, key_id: str, limit: Limit | None) -> Standing:
        """Spends one request. Raises Unavailable when the meter does not answer in time."""
        account, now = self._account(workspace_id, key_id, limit), self._now()
        if account.left and now < account.until:
            return self._spent(account, now)
        if not account.waiting and account.drained(now):
            return account.standing(False, now)
        account.came(now)
        return await self._granted(account)

    def forgive(self, key_id: str) -> None:
        """A request that was admitted is refused by another limit: it is not counted as usage."""
        if account := self._accounts.get(key_id):
            account.free += 1
            self._tell_later(account)

    async def close(self) -> None:
        """Tells what was spent and gives back the rest, if the meter can be reached."""
        for account in self._accounts.values():
            account.gap_s = math.inf
            if account.left or account.untold:
                self._want(account)
        if tasks := [task for task in self._asking if task]:
            _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
            for task in late:
                task.cancel()

    def _spent(self, account: Account, now: float) -> Standing:
        account.left -= 1
        account.spent += 1
        account.came(now)
        if account.left < account.goal(now) // 4:
            self._want(account)
        else:
            self._tell_later(account)
        return account.standing(True, now)

    def _account(self, workspace_id: str, key_id: str, limit: Limit | None) -> Account:
        account = self._accounts.get(key_id)
        if account is None:
            self._make_room()
            holder = f"{self._me}-{key_id}"
            account = self._accounts[key_id] = Account(workspace_id, key_id, holder, limit)
        elif account.limit != limit:
            account.limit, account.settled_at, account.left = limit, 0.0, 0
        return account

    def _make_room(self) -> None:
        if len(self._accounts) < ACCOUNTS:
            return
        for key_id, account in list(self._accounts.items())[: ACCOUNTS // 10]:
            if not (account.left or account.untold or account.waiting or account.ask):
                del self._accounts[key_id]

    async def _granted(self, account: Account) -> Standing:
        waiter: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
        account.waiting.append(waiter)
        self._want(account)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await waiter
        except TimeoutError:
            account.drop_the_gone()
            raise Unavailable("The meter does not answer", {"reason": "metering_down"}) from None

    def _tell_later(self, account: Account) -> None:
        if not self._to_tell:
            asyncio.get_running_loop().call_later(TELL_S, self._tell)
        self._to_tell[account.key_id] = account

    def _tell(self) -> None:
        accounts, self._to_tell = self._to_tell, {}
        for account in accounts.values():
            if account.untold:
                self._want(account)

    def _want(self, account: Account) -> None:
        if account.flying:
            return
        lane = shard_of(account.workspace_id) % self._meter.lanes
        self._due[lane][account.key_id] = account
        if (task := self._asking[lane]) is None or task.done():
            self._asking[lane] = asyncio.create_task(self._serve(lane))

    async def _serve(self, lane: int) -> None:
        """One call after the other, while there is someone to ask for."""
        while due := self._due[lane]:
            self._due[lane] = {}
            accounts = list(due.values())
            if not await self._settle(lane, accounts):
                self._due[lane] = due | self._due[lane]
                await asyncio.sleep(random.uniform(0.02, 0.06))

    async def _settle(self, lane: int, accounts: list[Account]) -> bool:
        now, asks = self._now(), []
        for account in accounts:
            account.ask = account.next_ask(next(self._numbers), now)
            account.flying = True
            asks.append(account.ask)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answers = await self._meter.settle(lane, asks)
        except (Unavailable, TimeoutError):
            return False
        finally:
            for account in accounts:
                account.flying = False
        for account, ask, answer in zip(accounts, asks, answers, strict=True):
            account.ask, account.last, account.settled_at = None, answer, self._now()
            self._heard(account, ask, answer)
        return True

    def _heard(self, account: Account, ask: Ask, answer: Settled) -> None:
        self._hold(account, ask, answer)
        now = account.settled_at
        for _ in range(answer.granted):
            account.tell_next(True, now)
        if account.waiting and answer.granted < ask.waiting:
            while account.waiting:
                account.tell_next(False, now)
        elif account.waiting:
            self._want(account)
        if account.untold:
            self._tell_later(account)

    def _hold(self, account: Account, ask: Ask, answer: Settled) -> None:
        """Spare requests count from when they were first asked for: they may be reserved since then."""
        account.left = max(0, account.left - (ask.kept - answer.kept)) + answer.spare
        if not account.is_of(ask):
            account.left = 0
            self._want(account)
        elif account.left:
            account.until = account.asked_at + KEEP_S
            self._watch(account)

    def _watch(self, account: Account) -> None:
        """One look at a time, and not one for each ask: a busy process has thousands a second."""
        if not account.watched:
            account.watched = True
            delay = max(0.0, account.until - self._now())
            asyncio.get_running_loop().call_later(delay, self._look, account)

    def _look(self, account: Account) -> None:
        account.watched = False
        if account.holds(self._now()):
            self._watch(account)
        elif account.left:
            self._want(account)
