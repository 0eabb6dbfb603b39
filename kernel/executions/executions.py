"""Executions as callers see them: order, look, wait, follow, cancel, retry, delete."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from kernel.access.principal import Principal
from kernel.agents.flow import Flow
from kernel.agents.judge import Judgement
from kernel.agents.secrets import mentions_secrets
from kernel.clock import Clock, rfc3339
from kernel.errors import Conflict, NotFound, PayloadTooLarge, ValidationError
from kernel.executions.events import ExecutionCancelled, ExecutionStarted
from kernel.executions.intake import Intake
from kernel.executions.lookup import Lookup
from kernel.executions.order import ExecutionFilter, Order, Spec, Started
from kernel.executions.record import NodeRecord, parse_nodes, shown, shown_node, shown_row
from kernel.executions.watch import Watch
from kernel.ids import first_id_at, is_id, new_id
from kernel.metering.plans import Plans
from kernel.paging import Page, PageQuery
from kernel.storage.archive import Archive
from kernel.storage.executions import AgentChanged, Creation, ExecutionStore, StoredExecution
from kernel.storage.following import StreamEvent
from kernel.storage.objects import ObjectStore
from kernel.storage.room import Room
from kernel.webhooks.webhooks import Webhooks

MAX_INPUT = 1_000_000


@dataclass(frozen=True, slots=True)
class Executions:
    store: ExecutionStore
    lookup: Lookup
    archive: Archive
    intake: Intake
    objects: ObjectStore
    watch: Watch
    clock: Clock
    plans: Plans
    judge: Callable[[str, Flow], Awaitable[Judgement]]
    room: Room
    webhooks: Webhooks

    async def start(
        self, who: Principal, agent_id: str, order: Order, *, wait: bool = False, idempotency_record: str = ""
    ) -> Started:
        """Accepts an execution durably. Raises NotFound, Conflict, ValidationError, RateLimitError, Unavailable.

        wait: the caller means to call `wait` for it.
        """
        if not is_id("agent", agent_id):
            raise NotFound("Agent not found")
        while True:
            version = await self.intake.version(who.workspace_id, agent_id, order)
            spec = Spec(
                agent_id=agent_id,
                agent_version=version,
                input=order.input,
                options=order.options,
                **_behind(who),
            )
            try:
                expected = "" if order.options.version else version
                return await self._create(who, spec, expected, wait, idempotency_record)
            except AgentChanged:
                self.intake.forget(who.workspace_id, agent_id)
            except NotFound:
                self.intake.forget(who.workspace_id, agent_id)
                raise

    async def start_inline(
        self, who: Principal, flow: Flow, order: Order, *, wait: bool = False, idempotency_record: str = ""
    ) -> Started:
        """The same for a flow that is not stored, checked like a stored one."""
        if mentions_secrets(flow):
            who.require_secrets()
        if problems := (await self.judge(who.workspace_id, flow)).problems:
            raise ValidationError.of("Invalid flow", problems)
        spec = Spec(
            agent_id=None,
            agent_version=None,
            flow=flow.model_dump(mode="json"),
            input=order.input,
            options=order.options,
            **_behind(who),
        )
        return await self._create(who, spec, "", wait, idempotency_record)

    async def retry(
        self,
        who: Principal,
        execution_id: str,
        start: Literal["failed", "start"],
        *,
        idempotency_record: str = "",
    ) -> Started:
        """A new execution of the same order; from `failed` on it keeps what was completed. Raises Conflict."""
        stored = await self._stored(who.workspace_id, execution_id)
        status = stored.record["status"].decode()
        if status == "running":
            raise Conflict("The execution is still running", {"status": status})
        if start == "failed" and status == "completed":
            raise Conflict("Nothing failed: retry from the start", {"status": status})
        old = Spec.model_validate_json(stored.record["spec"])
        if old.agent_id is None:
            who.require("agents:write")
        spec = old.model_copy(update=_behind(who) | {"retry_of": execution_id})
        new = new_id("exec")
        journal = await self._reusable(who.workspace_id, stored, new) if start == "failed" else {}
        return await self._create(who, spec, "", False, idempotency_record, new, journal)

    async def get(self, workspace_id: str, execution_id: str) -> dict[str, Any]:
        """The API's shape. Raises NotFound."""
        stored = await self._stored(workspace_id, execution_id)
        fields = stored.record
        position = None
        if fields["status"] == b"running" and fields["phase"] == b"queued":
            position = await self.store.queue_position(workspace_id, execution_id)
        return shown(execution_id, fields, parse_nodes(stored.nodes), await self._output(fields), position)

    async def list(
        self, workspace_id: str, wanted: ExecutionFilter, query: PageQuery
    ) -> Page[dict[str, Any]]:
        pairs = {"agent": wanted.agent_id, "status": wanted.status, "label": wanted.label}
        filters = {field: value for field, value in pairs.items() if value is not None}
        low, high = _bound(wanted.started_after), _bound(wanted.started_before)
        page = await self.lookup.page(workspace_id, filters, low, high, query)
        return Page([shown_row(row) for row in page.items], page.total, page.last_id, page.more)

    async def node(self, workspace_id: str, execution_id: str, node_id: str) -> dict[str, Any]:
        """One node with its whole output, however large. Raises NotFound."""
        stored = await self._stored(workspace_id, execution_id)
        if node_id not in stored.nodes:
            raise NotFound("Node not found in this execution")
        record = NodeRecord.model_validate_json(stored.nodes[node_id])
        view = shown_node(node_id, record, execution_id)
        if record.output_ref:
            view["output"] = orjson.loads(await self.objects.get(record.output_ref))
        view["logs"] = [
            {"timestamp": rfc3339(line.at), "level": line.level, "message": line.message}
            for line in record.logs
        ]
        return view

    async def wait(self, workspace_id: str, execution_id: str, seconds: float) -> bytes | None:
        """The ended execution as `get` shows it, as JSON; None when it is not over in time."""
        told = await self.watch.ended(workspace_id, execution_id, seconds)
        return told if told != b"" else orjson.dumps(await self.get(workspace_id, execution_id))

    async def follow(self, workspace_id: str, execution_id: str, after: int) -> AsyncGenerator[StreamEvent]:
        """Events after a seq, to the terminal one. Raises NotFound before the first, SlowReader."""
        await self.status(workspace_id, execution_id)
        async for event in self.watch.follow(workspace_id, execution_id, after):
            yield event

    async def status(self, workspace_id: str, execution_id: str) -> str:
        """Raises NotFound."""
        status = await self.lookup.status(workspace_id, execution_id)
        if status is None:
            raise NotFound("Execution not found")
        return status

    async def cancel(self, workspace_id: str, execution_id: str) -> dict[str, Any]:
        """Idempotent. Raises Conflict when it ended otherwise, NotFound."""
        await self.status(workspace_id, execution_id)
        now = self.clock.now_ms()
        event = ExecutionCancelled(timestamp=rfc3339(now)).encode()
        state = await self.store.cancel(workspace_id, execution_id, now, event)
        state = state or await self.status(workspace_id, execution_id)
        if state not in ("cancelled", "cancelling"):
            raise Conflict(f"The execution has ended already: {state}", {"status": state})
        running = {"status": "running", "phase": "cancelling"}
        return {"id": execution_id} | (running if state == "cancelling" else {"status": state})

    async def delete(self, workspace_id: str, execution_id: str) -> None:
        """Raises NotFound, Conflict while it runs."""
        await self.status(workspace_id, execution_id)
        if await self.store.delete(workspace_id, execution_id):
            await self.archive.hide(workspace_id, execution_id)
        elif (archived := await self.archive.find(workspace_id, execution_id)) is not None:
            await self.archive.erase(workspace_id, archived)
        await self.objects.delete_folder(f"executions/{workspace_id}/{execution_id}")

    async def _create(
        self,
        who: Principal,
        spec: Spec,
        expected: str,
        wait: bool,
        idempotency_record: str,
        execution_id: str | None = None,
        journal: Mapping[str, bytes] | None = None,
    ) -> Started:
        self.room.check()
        execution_id, now = execution_id or new_id("exec"), self.clock.now_ms()
        plan = self.plans.of(who.plan, who.overrides)
        text = spec.model_dump_json().encode()
        if len(text) > MAX_INPUT and len(orjson.dumps(spec.input)) > MAX_INPUT:
            raise PayloadTooLarge("The input is larger than 1 MB", {"field": "input", "max_bytes": MAX_INPUT})
        hook = spec.options.webhook_url
        if hook is not None:
            await self.webhooks.check_hook(who.workspace_id, hook)
        started = ExecutionStarted(
            timestamp=rfc3339(now), data={"agent_id": spec.agent_id, "agent_version": spec.agent_version}
        )
        if wait:
            await self.watch.expect(execution_id)
        try:
            await self.store.create(
                Creation(
                    workspace_id=who.workspace_id,
                    execution_id=execution_id,
                    agent_id=spec.agent_id or "",
                    expected_version=expected,
                    spec=text,
                    priority=spec.options.priority,
                    now_ms=now,
                    first_event=started.encode(),
                    key_id=who.key_id,
                    slots=plan.concurrent,
                    tokens_per_day=plan.tokens_per_day,
                    reply_to=self.watch.address if wait else "",
                    idempotency_record=idempotency_record,
                    hook=hook or "",
                    labels=tuple(f"{name}={value}" for name, value in spec.options.labels.items()),
                    journal=journal,
                )
            )
        except BaseException:
            self.watch.forget(execution_id)
            raise
        return Started(execution_id, now)

    async def _stored(self, workspace_id: str, execution_id: str) -> StoredExecution:
        stored = await self.lookup.stored(workspace_id, execution_id)
        if stored is None:
            raise NotFound("Execution not found")
        return stored

    async def _output(self, fields: Mapping[str, bytes]) -> Any:
        if "output_ref" in fields:
            return orjson.loads(await self.objects.get(fields["output_ref"].decode()))
        return orjson.loads(fields["output"]) if "output" in fields else None

    async def _reusable(self, workspace_id: str, stored: StoredExecution, new: str) -> dict[str, bytes]:
        """The completed nodes' records for the new execution's journal, large outputs copied."""
        kept: dict[str, bytes] = {}
        for node_id, record in parse_nodes(stored.nodes).items():
            if record.status != "completed" and record.goto is None:
                continue
            update: dict[str, Any] = {"reused": True}
            if record.output_ref:
                data = await self.objects.get(record.output_ref)
                update["output_ref"] = await self.objects.put(
                    f"executions/{workspace_id}/{new}/0/{node_id}", data
                )
            kept[node_id] = record.model_copy(update=update).encode()
        return kept


def _behind(who: Principal) -> dict[str, Any]:
    """Of a spec: the key, and what it reaches."""
    only = None if who.collections is None else tuple(sorted(who.collections))
    return {"created_by": who.key_id, "collections": only}


def _bound(moment_ms: int | None) -> str:
    return "" if moment_ms is None else first_id_at("exec", moment_ms)
