"""Runs templates, CEL, JMESPath and schemas in child processes that can be killed.

Bounded by fuel and grammar alone they could still eat a processor or all memory (`[1] * 10**8` renders for
seconds inside one instruction). A worker is started when first needed and kept; it is killed when its time is
up, when its answer breaks the protocol or when its caller is cancelled, and the next call starts another.

The child is tied by a socket pair and reaped here, without asyncio's child watchers: these need the main
thread or a thread for each child, and the loop of a Ray actor has neither.
"""

import asyncio
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kernel.errors import NodeError, Unavailable

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
TIME_CAP_S = 2.0
START_CAP_S = 20.0
MAX_ANSWER = 2**20 + 64
MAX_QUESTION = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Worker:
    """One child. `ask` is for one caller at a time."""

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def start(cls) -> "Worker":
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220  returns once the child runs, a few milliseconds
                [sys.executable, "-s", "-m", "kernel.nodes.sandbox_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    async def hello(self) -> None:
        """Waits until it takes work."""
        async with asyncio.timeout(START_CAP_S):
            await self._frame()

    async def ask(self, question: bytes) -> Any:
        self.writer.write(len(question).to_bytes(4, "big") + question)
        await self.writer.drain()
        return orjson.loads(await self._frame())

    async def _frame(self) -> bytes:
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        if size > MAX_ANSWER:
            raise ConnectionError("The sandbox sent too much")
        return await self.reader.readexactly(size)

    def kill(self) -> None:
        self.writer.close()
        self.process.kill()
        self.process.wait()


class Sandbox:
    """A few workers and a queue before them."""

    def __init__(self, workers: int = WORKERS, time_cap_s: float = TIME_CAP_S):
        self._turns = asyncio.Semaphore(workers)
        self._time_cap_s = time_cap_s
        self._idle: list[Worker] = []

    async def run(self, language: str, source: Any, value: Any, patience_s: float | None = None) -> Any:
        """What `kernel.nodes.languages` makes of it. Raises NodeError with the reason.

        patience_s: how long to wait for a turn. Raises Unavailable after it; None waits as long as it takes.
        """
        question = orjson.dumps({"language": language, "source": source, "value": value})
        if len(question) > MAX_QUESTION:
            raise NodeError(f"What the {language} reads is larger than {MAX_QUESTION >> 20} MB")
        await self._turn(patience_s)
        try:
            answer = await self._answer(language, question)
        finally:
            self._turns.release()
        if "error" in answer:
            raise NodeError(f"The {language} failed: {answer['error']}")
        return answer["value"]

    async def _turn(self, patience_s: float | None) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable("Too much is being evaluated just now", {"reason": "sandbox_busy"}) from None

    async def _answer(self, language: str, question: bytes) -> dict[str, Any]:
        worker = self._waiting() or await self._started()
        healthy = False
        try:
            async with asyncio.timeout(self._time_cap_s):
                answer: dict[str, Any] = await worker.ask(question)
            healthy = True
            return answer
        except TimeoutError:
            raise NodeError(f"The {language} took longer than {self._time_cap_s:g} s") from None
        except (asyncio.IncompleteReadError, OSError):
            raise NodeError(f"The {language} needs more memory or time than it may have") from None
        finally:
            if healthy:
                self._idle.append(worker)
            else:
                worker.kill()

    def _waiting(self) -> Worker | None:
        """An idle worker, if one still lives."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.kill()
        return None

    async def _started(self) -> Worker:
        worker = await Worker.start()
        ready = False
        try:
            await worker.hello()
            ready = True
            return worker
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            raise NodeError("The sandbox does not start", None, 1.0, True) from None
        finally:
            if not ready:
                worker.kill()

    def close(self) -> None:
        """Ends the idle workers; to be called when nothing runs."""
        while self._idle:
            self._idle.pop().kill()
