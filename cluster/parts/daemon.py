"""A part that is one process of another program: Valkey and Milvus."""

import asyncio
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from cluster.parts.contract import Site
from cluster.processes import Process, alive, death, remember, stop
from cluster.state import PartRecord, PartState


class Daemon(ABC):
    """role: as `status` names the process. load_s: how long its data may take to load."""

    role: str
    load_s: float
    stop_s: float

    def __init__(self, site: Site):
        self.site = site
        self.process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    async def answers(self) -> bool:
        """Whether it serves."""

    @property
    def log(self) -> Path:
        return self.site.home.logs / f"{self.role}.log"

    async def launch(self, command: Sequence[str], **more: str) -> bool:
        """Whether it serves now; when not, it is gone and `output` says why."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._child = spawn(command, self.site, self.log, **more)
        self.process = remember(self._child.pid)
        try:
            async with asyncio.timeout(self.load_s):
                while not await self.answers():
                    if self._child.poll() is not None:
                        return False
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.stop()
            return False
        return True

    def output(self) -> str:
        """What it wrote since it was launched."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    async def adopt(self, record: PartRecord) -> bool:
        self.process = record.processes.get(self.role)
        if self.process and alive(self.process) and await self.answers():
            return True
        await self.stop()
        return False

    async def died(self) -> None:
        if self.process:
            await death(self.process)
        self._reap()

    async def stop(self) -> None:
        if self.process:
            await stop([self.process], self.stop_s)
        self._reap()

    def record(self) -> PartRecord:
        if self.process is None or not alive(self.process):
            return PartRecord()
        return PartRecord(state=PartState.RUNNING, processes={self.role: self.process})

    def _reap(self) -> None:
        if self._child:
            self._child.wait()


def spawn(command: Sequence[str], site: Site, log: Path, **more: str) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, its output at the end of that log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**site.environment, **more},
            cwd=site.home.path,
            start_new_session=True,
        )
