"""Text out of documents: what is text already is read here, anything else in child processes that can be lost.

A child is started when first needed, kept for many documents, and killed when its time is up or its answer
breaks the protocol; only the document it was at fails. What it says is read as JSON, never as anything that runs.
"""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from configs.settings import Ingestion
from kernel.knowledge import plain
from kernel.knowledge.contract import DocumentError, Fetched, Part
from kernel.knowledge.kinds import Kind, charset, kind_of

ROOT = Path(__file__).resolve().parents[2]
MODULE = "kernel.knowledge.parser_worker"
WORKERS = 2
DOCUMENTS = 200
"""What a worker reads before another takes its place: libraries keep some memory of every document."""

START_CAP_S = 20.0
INLINE_BYTES = 256 * 1024
"""Text that is read on the event loop: at most a millisecond of work."""

_HERE = frozenset({"markdown", "json", "notebook", "text"})


@dataclass(frozen=True, slots=True)
class _Answer:
    parts: list[Part] = field(default_factory=list)
    error: str | None = None


_ANSWER = TypeAdapter(_Answer)


class _Lost(Exception):
    """A worker died or fell silent. `late`: for lack of time."""

    def __init__(self, late: bool):
        super().__init__(late)
        self.late = late


class _Worker:
    """One child. `ask` is for one caller at a time."""

    def __init__(self, module: str, limits: Ingestion):
        self.left = DOCUMENTS
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-m", module, str(limits.parse_seconds), str(limits.parse_mb)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={
                    "PYTHONPATH": str(ROOT),
                    "LC_ALL": "C.UTF-8",
                    "MALLOC_ARENA_MAX": "2",
                    "RAYON_NUM_THREADS": "1",
                    "TOKIO_WORKER_THREADS": "1",
                },
                start_new_session=True,
            )

    def hello(self) -> None:
        """Waits until it takes work. Raises _Lost."""
        self._told(None, START_CAP_S)

    def ask(self, order: bytes, data: bytes, seconds: float) -> bytes:
        """Raises _Lost."""
        size = len(order) + len(data)
        self.left -= 1
        return self._told(size.to_bytes(4, "big") + order + data, seconds)

    def _told(self, frame: bytes | None, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        try:
            self._line.settimeout(seconds)
            if frame is not None:
                self._line.sendall(frame)
            size = int.from_bytes(self._read(4, until), "big")
            if size > plain.MAX_TEXT:
                raise _Lost(late=False)
            return self._read(size, until)
        except TimeoutError:
            raise _Lost(late=True) from None
        except OSError:
            raise _Lost(late=self._ran_out()) from None

    def _read(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._line.settimeout(max(until - time.monotonic(), 0.001))
            piece = self._line.recv(size - len(data))
            if not piece:
                raise ConnectionError("The parser is gone")
            data += piece
        return bytes(data)

    def _ran_out(self) -> bool:
        """Of processor time; waits for the end of a child that has closed its line."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(1.0) in (-signal.SIGXCPU, -signal.SIGALRM)
        return False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Whoever waits for its answer then gets none."""
        self._process.kill()

    def kill(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()


class Parsers:
    """Safe for any number of threads and tasks; `close` when nothing is asked of it any more.

    module: the program of the children.
    """

    def __init__(self, limits: Ingestion, workers: int = WORKERS, module: str = MODULE):
        self._limits = limits
        self._module = module
        self._turns = threading.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._closed = False
        self._threads = ThreadPoolExecutor(workers, "parser")

    async def parse(self, fetched: Fetched) -> list[Part]:
        """Raises DocumentError. A caller that is cancelled leaves the document to be read to its end."""
        kind = self._kind(fetched)
        if kind in _HERE and len(fetched.data) <= INLINE_BYTES:
            return plain.read(kind, fetched.data, charset(fetched))
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._parsed, kind, fetched)

    def parse_now(self, fetched: Fetched) -> list[Part]:
        """The same, for who may wait. Raises DocumentError."""
        return self._parsed(self._kind(fetched), fetched)

    def _kind(self, fetched: Fetched) -> Kind:
        if len(fetched.data) > self._limits.max_document_mb * 2**20:
            raise DocumentError(f"The document is larger than {self._limits.max_document_mb} MB")
        return kind_of(fetched)

    def _parsed(self, kind: Kind, fetched: Fetched) -> list[Part]:
        if kind in _HERE:
            return plain.read(kind, fetched.data, charset(fetched))
        order = f"{kind} {charset(fetched)}"
        with self._turns:
            answer = self._answer(order.encode(errors="replace").replace(b"\n", b"") + b"\n", fetched.data)
        if answer.error is not None:
            raise DocumentError(answer.error)
        return answer.parts

    def _answer(self, order: bytes, data: bytes) -> _Answer:
        worker = self._waiting() or self._started()
        healthy = False
        try:
            answer = _ANSWER.validate_json(worker.ask(order, data, self._limits.parse_seconds))
            healthy = worker.left > 0
            return answer
        except _Lost as lost:
            raise DocumentError(self._why(lost)) from None
        except ValidationError:
            raise DocumentError(self._why(_Lost(late=False))) from None
        finally:
            if healthy:
                self._idle.append(worker)
            else:
                self._drop(worker)

    def _why(self, lost: _Lost) -> str:
        if lost.late:
            return f"The document took longer than {self._limits.parse_seconds:g} s to read"
        return f"The document is damaged, or needs more than {self._limits.parse_mb:,} MB to read"

    def _waiting(self) -> _Worker | None:
        """An idle worker, if one still lives."""
        with suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.is_alive():
                    return worker
                self._drop(worker)
        return None

    def _started(self) -> _Worker:
        worker = _Worker(self._module, self._limits)
        self._workers.add(worker)
        ready = False
        try:
            if self._closed:
                raise DocumentError("The parser is closing; try again")
            worker.hello()
            ready = True
            return worker
        except _Lost:
            raise DocumentError("The parser does not start; try again") from None
        finally:
            if not ready:
                self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)

    def close(self) -> None:
        """Ends the children at once; documents they were at fail."""
        self._closed = True
        for worker in tuple(self._workers):
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in tuple(self._workers):
            self._drop(worker)
