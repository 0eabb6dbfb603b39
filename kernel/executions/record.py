"""One node's line in the journal, and how a stored execution is shown to callers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from kernel.clock import rfc3339, rfc3339_or_none
from kernel.metering.tariff import micro

NodeStatus = Literal["running", "completed", "failed", "skipped", "cancelled", "timed_out"]
INLINE_OUTPUT = 64 * 1024
"""Bytes of JSON up to which an output is kept in the journal and shown in lists of nodes."""


class Use(BaseModel):
    """One billed model call."""

    model_config = ConfigDict(frozen=True)

    model: str
    input: int
    output: int
    cached: int
    cost: float | None


class LogLine(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: int
    level: str
    message: str


class NodeRecord(BaseModel):
    """`output` is the value, or None with `output_ref` naming the object that holds it. Times: ms.

    `goto`: the node that took over after a handled failure. `reused`: from the execution this one retries.
    `machine_cost`: USD of its processor and GPU seconds, by the tariff of that time.
    """

    model_config = ConfigDict(frozen=True)

    status: NodeStatus
    attempt: int = 0
    started_at: int | None = None
    duration_ms: int | None = None
    output: Any = None
    output_ref: str | None = None
    output_bytes: int = 0
    branch: str | None = None
    goto: str | None = None
    error: dict[str, Any] | None = None
    uses: tuple[Use, ...] = ()
    logs: tuple[LogLine, ...] = ()
    placed_on: str = ""
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    machine_cost: float = 0.0
    reused: bool = False

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()

    @property
    def tokens(self) -> int:
        return sum(use.input + use.output for use in self.uses)

    @property
    def cost(self) -> float | None:
        return total_cost((self,))


class Totals(BaseModel):
    """What an execution used, over all its nodes."""

    model_config = ConfigDict(frozen=True)

    tokens_used: int = 0
    cost: float | None = None
    cpu_ms: int = 0
    gpu_ms: int = 0
    by_model: dict[str, dict[str, int]] = Field(default_factory=dict)
    costs: dict[str, float | None] = Field(default_factory=dict)
    """USD by model, not rounded; None is unknown."""
    known_cost: float = 0.0
    """USD of what is known of the cost, not rounded."""

    @classmethod
    def of(cls, nodes: Mapping[str, NodeRecord]) -> "Totals":
        own = [node for node in nodes.values() if not node.reused]
        by_model: dict[str, list[Use]] = defaultdict(list)
        for use in (use for node in own for use in node.uses):
            by_model[use.model].append(use)
        return cls(
            tokens_used=sum(node.tokens for node in own),
            cost=total_cost(own),
            known_cost=sum(cost for cost in _costs(own) if cost is not None),
            cpu_ms=round(1000 * sum(node.cpu_seconds for node in own)),
            gpu_ms=round(1000 * sum(node.gpu_seconds for node in own)),
            by_model={model: _tokens(uses) for model, uses in by_model.items()},
            costs={model: _sum(use.cost for use in uses) for model, uses in by_model.items()},
        )

    def spent(self) -> bytes:
        """What is counted of it: tokens, cost (of one that is not known, under `k`, what is known), CPU and GPU ms, and
        by model tokens and cost; empty when it is all zero. Costs are in millionths of a USD."""
        models = {
            model: [tokens["input"] + tokens["output"], _micro(self.costs[model])]
            for model, tokens in self.by_model.items()
        }
        counts = {"t": self.tokens_used, "c": _micro(self.cost), "p": self.cpu_ms, "g": self.gpu_ms}
        counts |= {"k": micro(self.known_cost)} if self.cost is None else {}
        return orjson.dumps(counts | {"m": models}) if any(count != 0 for count in counts.values()) else b""


def total_cost(nodes: Iterable[NodeRecord]) -> float | None:
    """USD of model calls and machines; None as soon as one price is unknown: that makes the sum unknown."""
    total = _sum(_costs(nodes))
    return None if total is None else round(total, 6)


def _costs(nodes: Iterable[NodeRecord]) -> list[float | None]:
    """Of all their machines and model calls."""
    return [cost for node in nodes for cost in (node.machine_cost, *(use.cost for use in node.uses))]


def _sum(costs: Iterable[float | None]) -> float | None:
    known = list(costs)
    return None if None in known else sum(cost for cost in known if cost is not None)


def _micro(usd: float | None) -> int | None:
    return None if usd is None else micro(usd)


def _tokens(uses: Iterable[Use]) -> dict[str, int]:
    names = ("input", "output", "cached")
    return {name: sum(getattr(use, name) for use in uses) for name in names}


def parse_nodes(nodes: Mapping[str, bytes]) -> dict[str, NodeRecord]:
    return {node_id: NodeRecord.model_validate_json(text) for node_id, text in nodes.items()}


def shown_node(node_id: str, node: NodeRecord, execution_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": node_id,
        "status": node.status,
        "attempt": node.attempt,
        "started_at": rfc3339_or_none(node.started_at),
        "duration_ms": node.duration_ms,
        "tokens": node.tokens,
        "cost": node.cost,
        "placed_on": {
            "node": node.placed_on or None,
            "cpu_seconds": round(node.cpu_seconds, 6),
            "gpu_seconds": round(node.gpu_seconds, 6),
        },
        "output": node.output,
    }
    if node.output_ref:
        shown["output_link"] = f"/v1/executions/{execution_id}/nodes/{node_id}"
    for name in ("branch", "goto", "error"):
        if (value := getattr(node, name)) is not None:
            shown[name] = value
    return shown | ({"reused": True} if node.reused else {})


def shown(
    execution_id: str,
    fields: Mapping[str, bytes],
    nodes: Mapping[str, NodeRecord],
    output: Any,
    queue_position: int | None = None,
) -> dict[str, Any]:
    """`GET /executions/{id}`. `output` is the result's value, fetched already if it was kept elsewhere."""
    spec = orjson.loads(fields["spec"])
    status = fields["status"].decode()
    view: dict[str, Any] = {"id": execution_id} | _when(fields) | {"status": status}
    view |= {name: spec.get(name) for name in ("agent_id", "agent_version")}
    if status == "running":
        view["phase"] = fields["phase"].decode()
        view |= {"queue_position": queue_position} if queue_position is not None else {}
    totals = Totals.of(nodes)
    view["result"] = None if status == "running" else _result(status, output, totals)
    view["tokens"] = totals.by_model
    if "error" in fields:
        view["error"] = orjson.loads(fields["error"])
    if spec.get("retry_of"):
        view["retry_of"] = spec["retry_of"]
    ordered = sorted(
        nodes.items(), key=lambda pair: (pair[1].started_at is None, pair[1].started_at, pair[0])
    )
    if status != "running":
        ordered = [(node_id, _over(node)) for node_id, node in ordered]
    return view | {
        "input": spec["input"],
        "labels": spec["options"]["labels"],
        "nodes": [shown_node(node_id, node, execution_id) for node_id, node in ordered],
        "logs": _logs(fields, ordered),
    }


