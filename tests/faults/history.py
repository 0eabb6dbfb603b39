"""Judges what the platform did to a set of executions, from what it says of them afterwards.

Pure, so that it is itself tested with broken histories: a judge that never finds fault proves nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ENDS = {"execution.completed", "execution.failed", "execution.cancelled", "execution.timed_out"}


@dataclass(frozen=True)
class History:
    """One execution: its events as replayed from 0, what GET says, and how often each node's model was called."""

    execution_id: str
    events: Sequence[Mapping[str, Any]]
    shown: Mapping[str, Any]
    calls: Mapping[str, int] = field(default_factory=dict)


def faults(history: History, lost_at: str | None = None) -> list[str]:
    """Every broken promise, one sentence each. lost_at: when its runner was hurt, RFC 3339."""
    return [f"{history.execution_id}: {text}" for text in _faults(history, lost_at)]


def _faults(history: History, lost_at: str | None) -> list[str]:
    found = []
    types = [event["type"] for event in history.events]
    ends = [kind for kind in types if kind in ENDS]
    if [event["seq"] for event in history.events] != list(range(1, len(types) + 1)):
        found.append("seq has a gap, a repeat or a wrong order")
    if len(ends) != 1 or types[-1:] != ends:
        found.append(f"has {len(ends)} terminal events, or one that is not last")
    if ends[:1] != [f"execution.{history.shown['status']}"]:
        found.append(f"says {history.shown['status']} but its events end with {ends}")
    completed = Counter(event["node_id"] for event in history.events if event["type"] == "node.completed")
    found += [f"completed node {node} {count} times" for node, count in completed.items() if count > 1]
    return found + _run_again(history, lost_at)


def _run_again(history: History, lost_at: str | None) -> list[str]:
    """A node finished before the loss was journaled, so nothing may have called its model again."""
    finished = {
        event["node_id"]
        for event in history.events
        if event["type"] == "node.completed" and (lost_at is None or event["timestamp"] < lost_at)
    }
    return [
        f"ran finished node {node} {history.calls[node]} times"
        for node in finished
        if history.calls.get(node, 1) != 1
    ]
