"""What surrounds a node in tests: the models there are, the real node types, and a call that remembers."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from kernel.errors import NodeError, NotFound, RateLimitError
from kernel.knowledge.search import Found
from kernel.models.seam import ChatModel, ModelInfo, Tokens
from kernel.nodes.contract import ModelUse
from kernel.nodes.registry import registry
from kernel.nodes.sandbox import Sandbox
from kernel.outbound import Egress


class KnownModels:
    """Knows two models."""

    def list(self) -> list[ModelInfo]:
        return [ModelInfo("gpt-4", "openai", "gpt-4", "chat")]

    def check(self, model_id: str) -> str | None:
        return None if model_id in ("gpt-4", "scripted") else f"Model '{model_id}' is not supported"

    def credential(self, model_id: str) -> str | None:
        return None

    def chat(self, model_id: str, key: str | None = None) -> tuple[ChatModel, str]:
        raise NodeError("These tests run nothing")

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        return None


class Calls:
    """Counts in memory what the platform counts in its store."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def next(self, key: str) -> int:
        self.seen[key] += 1
        return self.seen[key]


class KnownSecrets:
    """Those that a test puts in, by name, id or provider."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def named(self, ws: str, name: str, user: str) -> Any:
        if name not in self.values:
            raise NotFound("Credential not found")
        return self.values[name]

    async def key(self, ws: str, credential_id: str, user: str) -> str:
        return str(await self.named(ws, credential_id, user))

    async def provider_key(self, ws: str, provider: str, user: str) -> str | None:
        return self.values.get(provider)


class NoCollections:
    """Has nothing to search in."""

    async def of_one(self, *args: Any) -> Found:
        raise NotFound("Collection not found")


MODELS = KnownModels()
TYPES = registry(MODELS, Egress(), Sandbox(), NoCollections())


@dataclass
class RecordedCall:
    """One try at a node: keeps what the node said, and has the bounds it is given."""

    input: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)
    tokens_left: int | None = None
    budget_usd: float | None = None
    workspace_id: str = "ws_1"
    collections: Collection[str] | None = None
    execution_id: str = "exec_1"
    node_id: str = "n1"
    attempt: int = 1
    idempotency_key: str = "exec_1/n1"
    tokens: list[str] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)
    worst_costs: list[float | None] = field(default_factory=list)
    uses: list[ModelUse] = field(default_factory=list)

    @property
    def context(self) -> dict[str, Any]:
        nodes = {name: {"output": output} for name, output in self.outputs.items()}
        return {"input": self.input, "nodes": nodes, "execution": {"id": self.execution_id}}

    async def provider_key(self, provider: str, credential_id: str | None) -> str | None:
        return None

    def token(self, text: str) -> None:
        self.tokens.append(text)

    def log(self, level: str, message: str) -> None:
        self.logs.append((level, message))

    def used(self, use: ModelUse) -> None:
        self.uses.append(use)

    def output_tokens_left(self, most_input: int = 0) -> int | None:
        if self.tokens_left == 0:
            raise RateLimitError("No tokens left", {"limit": "tokens"})
        return self.tokens_left

    def admit_cost(self, worst_usd: float | None) -> None:
        self.worst_costs.append(worst_usd)
        if self.budget_usd is not None and worst_usd is not None and worst_usd > self.budget_usd:
            raise RateLimitError("No budget left", {"limit": "budget"})
