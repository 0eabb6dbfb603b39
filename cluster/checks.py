"""What a machine must offer before anything starts: `up` refuses on the first failure, `doctor` shows all."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.failure import Refused
from cluster.layout import Home
from cluster.ports import is_free
from configs.settings import Settings

PYTHON = (3, 11)
MIN_MEMORY_MB = 3_000
MIN_DISK_MB = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and found. problem: None when it is fine; then `remedy` says what to do."""

    name: str
    facts: str
    problem: str | None = None
    remedy: str = ""


def preflight(home: Home, settings: Settings, running: bool = False) -> Iterator[Finding]:
    """running: our own platform holds the port and its memory already."""
    yield python()
    yield disk(home.path)
    if not running:
        yield memory()
        yield port(settings.port)


def demand(findings: Iterator[Finding]) -> None:
    """Raises Refused at the first problem."""
    for finding in findings:
        if finding.problem:
            raise Refused(finding.problem, finding.remedy)


def python() -> Finding:
    have = sys.version_info[:2]
    facts = ".".join(map(str, sys.version_info[:3]))
    if have == PYTHON:
        return Finding("python", facts)
    return Finding(
        "python", facts, f"Python {facts} is not 3.11", "remove .venv and run `make up PYTHON=python3.11`"
    )


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free // 1_000_000
    facts = f"{free / 1000:.1f} GB free at {folder}"
    if free >= MIN_DISK_MB:
        return Finding("disk", facts)
    return Finding(
        "disk",
        facts,
        f"only {free} MB of disk are free at {folder}, {MIN_DISK_MB} are needed",
        "free some space, or point CODEXOS_HOME at a larger disk",
    )


def memory() -> Finding:
    free = available_mb()
    facts = f"{free / 1000:.1f} GB available"
    if free >= MIN_MEMORY_MB:
        return Finding("memory", facts)
    return Finding(
        "memory",
        facts,
        f"only {free} MB of memory are available, {MIN_MEMORY_MB} are needed",
        "stop something large, or give this machine or container more memory",
    )


def port(number: int, free: Callable[[int], bool] = is_free) -> Finding:
    if free(number):
        return Finding("port", f"{number} is free")
    return Finding(
        "port",
        f"{number} is taken",
        f"port {number} is in use by another program",
        f"stop it, or choose another port: CODEXOS_PORT={number + 1} make up",
    )


def available_mb() -> int:
    """What the machine has left, or less where a control group allows less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(machine, _group_left()) // 1_000_000


def _group_left() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
    except OSError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - int(used)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
