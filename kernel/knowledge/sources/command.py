"""One command of the `git` program, kept on a short leash: no configuration but ours, no hooks, helpers or
proxies, no protocol unless it is named, limits of memory and disk, and an end of all it has started.

Credentials are in the environment of the one command that needs them, and nowhere on disk.
"""

import asyncio
import os
import resource
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 2 * 2**30
"""Address space of one process."""
SMALL_BYTES = 1_000_000
SAID_BYTES = 16_384
CHUNK_BYTES = 65_536

_CONFIG = {
    "core.bigFileThreshold": "32m",
    "core.hooksPath": "/dev/null",
    "core.packedGitLimit": "512m",
    "core.packedGitWindowSize": "64m",
    "credential.helper": "",
    "fetch.negotiationAlgorithm": "noop",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "http.proxy": "",
    "pack.threads": "1",
    "protocol.allow": "never",
    "protocol.version": "2",
    "transfer.bundleURI": "false",
    "transfer.unpackLimit": "1",
}


class GitError(Exception):
    """With words for the caller."""


@dataclass(frozen=True, slots=True)
class Command:
    process: Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def say(self, data: bytes) -> None:
        """Nobody may listen any more: a program can end before it is told anything."""
        if not self.stdin.is_closing():
            self.stdin.write(data)


@asynccontextmanager
async def running(
    folder: Path, args: Sequence[str], config: Mapping[str, str], written: int = SMALL_BYTES
) -> AsyncGenerator[Command]:
    """The program with `args` in its repository. config: beside what holds for all. written: bytes that a file may
    get. Ends with the block, whatever the program is doing then. Raises GitError when there is none."""
    program = shutil.which("git")
    if program is None:
        raise GitError("There is no git program on this machine")
    process = await asyncio.create_subprocess_exec(
        program,
        *args,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=_environment(program, folder, config),
        cwd=folder,
        start_new_session=True,
    )
    try:
        _limit(process.pid, written)
        yield _piped(process)
    finally:
        with suppress(ProcessLookupError):
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def _environment(program: str, folder: Path, config: Mapping[str, str]) -> dict[str, str]:
    settings = {**_CONFIG, **config}
    numbered: dict[str, str] = {}
    for at, (key, value) in enumerate(settings.items()):
        numbered |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
    return numbered | {
        "GIT_ASKPASS": "",
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": str(folder),
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": str(folder),
        "LC_ALL": "C",
        "PATH": str(Path(program).parent),
    }


def _piped(process: Process) -> Command:
    assert process.stdin
    assert process.stdout
    assert process.stderr
    return Command(process, process.stdin, process.stdout, process.stderr)


def _limit(pid: int, written: int) -> None:
    """For the process and those it starts. It may have ended already."""
    limits = {resource.RLIMIT_FSIZE: written, resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_CORE: 0}
    with suppress(ProcessLookupError):
        for what, most in limits.items():
            _, hard = resource.prlimit(pid, what)
            lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, what, (lowest, lowest))


async def begin(stream: asyncio.StreamReader) -> bytes:
    """What comes first; the rest is dropped."""
    data = b""
    while chunk := await stream.read(CHUNK_BYTES):
        data += chunk[: SAID_BYTES - len(data)]
    return data
