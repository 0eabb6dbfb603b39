"""Walks an execution's graph: nodes that are ready run at once, each result is durable before its successors start.

A node runs when all its predecessors have ended and at least one way into it is live; when none is, it is
skipped. What the journal holds already is taken from there and never run again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import orjson

from kernel.agents.graph import ON_ERROR, Graph
from kernel.clock import rfc3339
from kernel.errors import CodexError
from kernel.executions.attempt import NodeEnd, NodeRun, Surroundings
from kernel.executions.events import NodeSkipped
from kernel.executions.record import NodeRecord
from kernel.nodes.contract import NodeType

FetchObject = Callable[[str], Awaitable[bytes]]


class NodeFailed(Exception):
    """A node failed and nothing handles it: the execution fails with its error."""

    def __init__(self, node_id: str, error: CodexError):
        super().__init__(node_id)
        self.node_id = node_id
        self.error = error


class Engine:
    def __init__(self, graph: Graph[NodeType], around: Surroundings, values: dict[str, Any]):
        """values: the `nodes` part of the context, which fills as nodes complete."""
        self._graph, self._around, self._values = graph, around, values
        self._open = {node_id: len(node.predecessors) for node_id, node in graph.nodes.items()}
        self._live = set(graph.start)
        self._ready = deque(
            node_id for node_id in graph.nodes if node_id in self._live and not self._open[node_id]
        )
        self._begun: dict[str, NodeRecord] = {}
        self._active: dict[str, NodeRun] = {}
        self.records: dict[str, NodeRecord] = {}

    async def restore(self, journal: Mapping[str, NodeRecord], fetch: FetchObject) -> None:
        """Takes over what an earlier runner, or the execution that this one retries, has finished."""
        for node_id, record in journal.items():
            if record.status == "running":
                self._begun[node_id] = record
            elif record.output_ref:
                self._values[node_id] = {"output": orjson.loads(await fetch(record.output_ref))}
        done = {node_id: record for node_id, record in journal.items() if record.status != "running"}
        self.records.update(done)
        for record in (record for record in journal.values() if not record.reused):
            self._around.budget.spend(record.machine_cost)
            for use in record.uses:
                self._around.budget.spend(use.cost or 0.0, use.input, use.output)
        for node_id in self._graph.nodes:
            if node_id in done:
                record = done[node_id]
                value = self._values.get(node_id, {}).get("output", record.output)
                self._settle(NodeEnd(node_id, record, value))
        self._ready = deque(node_id for node_id in self._ready if node_id not in done)

    async def run(self) -> Any:
        """The execution's output. Raises NodeFailed, Fenced."""
        tasks: dict[asyncio.Task[NodeEnd], str] = {}
        try:
            while self._ready or tasks:
                if len(self._ready) == 1 and not tasks:
                    ended = [await self._node(self._ready.popleft())]
                else:
                    ended = await self._together(tasks)
                for end in ended:
                    if end.error is not None:
                        raise NodeFailed(end.node_id, end.error)
                    self._settle(end)
                if self._ready:
                    await self._around.journal.commit()
        finally:
            await _stop(tasks)
        return self._output()

    async def _together(self, tasks: dict[asyncio.Task[NodeEnd], str]) -> list[NodeEnd]:
        self._around.running.update(self._ready)
        while self._ready:
            node_id = self._ready.popleft()
            tasks[asyncio.create_task(self._node(node_id))] = node_id
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del tasks[task]
        return [task.result() for task in done]

    async def _node(self, node_id: str) -> NodeEnd:
        before = self._begun.pop(node_id, NodeRecord(status="running"))
        run = NodeRun(
            *(self._graph.nodes[node_id], self._around, before.attempt),
            *(before.cpu_seconds, before.gpu_seconds),
            uses=list(before.uses),
        )
        self._around.running.add(node_id)
        self._active[node_id] = run
        end = await run.run()
        self.records[node_id] = end.record
        self._around.running.discard(node_id)
        del self._active[node_id]
        return end

    def _settle(self, end: NodeEnd) -> None:
        """Keeps the value and resolves the ways out; skips ripple on until a live way is met."""
        if end.record.status == "completed":
            self._values[end.node_id] = {"output": end.value}
        ended = deque([(self._graph.nodes[end.node_id], end.record)])
        while ended:
            node, record = ended.popleft()
            for target, when in node.successors:
                if _is_live(record, target, when):
                    self._live.add(target)
                self._open[target] -= 1
                if self._open[target] == 0 and target not in self.records:
                    if target in self._live:
                        self._ready.append(target)
                    else:
                        ended.append((self._graph.nodes[target], self._skip(target)))

    def interrupt(self, status: Literal["cancelled", "timed_out"]) -> None:
        """Writes down that the nodes still active were stopped."""
        stopped = {node_id: run.stopped(status) for node_id, run in self._active.items()}
        left = {
            node_id: record.model_copy(update={"status": status}) for node_id, record in self._begun.items()
        }
        for node_id, record in (stopped | left).items():
            self.records[node_id] = record
            self._around.journal.set(node_id, record)

    def _skip(self, node_id: str) -> NodeRecord:
        record = NodeRecord(status="skipped")
        self.records[node_id] = record
        event = NodeSkipped(timestamp=rfc3339(self._around.clock.now_ms()), node_id=node_id)
        self._around.journal.note(event, record)
        return record

    def _output(self) -> Any:
        """One end that was reached: its value; several: an object by node id."""
        reached = {
            node_id: self._values[node_id]["output"]
            for node_id, when in self._graph.outputs
            if node_id in self._values and _is_live(self.records[node_id], "", when)
        }
        return reached if len(reached) > 1 else next(iter(reached.values()), None)


def _is_live(record: NodeRecord, target: str, when: str | None) -> bool:
    if when == ON_ERROR:
        return record.status == "failed" and record.goto == target
    return record.status == "completed" and (when is None or record.branch == when)


async def _stop(tasks: Mapping[asyncio.Task[NodeEnd], str]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