def shown_row(row: Mapping[str, str]) -> dict[str, Any]:
    """An item of `GET /executions`."""
    labels = dict(line.split("=", 1) for line in row.get("labels", "").split("\n") if line)
    item: dict[str, Any] = {"id": row["id"], "agent_id": row.get("agent") or None, "status": row["status"]}
    if row["status"] == "running":
        item["phase"] = row["phase"]
    return item | {
        **_when({name: value.encode() for name, value in row.items()}),
        "tokens_used": int(row["tokens_used"]) if "tokens_used" in row else None,
        "cost": float(row["cost"]) if row.get("cost") else None,
        "labels": labels,
    }


def _over(node: NodeRecord) -> NodeRecord:
    """A node that was cut off with its execution: whoever ended that had not its record at hand."""
    return node.model_copy(update={"status": "cancelled"}) if node.status == "running" else node


def _result(status: str, output: Any, totals: Totals) -> dict[str, Any]:
    return {
        "output": output if status == "completed" else None,
        "tokens_used": totals.tokens_used,
        "cost": totals.cost,
    }


def _when(fields: Mapping[str, bytes]) -> dict[str, Any]:
    times = {name: int(fields[name]) if fields.get(name) else None for name in ("created_at", "started_at")}
    ended = int(fields["completed_at"]) if fields.get("completed_at") else None
    started = times["started_at"]
    return {
        **{name: rfc3339_or_none(value) for name, value in times.items()},
        "completed_at": rfc3339_or_none(ended),
        "duration_ms": ended - started if ended is not None and started is not None else None,
    }


def _logs(fields: Mapping[str, bytes], nodes: list[tuple[str, NodeRecord]]) -> list[dict[str, Any]]:
    lines: list[tuple[int, str, str, str]] = []
    if fields.get("started_at"):
        lines.append((int(fields["started_at"]), "info", "Starting execution", "entry"))
    for node_id, node in nodes:
        lines += [(line.at, line.level, line.message, node_id) for line in node.logs]
    lines.sort(key=lambda line: line[0])
    return [
        {"timestamp": rfc3339(at), "level": level, "message": message, "node_id": node_id}
        for at, level, message, node_id in lines
    ]
