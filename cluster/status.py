"""`status`: what runs, from the keeper's record and /proc. Ray is not asked, so there is always an answer."""

import re
import socket
from dataclasses import asdict, dataclass

from cluster import printing
from cluster.layout import Home
from cluster.parts.application import proxy_of
from cluster.processes import Process, facts, in_session, pss_mb, remember, since_epoch_ms, title
from cluster.state import State, read_state
from kernel.clock import rfc3339

ACTORS = {
    "ServeReplica": "api-replica",
    "ServeController": "serve-controller",
    "HAProxyManager": "haproxy-manager",
    "ProxyActor": "fallback-proxy",
    "IDLE": "idle-worker",
    "MapBatches": "ingestion-worker",
    "MapWorker": "ingestion-worker",
    "_StatsActor": "data-statistics",
    "_AutoscalingCoordinatorActor": "data-coordinator",
}
"""Ray names a worker's process after the class of its actor; ours are turned into words as they are."""


@dataclass(frozen=True, slots=True)
class Running:
    """since: RFC 3339. memory_mb: proportional, None where the kernel does not tell."""

    role: str
    pid: int
    node: str
    since: str
    memory_mb: float | None


@dataclass(frozen=True, slots=True)
class PartView:
    name: str
    state: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Status:
    running: bool
    state: str
    version: str | None
    url: str | None
    home: str
    memory_mb: float
    parts: list[PartView]
    processes: list[Running]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def status(home: Home) -> Status:
    state = read_state(home)
    if state is None or not (state.keeper_alive() or state.any_alive()):
        return Status(False, "stopped", None, None, str(home.path), 0, [], [])
    processes = _processes(home, state)
    return Status(
        running=state.keeper_alive() and state.ready,
        state=_word(state),
        version=state.version,
        url=state.url,
        home=str(home.path),
        memory_mb=round(sum(each.memory_mb or 0 for each in processes), 1),
        parts=[PartView(name, part.state.value, part.restarts) for name, part in state.parts.items()],
        processes=processes,
    )


def show(found: Status) -> None:
    if not found.processes:
        printing.line(f"  not running ({found.home})")
        return
    printing.line(f"  {found.state}  {found.url}  version {found.version}  {found.memory_mb:.0f} MB")
    printing.table((part.name, part.state, f"{part.restarts} restarts") for part in found.parts)
    printing.line()
    rows = [("ROLE", "PID", "NODE", "SINCE", "MB")]
    for each in found.processes:
        memory = "" if each.memory_mb is None else f"{each.memory_mb:.0f}"
        rows.append((each.role, str(each.pid), each.node, each.since, memory))
    printing.table(rows)


def _word(state: State) -> str:
    if not state.keeper_alive():
        return "running without a keeper; `make up` gives it one"
    return "running" if state.ready else "starting"


def _processes(home: Home, state: State) -> list[Running]:
    found: dict[Process, str] = {state.keeper: "keeper"} if state.keeper_alive() else {}
    for part in state.parts.values():
        found |= {process: role for role, process in part.processes.items() if facts(process.pid)}
        for member in in_session(part.session) if part.session else []:
            found.setdefault(member.process, role_of(title(member.process.pid)))
    proxy = proxy_of(home)
    if proxy:
        found[proxy] = "haproxy"
    return [_running(process, role) for process, role in found.items() if remember(process.pid) == process]


def role_of(command: str) -> str:
    """`ray::ServeReplica:codexos:Api` → `api-replica`, `ray::RunnerHost.run` → `runner`."""
    found = re.match(r"ray::(\w+)", command)
    if found:
        name = found[1]
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", name.removesuffix("Host"))
        return ACTORS.get(name) or "-".join(words).lower() or name.lower()
    program = command.partition(" ")[0].rpartition("/")[2]
    return "haproxy-draining" if program == "haproxy" else program or "unknown"


def _running(process: Process, role: str) -> Running:
    memory = pss_mb(process.pid)
    return Running(
        role=role,
        pid=process.pid,
        node=socket.gethostname(),
        since=rfc3339(since_epoch_ms(process)),
        memory_mb=None if memory is None else round(memory, 1),
    )
