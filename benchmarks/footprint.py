"""What a tree of processes uses, read from /proc, and its end. Standard library only: shells run it too.

footprint.py use PIDFILE    RSS MB, PSS MB, CPU seconds, number of processes; tabs between
footprint.py stop PIDFILE   end the trees: SIGTERM, eight seconds later SIGKILL

A tree is every process in the session of a listed pid, or descending from a listed pid.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
GRACE = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 3.0))


@dataclass(frozen=True, slots=True)
class Stat:
    """cpu_s: of the process and of its children that have ended."""

    parent: int
    session: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    rss_mb: float
    pss_mb: float
    cpu_s: float
    processes: int


def footprint(roots: Collection[int]) -> Footprint:
    stats = _stats()
    pids = _tree(roots, stats)
    return Footprint(
        rss_mb=sum(_kilobytes(pid, "status", "VmRSS:") for pid in pids) / 1024,
        pss_mb=sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in pids) / 1024,
        cpu_s=sum(stats[pid].cpu_s for pid in pids),
        processes=len(pids),
    )


def stop(roots: Collection[int]) -> None:
    """What was once seen of a tree is stopped, though its parent may be gone by then."""
    seen: set[int] = set()
    for number, grace_s in GRACE:
        stats = _stats()
        seen |= _tree(roots, stats)
        _send(number, seen & stats.keys())
        end = time.monotonic() + grace_s
        while time.monotonic() < end:
            if not seen & _stats().keys():
                return
            time.sleep(0.1)


def _stats() -> dict[int, Stat]:
    found = ((int(entry.name), _stat(entry)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {pid: stat for pid, stat in found if stat is not None}


def _stat(entry: Path) -> Stat | None:
    """None for a process that has ended."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Stat(int(fields[1]), int(fields[3]), sum(map(int, fields[11:15])) / TICKS)


def _tree(roots: Collection[int], stats: dict[int, Stat]) -> set[int]:
    return {pid for pid in stats if _belongs(pid, roots, stats)} - {os.getpid()}


def _belongs(pid: int, roots: Collection[int], stats: dict[int, Stat]) -> bool:
    while pid > 1 and pid in stats:
        if pid in roots or stats[pid].session in roots:
            return True
        pid = stats[pid].parent
    return False


def _kilobytes(pid: int, file: str, field: str) -> int:
    try:
        lines = (PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main(action: str, pid_file: str) -> None:
    roots = {int(word) for word in Path(pid_file).read_text().split()}
    if action == "stop":
        return stop(roots)
    used = footprint(roots)
    print(f"{used.rss_mb:.0f}\t{used.pss_mb:.0f}\t{used.cpu_s:.2f}\t{used.processes}")


if __name__ == "__main__":
    main(*sys.argv[1:])
