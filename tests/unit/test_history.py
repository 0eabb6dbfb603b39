"""The judge of the fault tests finds each kind of broken promise."""

from typing import Any

import pytest

from tests.faults.history import History, faults


def event(
    seq: int, kind: str, node_id: str | None = None, at: str = "2026-01-01T00:00:01.000Z"
) -> dict[str, Any]:
    return {"seq": seq, "type": kind, "timestamp": at} | ({"node_id": node_id} if node_id else {})


GOOD = [event(1, "execution.started"), event(2, "node.completed", "a"), event(3, "execution.completed")]


def judged(events: list[dict[str, Any]], status: str = "completed", **calls: int) -> list[str]:
    return faults(History("exec_1", events, {"status": status}, calls))


def test_a_sound_history_has_no_fault() -> None:
    assert judged(GOOD, a=1) == []


@pytest.mark.parametrize(
    ("events", "status", "calls", "word"),
    [
        ([GOOD[0], GOOD[2]], "completed", {}, "gap"),
        ([*GOOD, event(4, "execution.failed")], "completed", {}, "2 terminal"),
        (GOOD[:2], "running", {}, "0 terminal"),
        ([*GOOD, event(4, "node.token", "a")], "completed", {}, "not last"),
        (GOOD, "failed", {}, "says failed"),
        (
            [*GOOD[:2], event(3, "node.completed", "a"), event(4, "execution.completed")],
            "completed",
            {},
            "2 times",
        ),
        (GOOD, "completed", {"a": 2}, "ran finished node a"),
    ],
)
def test_each_broken_promise_is_found(
    events: list[dict[str, Any]], status: str, calls: dict[str, int], word: str
) -> None:
    assert any(word in fault for fault in judged(events, status, **calls))


def test_a_node_cut_off_by_the_loss_may_run_twice() -> None:
    late = History("exec_1", GOOD, {"status": "completed"}, {"a": 2})
    assert faults(late, lost_at="2026-01-01T00:00:00.500Z") == []
    assert faults(late, lost_at="2026-01-01T00:00:02.000Z") != []
