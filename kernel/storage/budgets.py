"""Budgets of workspaces, and how much of each is spent.

Keys: `budgets`, and `spend` and `alerts` of the day or month a budget is for. The scripts that end executions add to
`spend`, note in `alerts` which thresholds that reached, and tell of it in `outbox`; the one that accepts executions
refuses them while a budget with a hard stop is spent. Amounts are in millionths of a USD.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

import orjson

from kernel.errors import Conflict
from kernel.storage.store import Store

Scope = Literal["workspace", "agent", "key"]
Length = Literal["day", "month"]

SCOPES: dict[str, Scope] = {"w": "workspace", "a": "agent", "k": "key"}
LENGTHS: dict[str, Length] = {"m": "month", "d": "day"}
"""Letters in a budget's field, in the order that budgets are listed in."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`id` is that of the agent or key, empty for the workspace. alerts: fractions of the amount, ascending."""

    scope: Scope
    id: str
    period: Length
    amount: int
    alerts: tuple[float, ...]
    hard_stop: bool

    @property
    def field(self) -> str:
        return f"{self.period[0]}|{self.scope[0]}|{self.id}"

    def encode(self) -> bytes:
        return orjson.dumps({"amount": self.amount, "alerts": self.alerts, "hard_stop": self.hard_stop})

    @classmethod
    def decoded(cls, field: str, text: bytes) -> Self:
        scope, period, name = parts(field)
        kept = orjson.loads(text)
        return cls(scope, name, period, kept["amount"], tuple(kept["alerts"]), kept["hard_stop"])


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget with what is spent of it now. reached: when each of its alerts was, in ms; None not yet."""

    budget: Budget
    spent: int
    reached: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """All budgets of a workspace as they stand, in a fixed order. `mark` changes with them, not with what is spent."""

    mark: str
    budgets: tuple[Spent, ...]


class UnknownIds(Exception):
    """Budgets are for agents or keys that the workspace does not have; `places` says which of them."""

    def __init__(self, places: Sequence[int]):
        super().__init__(places)
        self.places = places


class BudgetStore:
    def __init__(self, store: Store):
        self._store = store

    async def read(self, workspace_id: str, now_ms: int) -> Standing:
        return _standing(*await self._store.run("budget_read", workspace_id, workspace_id, now_ms))

    async def replace(
        self, workspace_id: str, now_ms: int, mark: str, budgets: Sequence[Budget], audit: str = ""
    ) -> Standing:
        """mark: the one they must still have, empty for any. audit: the entry that tells of it.

        Raises Conflict when they have another, UnknownIds.
        """
        flat = [part for budget in budgets for part in (budget.field, budget.encode())]
        state, *rest = await self._store.run(
            "budget_replace", workspace_id, workspace_id, now_ms, mark, audit, *flat
        )
        if state == b"changed":
            raise changed()
        if state == b"unknown":
            raise UnknownIds(rest[0])
        return _standing(*rest)


def changed() -> Conflict:
    return Conflict("The budgets have changed since they were read", {"reason": "stale_etag"})


def parts(field: str) -> tuple[Scope, Length, str]:
    """Scope, period and id of a budget's field."""
    length, scope, name = field.split("|", 2)
    return SCOPES[scope], LENGTHS[length], name


def begins_again(period: Length, now_ms: int) -> int:
    """The end of the UTC day or month that a moment is in, in ms."""
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    day = now.replace(hour=0, minute=0, second=0)
    later = (
        day + timedelta(days=1)
        if period == "day"
        else (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    )
    return int(later.timestamp()) * 1000


def _standing(mark: bytes, rows: Sequence[tuple[bytes, bytes, bytes, list[bytes]]]) -> Standing:
    found = [
        Spent(
            Budget.decoded(field.decode(), text), int(spent), tuple(int(at) if at else None for at in reached)
        )
        for field, text, spent, reached in rows
    ]
    order, lengths = list(SCOPES.values()), list(LENGTHS.values())

    def place(one: Spent) -> tuple[int, str, int]:
        return order.index(one.budget.scope), one.budget.id, lengths.index(one.budget.period)

    return Standing(mark.decode(), tuple(sorted(found, key=place)))
