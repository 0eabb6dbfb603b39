"""One node of one execution: its attempts, what it says while it runs, and what it came to."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from kernel.agents.flow import Default, Goto, Retry
from kernel.agents.graph import CompiledNode
from kernel.clock import Clock, rfc3339
from kernel.errors import CodexError, NodeError, Unavailable
from kernel.executions.budget import Budget
from kernel.executions.cpu import Metered
from kernel.executions.discretion import Discretion
from kernel.executions.events import NodeCompleted, NodeFailed, NodeLog, NodeRetry, NodeStarted, NodeToken
from kernel.executions.journal import Journal
from kernel.executions.placement import Begun, Done, Errand, Placement, Said, Used
from kernel.executions.record import INLINE_OUTPUT, LogLine, NodeRecord, NodeStatus, Use
from kernel.metering.tariff import Tariff
from kernel.nodes.contract import ModelUse, NodeType, Outcome
from kernel.redaction import Speech

KeepObject = Callable[[str, bytes], Awaitable[str]]
"""Keeps a large output outside Redis: (node id, JSON) -> reference."""
MAX_LOG_LINES = 200


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all nodes of one execution share. collections: the only ones it may read; None is all."""

    workspace_id: str
    collections: Collection[str] | None
    execution_id: str
    context: Mapping[str, Any]
    journal: Journal
    budget: Budget
    tariff: Tariff
    clock: Clock
    placed_on: str
    placement: Placement
    keep: KeepObject
    discretion: Discretion
    running: set[str]
    """Ids of the nodes that run right now."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """`error` is set when the node failed and nothing handles it."""

    node_id: str
    record: NodeRecord
    value: Any = None
    error: CodexError | None = None


@dataclass(slots=True)
class NodeRun:
    """Runs one node to its end. It is the `Call` that node types see."""

    node: CompiledNode[NodeType]
    around: Surroundings
    attempt: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    placed_on: str = ""
    started_at: int = 0
    logs: list[LogLine] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    _speech: Speech | None = None

    @property
    def workspace_id(self) -> str:
        return self.around.workspace_id

    @property
    def collections(self) -> Collection[str] | None:
        return self.around.collections

    @property
    def execution_id(self) -> str:
        return self.around.execution_id

    @property
    def node_id(self) -> str:
        return self.node.id

    @property
    def idempotency_key(self) -> str:
        return f"{self.around.execution_id}:{self.node.id}"

    @property
    def context(self) -> Mapping[str, Any]:
        return self.around.context

    async def provider_key(self, provider: str, credential_id: str | None) -> str | None:
        return await self.around.discretion.provider_key(provider, credential_id)

    def token(self, text: str) -> None:
        self._speech = self._speech or Speech(self.around.discretion.redactor)
        self._say(self._speech.say(text))

    def _say(self, text: str) -> None:
        if text:
            self.around.journal.note(
                NodeToken(timestamp=self._now(), node_id=self.node.id, data={"text": text})
            )

    def log(self, level: str, message: str) -> None:
        if len(self.logs) < MAX_LOG_LINES:
            message = self.around.discretion.redactor.text(message)
            self.logs.append(LogLine(at=self.around.clock.now_ms(), level=level, message=message[:2000]))
            data = {"level": level, "message": message[:2000]}
            self.around.journal.note(NodeLog(timestamp=self._now(), node_id=self.node.id, data=data))

    def used(self, use: ModelUse) -> None:
        tokens = use.tokens
        self.uses.append(
            Use(
                model=use.model,
                input=tokens.input,
                output=tokens.output,
                cached=tokens.cached,
                cost=use.cost,
            )
        )
        self.around.budget.spend(use.cost or 0.0, tokens.input, tokens.output)

    def output_tokens_left(self, most_input: int = 0) -> int | None:
        budget, sharers = self.around.budget, len(self.around.running)
        left = budget.hold_tokens(self.node.id, sharers)
        of_day = budget.hold_day_tokens(self.node.id, sharers, most_input)
        return min((one for one in (left, of_day) if one is not None), default=None)

    def admit_cost(self, worst_usd: float | None) -> None:
        self.around.budget.hold_cost(self.node.id, worst_usd)

    async def run(self) -> NodeEnd:
        self.started_at = self.around.clock.now_ms()
        retry = self.node.retry or Retry(max_attempts=1)
        tries = 0
        while True:
            tries += 1
            self._start()
            try:
                outcome = await self._attempt()
                return self._completed(outcome, await self._kept(outcome.output))
            except CodexError as error:
                if not error.can_retry or tries >= retry.max_attempts:
                    return await self._failed(error)
                wait_ms = max(retry.backoff_ms * 2 ** (tries - 1), int((error.retry_after or 0) * 1000))
                self._note_retry(error, wait_ms)
                await self.around.sleep(wait_ms / 1000)

    def stopped(self, status: Literal["cancelled", "timed_out"]) -> NodeRecord:
        """What is left to say when the execution ends before the node does."""
        return self._record(status)

    def _start(self) -> None:
        self.attempt += 1
        data = {"attempt": self.attempt, "type": self.node.type.name}
        event = NodeStarted(timestamp=self._now(), node_id=self.node.id, data=data)
        self._line("info", f"Starting {self._label()}")
        self.around.journal.note(event, self._record("running"))

    async def _attempt(self) -> Outcome:
        metered = Metered(
            self.around.discretion.guard(self._here() if self.node.resources is None else self._elsewhere())
        )
        try:
            return await metered
        finally:
            if self._speech is not None:
                self._say(self._speech.rest())
            self._took(metered.seconds, 0.0)
            self.around.budget.release(self.node.id)

    async def _here(self) -> Outcome:
        secret = await self.around.discretion.reveal(self.node.secrets)
        return await self.node.type.run(self.node.config(self.around.context, secret), self)

    async def _elsewhere(self) -> Outcome:
        """Runs on a cluster node that has what the node asks for."""
        budget, resources = self.around.budget, self.node.resources
        assert resources is not None
        self.log("info", f"Asking for {resources.model_dump(exclude_none=True)}")
        errand = Errand(
            type=self.node.type.name,
            config=self.node.config_template.raw,
            context=self.context,
            workspace_id=self.workspace_id,
            collections=self.collections,
            execution_id=self.execution_id,
            node_id=self.node_id,
            attempt=self.attempt,
            idempotency_key=self.idempotency_key,
            user=self.around.discretion.user,
            tokens_left=budget.share_tokens(self.node.id, len(self.around.running)),
            cost_left=budget.share_cost(self.node.id, len(self.around.running)),
            day_tokens_left=budget.share_day_tokens(self.node.id, len(self.around.running)),
        )
        begun_ms, done = None, None
        try:
            async with aclosing(self.around.placement.run(errand, resources)) as pieces:
                async for piece in pieces:
                    match piece:
                        case Begun(place):
                            self.placed_on, begun_ms = place, self.around.clock.now_ms()
                        case Done():
                            done = piece
                            return piece.outcome
                        case Used(use):
                            self.used(use)
                        case Said(text, level):
                            self.log(level, text) if level else self.token(text)
        finally:
            if done is not None:
                self._took(done.cpu_seconds, done.gpu_seconds)
            elif begun_ms is not None:  # it cannot say: it failed, or was stopped or lost
                seconds = (self.around.clock.now_ms() - begun_ms) / 1000
                self._took(0.0, seconds * (resources.num_gpus or 0.0))
        raise Unavailable("The place where the node ran is lost")

    def _took(self, cpu_seconds: float, gpu_seconds: float) -> None:
        self.cpu_seconds += cpu_seconds
        self.gpu_seconds += gpu_seconds
        self.around.budget.spend(self.around.tariff.machine(cpu_seconds, gpu_seconds))

    def _completed(self, outcome: Outcome, kept: Mapping[str, Any]) -> NodeEnd:
        self._line("info", f"Completed {self._label()}")
        record = self._record("completed", branch=outcome.branch, **kept)
        self._note_completed(record)
        return NodeEnd(self.node.id, record, outcome.output)

    async def _failed(self, error: CodexError) -> NodeEnd:
        """Applies `on_error`: the failure ends here, goes to another node, or is the execution's."""
        handling = self.node.on_error
        handled = (
            "default" if isinstance(handling, Default) else "goto" if isinstance(handling, Goto) else None
        )
        shown = error.body() | {"details": {**error.details, "node_id": self.node.id}}
        self._line("error", str(error))
        event = NodeFailed(
            timestamp=self._now(),
            node_id=self.node.id,
            data={"error": shown, "attempt": self.attempt, "handled": handled},
        )
        if isinstance(handling, Default):
            record = self._record("completed", error=shown, **await self._kept(handling.default))
            self.around.journal.note(event)
            self._note_completed(record)
            return NodeEnd(self.node.id, record, handling.default)
        goto = handling.goto if isinstance(handling, Goto) else None
        record = self._record("failed", error=shown, goto=goto)
        self.around.journal.note(event, record)
        return NodeEnd(self.node.id, record, error=None if goto else error)

    def _note_completed(self, record: NodeRecord) -> None:
        data: dict[str, Any] = {
            "output": record.output,
            "duration_ms": record.duration_ms,
            "tokens": record.tokens,
            "cost": record.cost,
        }
        if record.output_ref:
            data["output_link"] = f"/v1/executions/{self.execution_id}/nodes/{self.node.id}"
        if record.branch is not None:
            data["branch"] = record.branch
        self.around.journal.note(
            NodeCompleted(timestamp=self._now(), node_id=self.node.id, data=data), record
        )

    def _note_retry(self, error: CodexError, wait_ms: int) -> None:
        message = f"Attempt {self.attempt} failed, next in {wait_ms} ms: {error}"
        self._line("warning", message)
        data = {"attempt": self.attempt, "wait_ms": wait_ms, "error": error.body()}
        event = NodeRetry(timestamp=self._now(), node_id=self.node.id, data=data)
        self.around.journal.note(event, self._record("running"))

    async def _kept(self, output: Any) -> dict[str, Any]:
        text = stored_form(output)
        if len(text) <= INLINE_OUTPUT:
            return {"output": output, "output_bytes": len(text)}
        return {"output_ref": await self.around.keep(self.node.id, text), "output_bytes": len(text)}

    def _record(self, status: NodeStatus, **more: Any) -> NodeRecord:
        running = status == "running"
        return NodeRecord(
            status=status,
            attempt=self.attempt,
            started_at=self.started_at,
            duration_ms=None if running else self.around.clock.now_ms() - self.started_at,
            logs=tuple(self.logs),
            uses=tuple(self.uses),
            placed_on=self.placed_on or self.around.placed_on,
            cpu_seconds=self.cpu_seconds,
            gpu_seconds=self.gpu_seconds,
            machine_cost=self.around.tariff.machine(self.cpu_seconds, self.gpu_seconds),
            **more,
        )

    def _line(self, level: str, message: str) -> None:
        self.logs.append(LogLine(at=self.around.clock.now_ms(), level=level, message=message))

    def _label(self) -> str:
        return f"{self.node.type.name} node" + (f", attempt {self.attempt}" if self.attempt > 1 else "")

    def _now(self) -> str:
        return rfc3339(self.around.clock.now_ms())


def stored_form(output: Any) -> bytes:
    """An output as JSON. Raises NodeError for what JSON cannot hold, or not so deep."""
    try:
        return orjson.dumps(output, default=str)
    except (TypeError, ValueError, RecursionError):
        raise NodeError("The output cannot be stored: it is no JSON, or nested too deep") from None
