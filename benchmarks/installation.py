"""A platform of the benchmarks' own, in its own home and on its own port. For shells: `prepare|up|down NAME`.

It is started as a user starts it, by `python -m cluster up`, and told apart from any other by its home.
BENCH_WORK says where homes lie and BENCH_PORT which port is the first; of CODEXOS_… nothing is inherited.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.footprint import Footprint, footprint

REPOSITORY = Path(__file__).parent.parent
WORK = Path(os.environ.get("BENCH_WORK") or Path(tempfile.gettempdir()) / "bench")
PORT = int(os.environ.get("BENCH_PORT", "18110"))
SETTINGS = {"CODEXOS_SCRIPTED_MODEL": "1"}

ECHO = {"nodes": [{"id": "echo", "type": "template", "config": {"template": "echo: {{ input.text }}"}}]}
ORDER = b'{"input":{"text":"hello bench"}}'
"""The peers' trivial flow, and what it is run with."""


@dataclass(frozen=True, slots=True)
class Installation:
    """settings: environment variables beside `SETTINGS`. Installations that run at once differ in port."""

    name: str
    port: int = PORT
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return WORK / f"home-{self.name}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        known: dict[str, str] = json.loads(self._connection.read_bytes())
        return known["api_key"]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def up(self) -> float:
        """Seconds until ready, the first run on the local model included."""
        began = time.monotonic()
        self.command("up")
        return time.monotonic() - began

    def prepare(self) -> None:
        """Makes the home's data and key by a first start, unless they are there."""
        if not self._connection.exists():
            self.up()
            self.down()

    def up_quietly(self) -> None:
        """Without the first run, so that the local model is not loaded: `up` skips it if it knows no key."""
        self.prepare()
        kept = self._connection.rename(self._connection.with_suffix(".kept"))
        try:
            self.command("up")
        finally:
            kept.replace(self._connection)

    def down(self) -> None:
        self.command("down")

    @contextmanager
    def running(self) -> Iterator["Installation"]:
        try:
            self.up_quietly()
            yield self
        finally:
            self.down()

    def processes(self) -> dict[int, str]:
        """Pid -> role, of everything this installation runs."""
        status = json.loads(self.command("status", "--json"))
        return {process["pid"]: process["role"] for process in status["processes"]}

    def footprint(self) -> Footprint:
        return footprint(self.processes())

    def agent(self, name: str, flow: Mapping[str, Any]) -> str:
        """Makes an agent; its id."""
        answer = httpx2.post(
            f"{self.url}/v1/agents",
            json={"name": name, "flow": flow},
            headers=self.headers,
            trust_env=False,
            timeout=30,
        )
        answer.raise_for_status()
        made: dict[str, str] = answer.json()
        return made["id"]

    @property
    def _connection(self) -> Path:
        return self.home / "connection.json"

    def command(self, *command: str) -> str:
        """Output of `python -m cluster …`. Ends the benchmark, with its words, when it refuses."""
        self.home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "cluster", *command],
            cwd=REPOSITORY,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(
                f"cluster {' '.join(command)} ended {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def _environment(self) -> dict[str, str]:
        own = {"CODEXOS_HOME": str(self.home), "CODEXOS_PORT": str(self.port)}
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("CODEXOS_")}
        return {**foreign, **SETTINGS, **self.settings, **own}


def main(action: str, name: str, facts: str = "") -> None:
    """`up` notes pids, URL, key and body in `FACTS.pids` and `FACTS.request` for the scripts of peers/."""
    installation = Installation(name)
    match action:
        case "prepare":
            installation.prepare()
        case "up":
            installation.up_quietly()
            agent = installation.agent("Echo", ECHO)
            _write_private(Path(f"{facts}.request"), _request(installation, agent))
            Path(f"{facts}.pids").write_text("".join(f"{pid}\n" for pid in installation.processes()))
        case "down":
            installation.down()
        case _:
            raise SystemExit(f"no such action: {action}")


def _request(installation: Installation, agent: str) -> Sequence[str]:
    return (
        f"REQ_URL='{installation.url}/v1/agents/{agent}/execute?wait=30'",
        f"REQ_HEADERS='Authorization: Bearer {installation.key}'",
        f"REQ_BODY='{ORDER.decode()}'",
    )


def _write_private(path: Path, lines: Sequence[str]) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
