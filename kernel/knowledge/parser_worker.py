"""The child process that reads documents a stranger may have made to break or exhaust their reader.

It speaks on file descriptor 0, a socket: frames of four bytes of length, then of an order `<kind> <charset>\\n`
and the document, of an answer JSON: `{parts}` or `{error}`. It ends when the other side does, or when a document
takes too long. Memory, processor time and files are bounded by the kernel.
"""

import math
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import orjson

from kernel.frames import receive, send
from kernel.knowledge import containers, markup
from kernel.knowledge.contract import DocumentError, Part
from kernel.knowledge.kinds import NAMES, Kind
from kernel.knowledge.plain import MAX_TEXT

SLACK_S = 5
"""What the parent's clock may be slower than ours: it is the one to end a document, if it lives."""

Reader = Callable[[Kind, bytes, str], list[Part]]


def read(kind: Kind, data: bytes, charset: str) -> list[Part]:
    if kind == "html":
        return markup.read_html(data, charset)
    return containers.read(kind, data) if kind in NAMES else markup.read_xml(data)


def answer(frame: bytes, most_mb: int, reader: Reader) -> bytes:
    order, _, data = frame.partition(b"\n")
    kind, _, charset = order.decode().partition(" ")
    try:
        parts = reader(cast(Kind, kind), data, charset)
        said = orjson.dumps({"parts": parts})
    except DocumentError as error:
        return _error(str(error))
    except MemoryError:
        return _error(f"The document needs more than {most_mb:,} MB to read")
    return (
        said if len(said) <= MAX_TEXT else _error(f"The document holds more than {MAX_TEXT >> 20} MB of text")
    )


def _error(reason: str) -> bytes:
    return orjson.dumps({"error": reason})


def confine(most_mb: int) -> None:
    """The memory is on top of what the process has when it is ready."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for limit, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + most_mb * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(limit, (most, most))


def allow(seconds: float) -> None:
    """Processor time for one document more, and an end to waiting for anything."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, hard))
    signal.alarm(math.ceil(seconds) + SLACK_S)


def main(reader: Reader = read) -> None:
    """Arguments: the seconds and the megabytes that a document may take."""
    seconds, most_mb = float(sys.argv[1]), int(sys.argv[2])
    containers.warm()
    confine(most_mb)
    with socket.socket(fileno=0) as line, line.makefile("rb") as inward, line.makefile("wb") as outward:
        send(outward, b"{}")
        while frame := receive(inward):
            allow(seconds)
            send(outward, answer(frame, most_mb, reader))
            signal.alarm(0)


if __name__ == "__main__":
    main()
