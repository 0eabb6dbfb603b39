"""Facts on processes from /proc, and the only place that sends signals.

A pid alone names nothing after a restart of the machine or a wrap of the counter: every process we
remember carries its start time too, and a signal goes only to a process that has both.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


class Process(BaseModel):
    """started: clock ticks between boot and the start of the process."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int


class Facts(BaseModel):
    """What /proc/PID/stat says. cpu: clock ticks used so far."""

    model_config = ConfigDict(frozen=True)

    process: Process
    parent: int
    session: int
    state: str
    cpu: int


def facts(pid: int) -> Facts | None:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Facts(
        process=Process(pid=pid, started=int(fields[19])),
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        cpu=int(fields[11]) + int(fields[12]),
    )


def remember(pid: int) -> Process | None:
    found = facts(pid)
    return found.process if found else None


def alive(process: Process) -> bool:
    found = facts(process.pid)
    return found is not None and found.process == process and found.state not in "ZX"


def everything() -> list[Facts]:
    found = (facts(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return [each for each in found if each is not None and each.state not in "ZX"]


def in_session(leader: Process) -> list[Facts]:
    """Processes of the session that `leader` opened. A number taken over by a later leader names nothing."""
    present = remember(leader.pid)
    if present is not None and present != leader:
        return []
    return [
        each for each in everything() if each.session == leader.pid and each.process.started >= leader.started
    ]


def title(pid: int) -> str:
    try:
        return (
            (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return ""


def pss_mb(pid: int) -> float | None:
    """Proportional memory; None where the kernel does not tell."""
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def since_epoch_ms(process: Process) -> int:
    boot = next(line for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot.split()[1]) * 1000 + process.started * 1000 // TICKS


def send(process: Process, number: signal.Signals) -> None:
    if alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


async def death(process: Process) -> None:
    """Returns when the process has ended, child of ours or not, without polling."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if alive(process):
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(handle, ended.set)
            try:
                await ended.wait()
            finally:
                asyncio.get_running_loop().remove_reader(handle)
    finally:
        os.close(handle)


async def stop(processes: Iterable[Process], grace: float) -> None:
    """Ask all to end, wait `grace` seconds, then kill what is left."""
    asked = [process for process in processes if alive(process)]
    for process in asked:
        send(process, signal.SIGTERM)
    await gone(asked, grace)
    left = [process for process in asked if alive(process)]
    for process in left:
        send(process, signal.SIGKILL)
    await gone(left, 5)


async def gone(processes: Iterable[Process], within: float) -> bool:
    """Whether all ended within that many seconds."""
    waits = [asyncio.ensure_future(death(process)) for process in processes]
    if not waits:
        return True
    _, pending = await asyncio.wait(waits, timeout=within)
    for wait in pending:
        wait.cancel()
    return not pending


def wait_gone(process: Process, within: float) -> bool:
    """The same for a caller without an event loop."""
    end = time.monotonic() + within
    while alive(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
