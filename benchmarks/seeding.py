"""Fills an installation with agents and executions: through the kernel's own verbs, straight at the store.

The names of agents are made of a few words, so that searches have rare and common words to look for. The
executions are real: the platform's runners run them, so what is stored of each is what is always stored.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.beside import running
from benchmarks.client import until
from benchmarks.installation import ECHO, Installation
from benchmarks.results import Figure
from cluster.environment import resolved
from configs.settings import Settings
from kernel.access.principal import Principal
from kernel.agents.flow import Flow
from kernel.agents.record import AgentCreate
from kernel.agents.search import AgentFilter
from kernel.assembly import Kernel
from kernel.clock import SystemClock
from kernel.executions.order import ExecutionFilter, Order
from kernel.paging import PageQuery

COMMON, RARE = "assistant", "zygote"
SUBJECTS = (
    "Billing",
    "Code Review",
    "Contract",
    "Incident",
    "Onboarding",
    "Research",
    "Sales",
    "Translation",
)
AT_ONCE = 500
PAGE = 100
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Storage:
    """The store behind an installation, as its owner."""

    kernel: Kernel
    who: Principal

    async def fill(self, count: int) -> list[Figure]:
        """Up to `count` agents and as many ended executions; what each took of the store's memory."""
        agent = await self.rare_agent()
        empty = await self._used_bytes()
        made = max(0, count - await self._agents())
        await _many(range(count - made, count), self._add_agent)
        with_agents = await self._used_bytes()
        run = max(0, count - await self._executions())
        await _many(range(run), partial(self._execute, agent))
        await self._until_ended()
        full = await self._used_bytes()
        sizes = {"agent_bytes": (with_agents - empty, made), "execution_bytes": (full - with_agents, run)}
        return [Figure(str(count), name, size / each) for name, (size, each) in sizes.items() if each > 1000]

    async def rare_agent(self) -> str:
        """The one that all stored executions are of, and that the rare word finds. Made when missing."""
        found = await self.kernel.agents.list(self._ws, AgentFilter.of(search=RARE), _page(1))
        if found.items:
            name: str = found.items[0]["id"]
            return name
        return await self._create(f"Echo {COMMON} {RARE}", "Says what it is told", "echo")

    async def settle(self) -> None:
        """Until the store no longer rewrites its file, which costs processor time of its own."""
        await until(self._file_is_whole, 0.5, PATIENCE_S)

    async def forget_since(self, moment_ms: int) -> None:
        """Deletes the executions created since, so that every round finds the same number."""
        await self._until_ended()
        wanted, executions = ExecutionFilter(started_after=moment_ms), self.kernel.executions
        while ids := [item["id"] for item in (await executions.list(self._ws, wanted, _page(PAGE))).items]:
            await asyncio.gather(*(executions.delete(self._ws, name) for name in ids))

    @property
    def _ws(self) -> str:
        return self.who.workspace_id

    async def _add_agent(self, number: int) -> None:
        subject = SUBJECTS[number % len(SUBJECTS)]
        description = f"Helps with {subject.lower()} questions of team {number % 97}"
        await self._create(f"{subject} {COMMON} {number}", description, subject.split()[0].lower())

    async def _create(self, name: str, description: str, tag: str) -> str:
        flow = Flow.model_validate(ECHO)
        order = AgentCreate(name=name, description=description, flow=flow, tags=[tag])
        return (await self.kernel.agents.create(self._ws, self.who.user_id, order)).id

    async def _execute(self, agent: str, number: int) -> None:
        await self.kernel.executions.start(self.who, agent, Order(input={"text": f"hello {number}"}))

    async def _agents(self) -> int:
        return (await self.kernel.agents.list(self._ws, AgentFilter(), _page(1))).total

    async def _executions(self) -> int:
        return (await self.kernel.executions.list(self._ws, ExecutionFilter(), _page(1))).total

    async def _until_ended(self) -> None:
        await until(self._none_runs, 0.1, PATIENCE_S)

    async def _none_runs(self) -> bool:
        wanted = ExecutionFilter(status="running")
        return (await self.kernel.executions.list(self._ws, wanted, _page(1))).total == 0

    async def _file_is_whole(self) -> bool:
        return b"aof_rewrite_in_progress:0" in await self.kernel.store.call("INFO", "persistence")

    async def _used_bytes(self) -> int:
        facts: bytes = await self.kernel.store.call("INFO", "memory")
        lines = facts.decode().splitlines()
        return next(int(line.split(":")[1]) for line in lines if line.startswith("used_memory:"))


@asynccontextmanager
async def storage(installation: Installation) -> AsyncGenerator[Storage]:
    home, state = running(installation)
    async with Kernel.opened(resolved(Settings(), home, state.ports), name="benchmark") as kernel:
        yield Storage(kernel, await kernel.access.authenticate(installation.key))


def now_ms() -> int:
    return SystemClock().now_ms()


async def _many(numbers: range, add: Callable[[int], Awaitable[None]]) -> None:
    """In order, some hundred at once; tells how far it is."""
    told = time.monotonic()
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        await asyncio.gather(*(add(number) for number in range(first, min(first + AT_ONCE, numbers.stop))))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"  {first + AT_ONCE:,} of {numbers.stop:,}", flush=True)


def _page(limit: int) -> PageQuery:
    return PageQuery(1, limit)
