"""Admission in one process: requests spend what the meter has granted, or wait for it.

An account holds the spare requests of one key. While it has some, a request costs no call; it is refilled before
it is empty, by as much as the last 50 ms asked for. What is not spent in time goes back. All accounts of a meter
share its one call in flight: those that come meanwhile leave with the next. An ask that got no answer is sent
again as it was, and settled once, so a meter that dies on the way loses nothing.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kernel.errors import Unavailable
from kernel.ids import new_id
from kernel.metering.limits import LONGEST_HOLD, SECOND, Limit
from kernel.storage.keys import shard_of
from kernel.storage.meter import Ask, Settled

PATIENCE_S = 1.0
"""How long a request waits for the meter."""
ANSWER_WITHIN_S = 2.0
DEMAND_S = 0.05
MOST_SPARE = 1_000
KEEP = 0.6
"""The part of the hold in which spare requests are spent; the rest is for their way back."""
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
    """Of one key. Times are of the process's own clock, which nobody sets."""

    workspace_id: str
    key_id: str
    holder: str
    limit: Limit | None
    number: int = 0
    left: int = 0
    until: float = 0.0
    low: int = 0
    demand: float = 0.0
    came_at: float = 0.0
    settled_at: float = 0.0
    last: Settled = NOTHING_YET
    ask: Ask | None = None
    flying: bool = False
    waiting: "deque[asyncio.Future[Standing]]" = field(default_factory=deque)

    def came(self, now: float) -> None:
        """`demand` is how many came in the last 50 ms; older ones fade."""
        self.demand = self.demand * math.exp((self.came_at - now) / DEMAND_S) + 1
        self.came_at = now

    def wanted(self, now: float) -> int:
        """How many to hold ahead: none for a slow caller, whose next is not expected soon."""
        return min(int(self.demand * math.exp((self.came_at - now) / DEMAND_S)) - 1, MOST_SPARE)

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

    def drop_the_gone(self) -> None:
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()


class Admission:
    def __init__(self, meter: Meter, now: Callable[[], float] = time.monotonic):
        self._meter, self._now = meter, now
        self._me = new_id("req")[-12:]
        self._accounts: dict[str, Account] = {}
        self._due: list[dict[str, Account]] = [{} for _ in range(meter.lanes)]
        self._asking: list[asyncio.Task[None] | None] = [None] * meter.lanes

    async def admit(self, workspace_id: str, key_id: str, limit: Limit | None) -> Standing:
        """Spends one request. Raises Unavailable when the meter does not answer in time."""
        account, now = self._account(workspace_id, key_id, limit), self._now()
        if account.left and now < account.until:
            account.left -= 1
            account.came(now)
            if account.left <= account.low:
                self._want(account)
            return account.standing(True, now)
        if not account.waiting and account.drained(now):
            return account.standing(False, now)
        account.came(now)
        return await self._granted(account)

    async def close(self) -> None:
        """Gives back what was not spent, if the meter can be reached."""
        for account in self._accounts.values():
            if account.left:
                account.demand = 0.0
                self._want(account)
        await asyncio.gather(*(task for task in self._asking if task), return_exceptions=True)

    def _account(self, workspace_id: str, key_id: str, limit: Limit | None) -> Account:
        account = self._accounts.get(key_id)
        if account is None:
            self._make_room()
            holder = f"{self._me}-{key_id}"
            account = self._accounts[key_id] = Account(workspace_id, key_id, holder, limit)
        elif account.limit != limit:
            account.limit, account.settled_at = limit, 0.0
        return account

    def _make_room(self) -> None:
        if len(self._accounts) < ACCOUNTS:
            return
        for key_id, account in list(self._accounts.items())[: ACCOUNTS // 10]:
            if not (account.left or account.waiting or account.ask):
                del self._accounts[key_id]

    async def _granted(self, account: Account) -> Standing:
        waiter: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
        account.waiting.append(waiter)
        self._want(account)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await waiter
        except TimeoutError:
            raise Unavailable("The meter does not answer", {"reason": "metering_down"}) from None

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
                self._due[lane] = {a.key_id: a for a in accounts if self._hoping(a)} | self._due[lane]
                await asyncio.sleep(random.uniform(0.02, 0.06))

    def _hoping(self, account: Account) -> bool:
        account.drop_the_gone()
        return bool(account.waiting)

    async def _settle(self, lane: int, accounts: list[Account]) -> bool:
        sent = self._now()
        asks = [account.ask or self._ask(account, sent) for account in accounts]
        for account in accounts:
            account.flying = True
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answers = await self._meter.settle(lane, asks)
        except (Unavailable, TimeoutError):
            return False
        finally:
            for account in accounts:
                account.flying = False
        for account, answer in zip(accounts, answers, strict=True):
            self._heard(account, answer, sent)
        return True

    def _ask(self, account: Account, now: float) -> Ask:
        account.drop_the_gone()
        spare = max(0, account.wanted(now))
        limit, keeps = account.limit, bool(spare) and now < account.until
        account.number += 1
        account.ask = Ask(
            *(account.workspace_id, account.holder, account.key_id, account.number),
            *((limit.emission, limit.burst, limit.hold) if limit else (0, 0, LONGEST_HOLD)),
            back=0 if keeps else account.left,
            kept=account.left if keeps else 0,
            waiting=len(account.waiting),
            spare=spare,
        )
        if not keeps:
            account.left = 0
        return account.ask

    def _heard(self, account: Account, answer: Settled, sent: float) -> None:
        ask, account.ask, account.last = account.ask, None, answer
        account.settled_at = now = self._now()
        assert ask is not None
        if answer.spare or ask.kept:
            self._hold(account, answer.spare, sent, ask.hold / SECOND * KEEP)
        for _ in range(answer.granted):
            self._tell_next(account, True, now)
        if account.waiting and answer.granted < ask.waiting:
            while account.waiting:
                self._tell_next(account, False, now)
        elif account.waiting:
            self._want(account)

    def _hold(self, account: Account, spare: int, since: float, seconds: float) -> None:
        account.left = min(account.left, account.last.kept) + spare
        account.until, account.low = since + seconds, account.left // 4
        number = account.number
        delay = max(0.0, account.until - self._now())
        asyncio.get_running_loop().call_later(delay, self._expire, account, number)

    def _expire(self, account: Account, number: int) -> None:
        if account.number == number and account.left and account.ask is None:
            self._want(account)

    def _tell_next(self, account: Account, admitted: bool, now: float) -> None:
        account.drop_the_gone()
        if account.waiting:
            account.waiting.popleft().set_result(account.standing(admitted, now))
