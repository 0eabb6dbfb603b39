import os
from pathlib import Path

import pytest

from cluster.failure import Refused
from cluster.layout import Home
from cluster.ports import choose
from cluster.processes import Process, remember
from cluster.state import (
    PartRecord,
    PartState,
    State,
    Step,
    boot_id,
    forget_steps,
    note_step,
    read_state,
    read_steps,
    write_state,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "run").mkdir()
    return Home(tmp_path)


def state(keeper: Process, part: Process, boot: str | None = None) -> State:
    record = PartRecord(state=PartState.RUNNING, processes={"valkey": part})
    return State(
        version="1",
        boot=boot or boot_id(),
        url="http://127.0.0.1:8000",
        ready=True,
        keeper=keeper,
        ports=choose(8000, None),
        parts={"store": record},
    )


OWN = remember(os.getpid())
DEAD = Process(pid=os.getpid(), started=1)


def test_state_is_read_as_written(home: Home) -> None:
    assert OWN
    assert read_state(home) is None
    written = state(OWN, OWN)
    write_state(home, written)
    assert read_state(home) == written


def test_a_record_of_another_version_is_refused(home: Home) -> None:
    (home.run / "state.json").write_text('{"version": "0"}')
    with pytest.raises(Refused, match="another version"):
        read_state(home)


def test_a_keeper_lives_only_with_its_start_time() -> None:
    assert OWN
    assert state(OWN, DEAD).keeper_alive()
    assert not state(DEAD, OWN).keeper_alive()


def test_parts_without_a_keeper_are_seen() -> None:
    assert OWN
    assert state(DEAD, OWN).any_alive()
    assert not state(DEAD, DEAD).any_alive()


def test_nothing_lives_over_a_reboot() -> None:
    assert OWN
    earlier = state(OWN, OWN, boot="another")
    assert not earlier.keeper_alive()
    assert not earlier.any_alive()


def test_steps_are_read_once_and_in_order(home: Home) -> None:
    steps = [Step(kind="done", name="store", facts="synced", seconds=0.4), Step(kind="ready")]
    for step in steps:
        note_step(home, step)
    assert list(read_steps(home, after=0)) == steps
    assert list(read_steps(home, after=1)) == steps[1:]
    forget_steps(home)
    assert list(read_steps(home, after=0)) == []


def test_a_step_still_being_written_is_left(home: Home) -> None:
    note_step(home, Step(kind="ready"))
    with (home.run / "progress.jsonl").open("a") as file:
        file.write('{"kind": "do')
    assert len(list(read_steps(home, after=0))) == 1
