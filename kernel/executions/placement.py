"""Where a node runs that asks for resources: on a cluster node that has them, away from its runner.

The seam is here; `actors/directory.py` fills it with Ray. What goes over are frozen facts and strings.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kernel.agents.flow import Resources
from kernel.agents.graph import validated
from kernel.agents.templating import compile_config
from kernel.errors import RateLimitError
from kernel.executions.discretion import Discretion, Secrets
from kernel.nodes.contract import ModelUse, NodeType, Outcome
from kernel.redaction import Speech


@dataclass(frozen=True, slots=True)
class Errand:
    """One attempt at one node, to be run elsewhere. config: as it was written, with its placeholders.

    user: of secrets. `tokens_left` (output), `day_tokens_left` (input and output) and `cost_left`: None is no limit.
    """

    type: str
    config: Mapping[str, Any]
    context: Mapping[str, Any]
    workspace_id: str
    collections: Collection[str] | None
    execution_id: str
    node_id: str
    attempt: int
    idempotency_key: str
    user: str
    tokens_left: int | None
    cost_left: float | None
    day_tokens_left: int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The node runs now. `place` is the id of the cluster node."""

    place: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a node says while it runs: a piece of output, or a log line with its level."""

    text: str
    level: str = ""


@dataclass(frozen=True, slots=True)
class Used:
    """A model call that the node made and that is billed."""

    use: ModelUse


@dataclass(frozen=True, slots=True)
class Done:
    """The last thing that comes back."""

    outcome: Outcome
    cpu_seconds: float
    gpu_seconds: float


Piece = Begun | Said | Used | Done


class Placement(Protocol):
    def run(self, errand: Errand, resources: Resources) -> "AsyncGenerator[Piece]":
        """`Begun`, what the node says and uses, then `Done`. Closing it stops the node.

        Raises what the node raises, Unavailable when its place is lost.
        """
        ...


class ErrandCall:
    """The `Call` of a node that runs away from its runner; what it says is gathered by `say`."""

    def __init__(self, errand: Errand, discretion: Discretion, say: Callable[[Said | Used], None]):
        self._errand, self._discretion, self._say = errand, discretion, say
        self._speech = Speech(discretion.redactor)
        self.workspace_id, self.collections = errand.workspace_id, errand.collections
        self.execution_id, self.node_id = errand.execution_id, errand.node_id
        self.attempt, self.idempotency_key = errand.attempt, errand.idempotency_key
        self.context = errand.context

    async def provider_key(self, provider: str, credential_id: str | None) -> str | None:
        return await self._discretion.provider_key(provider, credential_id)

    def token(self, text: str) -> None:
        self._say(Said(self._speech.say(text)))

    def log(self, level: str, message: str) -> None:
        self._say(Said(self._discretion.redactor.text(message), level))

    def end(self) -> None:
        """Says what was held back."""
        self._say(Said(self._speech.rest()))

    def used(self, use: ModelUse) -> None:
        self._say(Used(use))

    def output_tokens_left(self, most_input: int = 0) -> int | None:
        left, of_day = self._errand.tokens_left, self._errand.day_tokens_left
        if of_day is not None:
            left = of_day - most_input if left is None else min(left, of_day - most_input)
        if left is not None and left < 1:
            raise RateLimitError("The execution has used its output tokens", {"limit": "tokens"}, None, False)
        return left

    def admit_cost(self, worst_usd: float | None) -> None:
        left = self._errand.cost_left
        if left is not None and (worst_usd is None or worst_usd > left):
            raise RateLimitError(
                "The next call could pass the execution's max_cost or its share of a budget",
                {"limit": "budget"},
                None,
                False,
            )


async def carry_out(
    errand: Errand, node_types: Mapping[str, NodeType], secrets: Secrets, place: str, gpus: float
) -> AsyncGenerator[Piece]:
    """Runs an errand in this process, which is `place` and has `gpus` of its own."""
    said: asyncio.Queue[Said | Used | None] = asyncio.Queue()
    began, cpu = time.monotonic(), time.process_time()
    discretion = Discretion(errand.workspace_id, secrets, errand.user)
    call = ErrandCall(errand, discretion, said.put_nowait)
    work = asyncio.create_task(discretion.guard(_run(errand, node_types[errand.type], discretion, call)))
    work.add_done_callback(lambda _: said.put_nowait(None))
    try:
        yield Begun(place)
        while (piece := await said.get()) is not None:
            yield piece
        outcome = await work
    finally:
        work.cancel()
    yield Done(outcome, time.process_time() - cpu, (time.monotonic() - began) * gpus)


async def _run(errand: Errand, node_type: NodeType, discretion: Discretion, call: ErrandCall) -> Outcome:
    template = compile_config(dict(errand.config), node_type.source_fields)
    secret = await discretion.reveal(template.secrets)
    config = validated(errand.node_id, node_type, template.render(errand.context, secret))
    try:
        return await node_type.run(config, call)
    finally:
        call.end()


@dataclass(frozen=True, slots=True)
class Here:
    """The placement of a process that has no cluster: everything runs in it."""

    node_types: Mapping[str, NodeType]
    secrets: Secrets
    place: str

    async def run(self, errand: Errand, resources: Resources) -> AsyncGenerator[Piece]:
        gpus = resources.num_gpus or 0.0
        async for piece in carry_out(errand, self.node_types, self.secrets, self.place, gpus):
            yield piece
