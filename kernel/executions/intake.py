"""What an order runs: the agent's version, and an input that fits it.

Agents are kept as last read. That may be stale; the store refuses a start whose version is not current any more,
and the caller forgets the agent and asks again.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernel.agents.catalog import Agents
from kernel.agents.record import CurrentAgent
from kernel.errors import NodeError, NotFound, Problem, ValidationError
from kernel.executions.order import Order
from kernel.nodes.sandbox import Sandbox

AGENTS_KEPT = 2000
PATIENCE_S = 5.0
"""How long an input waits for its turn to be checked."""


@dataclass(frozen=True, slots=True)
class Intake:
    agents: Agents
    sandbox: Sandbox
    known: "OrderedDict[tuple[str, str], CurrentAgent]"

    async def version(self, workspace_id: str, agent_id: str, order: Order) -> str:
        """The version to run, its input checked. Raises NotFound, ValidationError, Unavailable."""
        agent = await self._agent(workspace_id, agent_id)
        version, schema = agent.version, agent.input_schema
        if order.options.version and order.options.version != version:
            version = order.options.version
            schema = await self._schema(workspace_id, agent_id, version)
        if schema is not None:
            await self._check(schema, order.input)
        return version

    def forget(self, workspace_id: str, agent_id: str) -> None:
        """To be called when the store says that the agent is not as it was read."""
        self.known.pop((workspace_id, agent_id), None)

    async def _agent(self, workspace_id: str, agent_id: str) -> CurrentAgent:
        at = (workspace_id, agent_id)
        if (agent := self.known.get(at)) is None:
            agent = self.known[at] = await self.agents.current(workspace_id, agent_id)
            if len(self.known) > AGENTS_KEPT:
                self.known.popitem(last=False)
        return agent

    async def _schema(self, workspace_id: str, agent_id: str, version: str) -> dict[str, Any] | None:
        try:
            document = await self.agents.version(workspace_id, agent_id, version)
        except NotFound:
            raise ValidationError.at("options.version", f"The agent has no version {version}") from None
        schema: dict[str, Any] | None = document.get("input_schema")
        return schema

    async def _check(self, schema: Mapping[str, Any], value: Any) -> None:
        """In the sandbox: a schema's patterns could keep a processor busy for ever."""
        try:
            found = await self.sandbox.run("schema", schema, value, patience_s=PATIENCE_S)
        except NodeError as error:
            raise ValidationError.at("input", f"It cannot be checked against input_schema: {error}") from None
        if found:
            problems = [Problem(_path(one["path"]), one["reason"]) for one in found]
            raise ValidationError.of("The input does not fit the agent's input_schema", problems)


def _path(steps: Sequence[str | int]) -> str:
    return "input" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
