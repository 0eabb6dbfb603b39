"""`reconcile`: whether usage says what the executions themselves say, by workspace and day."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from cluster import printing
from cluster.environment import resolved
from cluster.failure import Refused
from cluster.layout import Home
from cluster.state import State
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.errors import CodexError
from kernel.metering.reconcile import Comparison, Reconciler, Sum
from kernel.metering.tariff import usd

HEAD = ("workspace", "days", "executions", "tokens", "USD", "")
HEAD_OF_DIFFERENCES = ("workspace", "day", "of", "usage", "executions")


def reconcile(
    home: Home, settings: Settings, state: State, days: int, workspace: str | None, as_json: bool
) -> bool:
    """Prints what was found; True when all is equal. Raises Refused for a workspace that there is not."""
    try:
        found = asyncio.run(_asked(resolved(settings, home, state.ports), days, workspace))
    except CodexError as error:
        raise Refused(error.message, "see `make status` and the logs") from error
    if as_json:
        printing.line(json.dumps([_plain(one) for one in found], indent=2))
    else:
        show(found)
    return all(one.equal for one in found)


async def _asked(settings: Settings, days: int, workspace: str | None) -> list[Comparison]:
    async with Kernel.opened(settings, name="reconcile") as kernel:
        return await compared(kernel.books.reconciler, days, workspace)


async def compared(reconciler: Reconciler, days: int, workspace: str | None) -> list[Comparison]:
    """Of one workspace, or of all by their ids. Raises Refused for one that there is not."""
    known = await reconciler.workspaces()
    if workspace is not None and workspace not in known:
        raise Refused(f"there is no workspace {workspace}", "leave --workspace out for all of them")
    names = known if workspace is None else [workspace]
    return [one for name in names for one in await reconciler.compare(name, days)]


def show(found: Sequence[Comparison]) -> None:
    rows = [_row(name, list(days)) for name, days in groupby(found, lambda one: one.workspace_id)]
    printing.table([HEAD, *rows])
    if different := [one for one in found if not one.equal]:
        printing.line()
        printing.table([HEAD_OF_DIFFERENCES, *(row for one in different for row in _differences(one))])


def _row(workspace_id: str, days: Sequence[Comparison]) -> tuple[str, ...]:
    total = Sum()
    for one in days:
        total = total.plus(one.usage)
    wrong = sum(not one.equal for one in days)
    verdict = f"{printing.FAILED} {wrong} differ" if wrong else f"{printing.DONE} equal"
    return (workspace_id, str(len(days)), *_shown(total), verdict)


def _differences(one: Comparison) -> Iterator[tuple[str, ...]]:
    day = one.first if one.first == one.last else f"{one.first} to {one.last}"
    for name, usage, executions in zip(HEAD[2:5], _shown(one.usage), _shown(one.executions), strict=True):
        if usage != executions:
            yield (one.workspace_id, day, name, usage, executions)


def _shown(total: Sum) -> tuple[str, str, str]:
    return f"{total.executions:,}", f"{total.tokens:,}", f"{usd(total.cost):,.6f}"


def _plain(one: Comparison) -> dict[str, Any]:
    return {
        "workspace": one.workspace_id,
        "first_day": one.first,
        "last_day": one.last,
        "equal": one.equal,
        "usage": one.usage._asdict() | {"cost": usd(one.usage.cost)},
        "executions": one.executions._asdict() | {"cost": usd(one.executions.cost)},
    }
