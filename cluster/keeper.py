"""The process that starts the parts, starts again what dies, and stops all: `python -m cluster keeper`.

It outlives the `up` that started it and is light: Ray is not imported here. One keeper holds the lock of a
home. Killed, it takes nothing with it: the next keeper adopts the parts that still answer.
"""

import asyncio
import fcntl
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import IO

from cluster import ports as port_choice
from cluster.backoff import Backoff
from cluster.environment import child_environment
from cluster.failure import Refused
from cluster.layout import Home
from cluster.parts.application import Application
from cluster.parts.contract import Part, Site
from cluster.parts.milvus import Milvus
from cluster.parts.ray_head import RayHead
from cluster.parts.valkey import Valkey
from cluster.processes import remember
from cluster.state import (
    PartRecord,
    PartState,
    State,
    Step,
    boot_id,
    forget_steps,
    note_step,
    read_state,
    write_state,
)
from cluster.version import version
from configs.settings import Settings

WRITE_EVERY_S = 0.5


def lock(home: Home) -> IO[bytes] | None:
    """The keeper's lock, or None while another process holds it."""
    file = (home.run / "keeper.lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def main(home: Home, settings: Settings) -> int:
    held = lock(home)
    if held is None:
        return 0
    with held:
        forget_steps(home)
        _raise_file_limit()
        return asyncio.run(_supervise(home, settings))


async def _supervise(home: Home, settings: Settings) -> int:
    earlier = read_state(home)
    kept = earlier.ports if earlier else None
    adopting = earlier is not None and earlier.any_alive()
    ports = kept if kept and adopting else port_choice.choose(settings.port, kept)
    settings = settings.model_copy(update={"port": ports.api})
    keeper = Keeper(Site(home, settings, ports, child_environment(home, settings, ports)))
    run = asyncio.ensure_future(keeper.run(earlier.parts if earlier and adopting else {}))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, run.cancel)
    try:
        await run
    except asyncio.CancelledError:
        return 0
    except Refused as refused:
        note_step(home, Step(kind="failed", facts=refused.problem, remedy=refused.remedy))
        return 1
    finally:
        await keeper.stop()
    return 0


@dataclass
class Keeper:
    site: Site
    restarts: dict[str, int] = field(default_factory=dict)
    restarting: set[str] = field(default_factory=set)
    ready: bool = False
    written: State | None = None

    def __post_init__(self) -> None:
        self.valkey = Valkey(self.site)
        self.milvus = Milvus(self.site)
        self.ray = RayHead(self.site)
        self.application = Application(self.site, self.ray, self._report)

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order they are stopped: what others lean on goes last."""
        return (self.application, self.ray, self.milvus, self.valkey)

    async def run(self, earlier: dict[str, PartRecord]) -> None:
        """Ends only by cancellation, or by Refused while starting for the first time."""
        scribe = asyncio.create_task(self._write_down())
        try:
            await self._run(earlier)
        finally:
            scribe.cancel()

    async def _run(self, earlier: dict[str, PartRecord]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self.valkey, self.milvus, self.ray):
                    group.create_task(self._begin(part, earlier))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        await self._begin(self.application, earlier)
        self.ready = True
        self._save()
        note_step(self.site.home, Step(kind="ready"))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(self.valkey, self.valkey.died, self._restart_of(self.valkey)))
            group.create_task(self._keep(self.milvus, self.milvus.died, self._restart_of(self.milvus)))
            group.create_task(self._keep(self.ray, self._cluster_died, self._restart_cluster))

    async def stop(self) -> None:
        for part in self.parts:
            await part.stop()
        self._save()
        self.site.home.clear_sockets()

    async def _begin(self, part: Part, earlier: dict[str, PartRecord]) -> None:
        """A fresh head is told of once the application has joined it and knows its size."""
        began = time.monotonic()
        adopted = part.name in earlier and await part.adopt(earlier[part.name])
        facts = "still running" if adopted else await part.start()
        if adopted or part is not self.ray:
            self._report(part.name, facts, time.monotonic() - began)

    async def _keep(
        self, part: Part, died: Callable[[], Awaitable[None]], restart: Callable[[], Awaitable[None]]
    ) -> None:
        backoff = Backoff()
        while True:
            await died()
            self.restarting.add(part.name)
            self.restarts[part.name] = self.restarts.get(part.name, 0) + 1
            await self._until_restarted(part, backoff, restart)
            self.restarting.discard(part.name)

    async def _until_restarted(
        self, part: Part, backoff: Backoff, restart: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            delay = backoff.next()
            _log(f"{part.name} died, starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            try:
                return await restart()
            except Refused as refused:
                _log(f"{part.name} did not start: {refused}")

    def _restart_of(self, part: Part) -> Callable[[], Awaitable[None]]:
        async def restart() -> None:
            _log(await part.start())

        return restart

    async def _cluster_died(self) -> None:
        """Runners and replicas live on the head: without it, or when they stay silent, all is made anew."""
        waits = [asyncio.ensure_future(self.ray.died()), asyncio.ensure_future(self.application.died())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _restart_cluster(self) -> None:
        await self.application.stop()
        await self.ray.stop()
        await self.ray.start()
        _log(await self.application.start())

    def _report(self, name: str, facts: str, seconds: float) -> None:
        _log(f"{name}: {facts} ({seconds:.1f} s)")
        if not self.ready:
            note_step(self.site.home, Step(kind="done", name=name, facts=facts, seconds=seconds))

    async def _write_down(self) -> None:
        """Also in the middle of a start, so that the next command finds what a killed keeper had begun."""
        while True:
            self._save()
            await asyncio.sleep(WRITE_EVERY_S)

    def _save(self) -> None:
        own = remember(os.getpid())
        assert own
        state = State(
            version=version(),
            boot=boot_id(),
            url=f"http://{port_choice.reachable(self.site.settings.api.host)}:{self.site.ports.api}",
            ready=self.ready,
            keeper=own,
            ports=self.site.ports,
            parts={part.name: self._record(part) for part in self.parts},
        )
        if state != self.written:
            write_state(self.site.home, state)
            self.written = state

    def _record(self, part: Part) -> PartRecord:
        record = part.record().model_copy(update={"restarts": self.restarts.get(part.name, 0)})
        if part.name in self.restarting:
            return record.model_copy(update={"state": PartState.RESTARTING})
        return record


def _raise_file_limit() -> None:
    """Each open stream is two descriptors in HAProxy and one in a replica."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log(line: str) -> None:
    """Standard output is logs/keeper.log."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}", flush=True)
