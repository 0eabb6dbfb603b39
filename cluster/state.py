"""What a keeper remembers of its platform, and what it tells `up` while it starts.

run/state.json       processes, ports and restarts, for the next command; the ports outlive `down`
run/progress.jsonl   one Step a line
"""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.failure import Refused
from cluster.layout import Home, write_private
from cluster.ports import Ports
from cluster.processes import Process, alive, in_session


class PartState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class PartRecord(BaseModel):
    """processes: by role; `session` is the leader of the session they and their children live in."""

    model_config = ConfigDict(frozen=True)

    state: PartState = PartState.STOPPED
    processes: dict[str, Process] = {}
    session: Process | None = None
    restarts: int = 0


class State(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: str
    boot: str
    url: str
    ready: bool
    keeper: Process
    ports: Ports
    parts: dict[str, PartRecord] = {}

    def keeper_alive(self) -> bool:
        return self.boot == boot_id() and alive(self.keeper)

    def any_alive(self) -> bool:
        """Whether anything of this platform still runs, with or without its keeper."""
        return self.boot == boot_id() and any(map(_lives, self.parts.values()))


class Step(BaseModel):
    """One line of `up`. `done`: facts and seconds; `failed`: facts is the problem; `ready`: all serve."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["done", "failed", "ready"]
    name: str = ""
    facts: str = ""
    seconds: float = 0.0
    remedy: str = ""


def _lives(part: PartRecord) -> bool:
    members = in_session(part.session) if part.session else []
    return bool(members) or any(map(alive, part.processes.values()))


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_state(home: Home) -> State | None:
    """None where nothing ever ran. Raises Refused when the record is not of this version."""
    path = home.run / "state.json"
    if not path.exists():
        return None
    try:
        return State.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise Refused(
            f"{path} was written by another version",
            "stop that version with its own `make down`, then remove the file",
        ) from error


def write_state(home: Home, state: State) -> None:
    write_private(home.run / "state.json", state.model_dump_json(indent=1) + "\n")


def note_step(home: Home, step: Step) -> None:
    with (home.run / "progress.jsonl").open("a") as file:
        file.write(step.model_dump_json() + "\n")


def forget_steps(home: Home) -> None:
    (home.run / "progress.jsonl").unlink(missing_ok=True)


def read_steps(home: Home, after: int) -> Iterator[Step]:
    """Steps from the `after`th on; a line still being written is left for the next reading."""
    path = home.run / "progress.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines[after:]:
        if line.endswith("\n"):
            yield Step.model_validate(json.loads(line))
