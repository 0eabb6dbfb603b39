"""Performs one claimed execution from wherever its journal stands to its end.

The end is written once, by whoever holds the lease: completed, failed, cancelled or timed out.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import orjson
import structlog

from kernel.agents.flow import Flow
from kernel.agents.graph import Graph, compile
from kernel.clock import Clock, rfc3339
from kernel.errors import CodexError, InternalError, Unavailable
from kernel.executions.attempt import Surroundings, stored_form
from kernel.executions.budget import Budget
from kernel.executions.discretion import Discretion, Secrets
from kernel.executions.engine import Engine, NodeFailed
from kernel.executions.events import (
    Event,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionTimedOut,
)
from kernel.executions.journal import Fenced, Journal
from kernel.executions.order import Spec
from kernel.executions.placement import Placement
from kernel.executions.record import INLINE_OUTPUT, NodeRecord, Totals, parse_nodes, shown
from kernel.metering.tariff import Tariff
from kernel.nodes.contract import NodeType
from kernel.storage.executions import Ending, ExecutionStore
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import Claim

log = structlog.get_logger()

GRAPHS_KEPT = 1000
AGAIN_S = 0.3
LARGEST_TOLD = 256 * 1024
"""Bytes of an ended execution that are handed to whoever waits; more is to be read."""


class AgentVersions(Protocol):
    async def flow(self, workspace_id: str, agent_id: str, version: str) -> dict[str, Any]:
        """The flow of one version, which never changes. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class Performer:
    """Shared by all executions of a runner. `placed_on` is the name of the cluster node it runs on."""

    executions: ExecutionStore
    agents: AgentVersions
    objects: ObjectStore
    node_types: Mapping[str, NodeType]
    clock: Clock
    coalesce_ms: int
    placed_on: str
    placement: Placement
    tariff: Tariff
    secrets: Secrets
    graphs: "OrderedDict[tuple[str, str, str], Graph[NodeType]]"

    async def perform(self, claim: Claim, stop: "Stop") -> None:
        """Returns when the end is durable or the lease is lost. `stop` is how others interrupt it."""
        spec = Spec.model_validate_json(claim.spec)
        journal = Journal(self.executions, claim, self.clock, self.coalesce_ms, stop.lose)
        try:
            try:
                engine = await self._engine(claim, spec, journal, stop)
            except CodexError as error:
                await journal.end(*self._told(claim, {}, *self._failure(error, {})))
                return
            if claim.cancelled:
                stop.cancel()
            await self._walk(claim, spec, journal, engine, stop)
        except Fenced:
            log.info("execution moved to another runner", execution_id=claim.execution_id, epoch=claim.epoch)

    async def _walk(self, claim: Claim, spec: Spec, journal: Journal, engine: Engine, stop: "Stop") -> None:
        left_ms = claim.started_at + spec.options.timeout - self.clock.now_ms()
        try:
            async with asyncio.timeout(max(0, left_ms) / 1000):
                output = await stop.guard(engine.run())
        except TimeoutError:
            engine.interrupt("timed_out")
            await journal.end(*self._told(claim, engine.records, *self._timeout(spec, engine)))
        except Stopped as stopped:
            if stopped.reason == "lost":
                raise Fenced from None
            engine.interrupt("cancelled")
            event = ExecutionCancelled(timestamp=self._now())
            await journal.end(event, Ending("cancelled", _totals(engine)))
        except NodeFailed as failed:
            engine.interrupt("cancelled")
            end = self._failure(failed.error, _totals(engine), failed.node_id)
            await journal.end(*self._told(claim, engine.records, *end))
        else:
            try:
                end = await self._completion(claim, engine, output)
            except CodexError as error:
                end = self._failure(error, _totals(engine))
            await journal.end(*self._told(claim, engine.records, *end))

    async def _engine(self, claim: Claim, spec: Spec, journal: Journal, stop: "Stop") -> Engine:
        """Waits for a store that is away: that is no fault of the execution."""
        while True:
            try:
                return await self._made(claim, spec, journal)
            except Unavailable:
                if stop.reason == "lost":
                    raise Fenced from None
                await asyncio.sleep(AGAIN_S * random.uniform(0.5, 1.5))

    async def _made(self, claim: Claim, spec: Spec, journal: Journal) -> Engine:
        values: dict[str, Any] = {}
        around = Surroundings(
            workspace_id=claim.workspace_id,
            collections=spec.collections,
            execution_id=claim.execution_id,
            context={"input": spec.input, "nodes": values, "execution": {"id": claim.execution_id}},
            journal=journal,
            budget=Budget(spec.options.max_tokens, spec.options.max_cost, claim.cap, claim.cap_tokens),
            tariff=self.tariff,
            clock=self.clock,
            placed_on=self.placed_on,
            placement=self.placement,
            keep=lambda node_id, data: self.objects.put(_path(claim, node_id), data),
            discretion=Discretion(claim.workspace_id, self.secrets, spec.agent_id or "inline flow"),
            running=set(),
        )
        engine = Engine(await self._graph(claim, spec), around, values)
        if claim.has_journal:
            stored = await self.executions.read(claim.workspace_id, claim.execution_id)
            await engine.restore(parse_nodes(stored.nodes if stored else {}), self.objects.get)
        return engine

    async def _graph(self, claim: Claim, spec: Spec) -> Graph[NodeType]:
        """Versions never change, so a compiled one is kept."""
        if spec.flow is not None:
            return compile(Flow.model_validate(spec.flow), self.node_types)
        at = (claim.workspace_id, spec.agent_id or "", spec.agent_version or "")
        if (graph := self.graphs.get(at)) is None:
            graph = compile(Flow.model_validate(await self.agents.flow(*at)), self.node_types)
            self.graphs[at] = graph
            if len(self.graphs) > GRAPHS_KEPT:
                self.graphs.popitem(last=False)
        return graph

    async def _completion(self, claim: Claim, engine: Engine, output: Any) -> tuple[Event, Ending]:
        totals = Totals.of(engine.records)
        facts = _facts(totals)
        text = stored_form(output)
        shown: dict[str, Any] = {"output": output}
        if len(text) > INLINE_OUTPUT:
            facts["output_ref"] = (await self.objects.put(_path(claim, "exit"), text)).encode()
            shown = {"output": None, "output_link": f"/v1/executions/{claim.execution_id}"}
        else:
            facts["output"] = text
        result = shown | {"tokens_used": totals.tokens_used, "cost": totals.cost}
        event = ExecutionCompleted(
            timestamp=self._now(),
            data={"result": result, "duration_ms": self.clock.now_ms() - claim.started_at},
        )
        return event, Ending("completed", facts)

    def _told(
        self, claim: Claim, nodes: Mapping[str, NodeRecord], event: Event, ending: Ending
    ) -> tuple[Event, Ending]:
        """Adds the whole execution for the caller who waits for it, so that they need not read it."""
        if not claim.awaited or "output_ref" in ending.facts:
            return event, ending
        now = self.clock.now_ms()
        times = {"created_at": claim.created_at, "started_at": claim.started_at, "completed_at": now}
        fields = {name: str(at).encode() for name, at in times.items()}
        fields |= {"spec": claim.spec, "status": ending.status.encode()}
        fields |= {"error": ending.facts["error"]} if "error" in ending.facts else {}
        output = orjson.loads(ending.facts["output"]) if "output" in ending.facts else None
        view = orjson.dumps(shown(claim.execution_id, fields, nodes, output))
        return event, replace(ending, shown=view if len(view) <= LARGEST_TOLD else b"", at=now)

    def _failure(
        self, error: CodexError, facts: dict[str, bytes], node_id: str | None = None
    ) -> tuple[Event, Ending]:
        shown = error.body()
        if node_id is not None:
            shown["details"] = {**error.details, "node_id": node_id}
        event = ExecutionFailed(timestamp=self._now(), data={"error": shown})
        return event, Ending("failed", facts | {"error": orjson.dumps(shown)})

    def _timeout(self, spec: Spec, engine: Engine) -> tuple[Event, Ending]:
        event = ExecutionTimedOut(timestamp=self._now(), data={"timeout_ms": spec.options.timeout})
        return event, Ending("timed_out", _totals(engine))

    def _now(self) -> str:
        return rfc3339(self.clock.now_ms())


