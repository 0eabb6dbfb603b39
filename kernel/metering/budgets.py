"""Budgets: what a workspace, an agent or a key may spend in a UTC day or month, in USD.

A budget tells of itself as its thresholds are reached. With a hard stop it also refuses executions once it is spent,
and stops a running one before a model call that would cost more than was left when it was accepted. Spend is known
when executions end: those that run at once may each use what was left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from kernel.clock import Clock, rfc3339
from kernel.errors import Problem, ValidationError
from kernel.ids import is_id
from kernel.metering.tariff import MICRO, micro, usd
from kernel.shape import Shape, at_most
from kernel.storage.budgets import (
    Budget,
    BudgetStore,
    Length,
    Scope,
    Spent,
    Standing,
    UnknownIds,
    begins_again,
)

MOST = 100
MOST_ALERTS = 10
USUAL_ALERTS = (0.5, 0.8, 1.0)

Threshold = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class BudgetOrder(Shape):
    """`id` is the agent's or key's, and of no workspace's budget. alerts: fractions of the amount to be told at."""

    scope: Scope
    id: str | None = Field(None, max_length=64, validate_default=True)
    period: Length
    amount: float = Field(ge=1 / MICRO, le=1e9, allow_inf_nan=False, description="USD")
    alerts: Annotated[list[Threshold], at_most(MOST_ALERTS)] = Field(
        default_factory=lambda: list(USUAL_ALERTS)
    )
    hard_stop: bool = False

    @field_validator("id")
    @classmethod
    def fits(cls, name: str | None, info: ValidationInfo) -> str | None:
        scope = info.data.get("scope")
        if scope == "workspace" and name is not None:
            raise ValueError("must be left out: the budget is for the whole workspace")
        if scope in ("agent", "key") and name is None:
            raise ValueError(f"must be the id of the {scope} that the budget is for")
        return name

    def budget(self) -> Budget:
        alerts = tuple(sorted(set(self.alerts)))
        return Budget(self.scope, self.id or "", self.period, micro(self.amount), alerts, self.hard_stop)


class BudgetSet(Shape):
    budgets: Annotated[list[BudgetOrder], at_most(MOST)]


@dataclass(frozen=True, slots=True)
class Budgets:
    store: BudgetStore
    clock: Clock

    async def read(self, workspace_id: str) -> Standing:
        return await self.store.read(workspace_id, self.clock.now_ms())

    async def replace(
        self, workspace_id: str, wanted: BudgetSet, mark: str = "", audit: str = ""
    ) -> Standing:
        """All of them, by these. mark: the one that they must still have. audit: the entry that tells of it.

        Raises ValidationError for two of the same, or of an agent or key that is not there; Conflict.
        """
        if problems := list(_problems(wanted)):
            raise ValidationError.of("Invalid budgets", problems)
        budgets = [order.budget() for order in wanted.budgets]
        try:
            return await self.store.replace(workspace_id, self.clock.now_ms(), mark, budgets, audit)
        except UnknownIds as unknown:
            problems = [_unknown(wanted, place) for place in unknown.places]
            raise ValidationError.of("Invalid budgets", problems) from None

    def shown(self, one: Spent) -> dict[str, Any]:
        """As the API answers it."""
        budget = one.budget
        reached = zip(budget.alerts, one.reached, strict=True)
        return {
            "scope": budget.scope,
            "id": budget.id or None,
            "period": budget.period,
            "amount": usd(budget.amount),
            "alerts": [
                {"threshold": threshold, "reached_at": None if at is None else rfc3339(at)}
                for threshold, at in reached
            ],
            "hard_stop": budget.hard_stop,
            "spent": usd(one.spent),
            "remaining": usd(max(0, budget.amount - one.spent)),
            "resets_at": rfc3339(begins_again(budget.period, self.clock.now_ms())),
        }


def _problems(wanted: BudgetSet) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for place, order in enumerate(wanted.budgets):
        if order.scope != "workspace" and not is_id(order.scope, order.id or ""):
            yield _unknown(wanted, place)
        first = seen.setdefault(order.budget().field, place)
        if first != place:
            yield Problem(f"budgets[{place}]", f"is for the same scope, id and period as budgets[{first}]")


def _unknown(wanted: BudgetSet, place: int) -> Problem:
    return Problem(
        f"budgets[{place}].id", f"There is no such {wanted.budgets[place].scope} in this workspace"
    )
