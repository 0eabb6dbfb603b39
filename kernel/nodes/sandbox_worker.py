"""The sandbox's child process: evaluates one piece of a stranger's code after another, under hard limits.

It speaks on file descriptor 0, a socket: frames of four bytes of length and JSON, `{language, source, value}`
in, `{value}` or `{error}` out. It ends when the other side does. Memory, processor time, files and processes
are bounded by the kernel, so that no bug of a library below can pass them.
"""

import resource
import socket
from typing import Any

import orjson

from kernel.frames import receive, send
from kernel.nodes.languages import LANGUAGES, Refused

MEMORY = 512 * 2**20
CPU_S = 3
MAX_OUTPUT = 2**20


def confine() -> None:
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(limit, (most, most))


def allow_cpu() -> None:
    """A few seconds more than what is used up: also ends a worker whose platform has died."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + CPU_S, hard))


def answer(job: dict[str, Any]) -> bytes:
    try:
        value = LANGUAGES[job["language"]](job["source"], job["value"])
        if isinstance(value, str) and len(value) > MAX_OUTPUT:
            return _error("the result is larger than 1 MB")
        result = orjson.dumps({"value": value})
    except Refused as exc:
        return _error(str(exc))
    except RecursionError:
        return _error("it is nested too deeply")
    except MemoryError:
        return _error("it needs more memory than 512 MB")
    except TypeError:
        return _error("the result is no JSON")
    return result if len(result) <= MAX_OUTPUT else _error("the result is larger than 1 MB")


def _error(reason: str) -> bytes:
    return orjson.dumps({"error": reason})


def main() -> None:
    confine()
    with socket.socket(fileno=0) as line, line.makefile("rb") as inward, line.makefile("wb") as outward:
        send(outward, b"{}")
        while frame := receive(inward):
            allow_cpu()
            send(outward, answer(orjson.loads(frame)))


if __name__ == "__main__":
    main()
