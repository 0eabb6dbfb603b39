"""The Ray head: GCS, raylet and what they start, all in one session of their own.

`ray start` leaves its processes behind and ends, so the session is what tells them from another
cluster's: `stop` ends its members and nothing else. Ray's API server starts although no dashboard was
asked for; nothing here uses it, so it is stopped at once (80 MB).
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.failure import Refused
from cluster.parts.contract import Site
from cluster.parts.daemon import spawn
from cluster.ports import LOOPBACK
from cluster.processes import Facts, Process, alive, death, gone, in_session, remember, send, stop, title
from cluster.state import PartRecord, PartState

OBJECT_STORE_BYTES = 256 * 1000 * 1000
START_S = 90.0
STOP_S = 5.0
ROLES = {"ray-head": "/gcs/gcs_server", "raylet": "/raylet/raylet"}
API_SERVER = "/dashboard/dashboard.py"


class RayHead:
    name = "cluster"

    def __init__(self, site: Site):
        self.site = site
        self.session: Process | None = None
        self.processes: dict[str, Process] = {}
        self.began = 0.0

    async def start(self) -> str:
        self.began = time.monotonic()
        shutil.rmtree(self._folder, ignore_errors=True)
        log = self.site.home.logs / "ray-start.log"
        child = spawn(self._command(), self.site, log)
        self.session = remember(child.pid)
        code = await self._ended(child, self.session)
        self.processes = self._find()
        if code != 0 or len(self.processes) < len(ROLES):
            await self.stop()
            raise Refused("Ray did not start", f"see {log} and {self._folder}")
        self._link_logs()
        for member in self.members():
            if API_SERVER in title(member.process.pid):
                send(member.process, signal.SIGTERM)
        return f"{LOOPBACK}:{self.site.ports.gcs}"

    async def adopt(self, record: PartRecord) -> bool:
        self.session, self.processes = record.session, dict(record.processes)
        if len(self.processes) == len(ROLES) and all(map(alive, self.processes.values())):
            return True
        await self.stop()
        return False

    async def died(self) -> None:
        """GCS and raylet are of no use without each other."""
        waits = [asyncio.ensure_future(death(process)) for process in self.processes.values()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """The raylet first: it ends its workers. The GCS last, as all of them talk to it."""
        gcs = self.processes.get("ray-head")
        others = [member.process for member in self.members() if member.process != gcs]
        raylet = self.processes.get("raylet")
        if raylet:
            await stop([raylet], STOP_S)
        await stop(others, STOP_S)
        await stop([member.process for member in self.members()], STOP_S)
        self._keep_logs()

    def members(self) -> list[Facts]:
        return in_session(self.session) if self.session else []

    def record(self) -> PartRecord:
        running = bool(self.processes) and all(map(alive, self.processes.values()))
        state = PartState.RUNNING if running else PartState.STOPPED
        return PartRecord(state=state, processes=self.processes, session=self.session)

    @property
    def _logs(self) -> Path:
        return self.site.home.logs / "ray"

    @property
    def _folder(self) -> Path:
        return self.site.home.sockets / "r"

    def _command(self) -> list[str]:
        ports = self.site.ports
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
            *("--node-ip-address", LOOPBACK),
            *("--port", str(ports.gcs)),
            *("--dashboard-agent-listen-port", str(ports.agent)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--object-store-memory", str(OBJECT_STORE_BYTES)),
            *("--temp-dir", str(self._folder)),
            *("--include-dashboard", "false"),
            *("--include-log-monitor", "false"),
            *("--no-monitor", "--disable-usage-stats"),
            *self._resources(),
        ]

    def _resources(self) -> list[str]:
        """What the settings say this machine has, in place of what Ray would find."""
        told = self.site.settings.cluster.model_dump(exclude_none=True)
        return [word for name, count in told.items() for word in (f"--{name.replace('_', '-')}", str(count))]

    async def _ended(self, child: "subprocess.Popen[bytes]", process: Process | None) -> int | None:
        """Its exit code, or None when it took too long."""
        in_time = process is None or await gone([process], START_S)
        return child.wait() if in_time else None

    def _find(self) -> dict[str, Process]:
        found: dict[str, Process] = {}
        for member in self.members():
            command = title(member.process.pid).partition(" ")[0]
            role = next((role for role, end in ROLES.items() if command.endswith(end)), None)
            if role:
                found[role] = member.process
        return found

    def _link_logs(self) -> None:
        if self._logs.is_symlink():
            self._logs.unlink()
        shutil.rmtree(self._logs, ignore_errors=True)
        self._logs.symlink_to(self._folder / "session_latest" / "logs")

    def _keep_logs(self) -> None:
        """They outlive the folder of the session, until the next one."""
        if self._logs.is_symlink() and self._logs.exists():
            written = self._logs.resolve()
            self._logs.unlink()
            shutil.move(written, self._logs)