class Stopped(Exception):
    def __init__(self, reason: Literal["cancelled", "lost"]):
        super().__init__(reason)
        self.reason = reason


class Stop:
    """The hand on one execution's brake: cancel it, or drop it because its lease is lost."""

    def __init__(self) -> None:
        self.reason: Literal["cancelled", "lost"] | None = None
        self._task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        self._pull("cancelled")

    def lose(self) -> None:
        self._pull("lost")

    async def guard(self, walk: Any) -> Any:
        """Runs `walk`; raises Stopped when the brake is pulled."""
        self._task = asyncio.create_task(walk)
        try:
            if self.reason is not None:
                self._task.cancel()
            return await self._task
        except asyncio.CancelledError:
            if self.reason is None:
                raise
            raise Stopped(self.reason) from None
        finally:
            task, self._task = self._task, None
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _pull(self, reason: Literal["cancelled", "lost"]) -> None:
        self.reason = self.reason or reason
        if self._task is not None:
            self._task.cancel()


def _totals(engine: Engine) -> dict[str, bytes]:
    return _facts(Totals.of(engine.records))


def _facts(totals: Totals) -> dict[str, bytes]:
    """`spent` only where there is any, `cost` where it is known."""
    cost = b"" if totals.cost is None else repr(totals.cost).encode()
    facts = {"tokens_used": b"%d" % totals.tokens_used, "cost": cost, "spent": totals.spent()}
    return {name: value for name, value in facts.items() if value}


def _path(claim: Claim, name: str) -> str:
    """With the epoch: what a stalled runner still writes must not replace what its successor wrote."""
    return f"executions/{claim.workspace_id}/{claim.execution_id}/{claim.epoch}/{name}"


LOST = InternalError(
    "The execution was lost by too many runners and given up", {"reason": "too_many_deliveries"}
)
"""Why an execution fails that kills or stalls whoever runs it."""


def lost_event(now_ms: int) -> bytes:
    return ExecutionFailed(timestamp=rfc3339(now_ms), data={"error": LOST.body()}).encode()


LOST_PROBLEM = orjson.dumps(LOST.body())
