"""A whole platform of its own for the live tests: started once a run, asked over HTTP, hurt by pid."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from cluster.environment import store_url
from cluster.layout import Home
from cluster.state import read_state

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Process:
    role: str
    pid: int


class Platform:
    """home: a folder of its own. root: where the product is. more: further settings, by environment variable."""

    def __init__(self, home: Path, root: Path = ROOT, **more: str):
        self.home, self.root = home, root
        self.port = free_port()
        self.environment = os.environ | {
            "CODEXOS_HOME": str(home),
            "CODEXOS_PORT": str(self.port),
            "CODEXOS_SCRIPTED_MODEL": "1",
            "CODEXOS_EGRESS_ALLOW": "127.0.0.0/8",
            "CODEXOS_CLUSTER__NUM_GPUS": "1",
            "PYTHONPATH": str(root),
            **more,
        }

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cluster", *words],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"cluster {words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self) -> str:
        return self.command("up").stdout

    def down(self) -> str:
        return self.command("down").stdout

    @property
    def connection(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.home / "connection.json").read_text())
        return found

    @property
    def store_url(self) -> str:
        home = Home(self.home)
        state = read_state(home)
        assert state is not None
        return store_url(home, state.ports)

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """With the owner's key, and time to wait."""
        headers = {"Authorization": f"Bearer {self.connection['api_key']}"} | options.pop("headers", {})
        limits = httpx2.Limits(max_connections=400, max_keepalive_connections=400)
        return httpx2.AsyncClient(
            base_url=self.connection["base_url"], headers=headers, timeout=90, limits=limits, **options
        )

    def processes(self, role: str | None = None) -> list[Process]:
        found = json.loads(self.command("status", "--json", check=False).stdout)["processes"]
        return [Process(one["role"], one["pid"]) for one in found if role in (None, one["role"])]

    def kill(self, role: str) -> int:
        """kill -9 of one process of that role, by pid."""
        pid = self.processes(role)[0].pid
        os.kill(pid, signal.SIGKILL)
        return pid


def until(true: Callable[[], bool], within_s: float, what: str) -> float:
    """Waits for something outside this process to become true. Returns the seconds it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began
