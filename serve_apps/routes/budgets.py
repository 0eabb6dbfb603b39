"""Budgets: what may be spent, how much of it is, and what happens then."""

from typing import Annotated, ClassVar

from fastapi import APIRouter
from pydantic import ConfigDict, JsonValue
from starlette.responses import Response

from kernel.metering.budgets import BudgetSet
from kernel.storage.budgets import Spent, Standing, changed
from serve_apps import answers
from serve_apps.deps import Caller, needs
from serve_apps.openapi import gives
from serve_apps.routing import Route
from serve_apps.shapes import BudgetList

router = APIRouter(prefix="/v1/usage", route_class=Route, tags=["usage"])

ORDER: JsonValue = {
    "budgets": [
        {
            "scope": "workspace",
            "period": "month",
            "amount": 200.0,
            "alerts": [0.5, 0.8, 1.0],
            "hard_stop": True,
        }
    ]
}


class NewBudgets(BudgetSet):
    """All budgets there shall be; those that are not among them end."""

    max_body: ClassVar = 262_144

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


@router.get("/budgets", summary="Get the budgets", responses=gives(200, BudgetList, "All budgets, by scope."))
async def get(caller: Annotated[Caller, needs("usage:read")]) -> Response:
    """With what is spent of each in its current period. A limited key sees those of the agents it is limited to."""
    return answers.read(caller, *_shown(caller, await caller.kernel.budgets.read(caller.workspace_id)))


@router.put(
    "/budgets", summary="Replace the budgets", responses=gives(200, BudgetList, "All budgets, by scope.")
)
async def put(caller: Annotated[Caller, needs("admin")], order: NewBudgets) -> Response:
    """What was spent earlier in the period counts. `If-Match` holds as long as nobody else replaces them."""
    act = (caller.who, caller.origin, "budgets.replace", caller.workspace_id)
    trail = caller.kernel.access.trail
    async with trail.watching(*act):
        caller.who.require_unlimited()
    mark, audit = await _held(caller), trail.text(*act, order.model_dump(mode="json"))
    stored = await caller.kernel.budgets.replace(caller.workspace_id, order, mark, audit)
    return answers.done(*_shown(caller, stored))


async def _held(caller: Caller) -> str:
    """The mark that the budgets must keep until they are replaced. Raises Conflict when `If-Match` names others."""
    if (wanted := answers.if_match(caller)) is None:
        return ""
    standing = await caller.kernel.budgets.read(caller.workspace_id)
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in wanted.split(",")]
    if standing.mark not in [tag.partition(".")[0] for tag in tags]:
        raise changed()
    return standing.mark


def _shown(caller: Caller, standing: Standing) -> tuple[bytes, str]:
    """The body and its tag, which begins with the mark."""
    shown = [caller.kernel.budgets.shown(one) for one in standing.budgets if _is_seen(caller, one)]
    body = answers.encode({"budgets": shown})
    return body, f'"{standing.mark}.{answers.etag_of(body)[1:]}'


def _is_seen(caller: Caller, one: Spent) -> bool:
    agents = caller.who.agents or ()
    return not caller.who.limited or (one.budget.scope == "agent" and one.budget.id in agents)
