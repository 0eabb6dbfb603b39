"""`audit verify`: whether the audit log of each workspace is as it was written."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

from cluster import printing
from cluster.environment import resolved
from cluster.failure import Refused
from cluster.layout import Home
from cluster.state import State
from configs.settings import Settings
from kernel.access.chain import Verdict
from kernel.assembly import Kernel
from kernel.errors import CodexError

HEAD = ("workspace", "entries", "waiting", "")


def verify(home: Home, settings: Settings, state: State, workspace: str | None, as_json: bool) -> bool:
    """Prints what was found; True when every log is whole. Raises Refused for a workspace that there is not."""
    try:
        found = asyncio.run(_verdicts(resolved(settings, home, state.ports), workspace))
    except CodexError as error:
        raise Refused(error.message, "see `make status` and the logs") from error
    if as_json:
        printing.line(json.dumps([asdict(one) | {"whole": one.whole} for one in found], indent=2))
    else:
        show(found)
    return all(one.whole for one in found)


async def _verdicts(settings: Settings, workspace: str | None) -> list[Verdict]:
    async with Kernel.opened(settings, name="audit") as kernel:
        chain = kernel.chain()
        known = sorted({*await kernel.books.reconciler.workspaces(), *await chain.known()})
        if workspace is not None and workspace not in known:
            raise Refused(f"there is no workspace {workspace}", "leave --workspace out for all of them")
        return [await chain.verify(name) for name in ([workspace] if workspace else known)]


def show(found: Sequence[Verdict]) -> None:
    rows = [(one.workspace_id, f"{one.sealed:,}", f"{one.waiting:,}", _verdict(one)) for one in found]
    printing.table([HEAD, *rows])


def _verdict(one: Verdict) -> str:
    return f"{printing.DONE} whole" if one.whole else f"{printing.FAILED} {one.broken}"
