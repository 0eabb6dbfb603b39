"""Load over HTTP by wrk: connections that each send the next request when the last is answered."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "peers" / "lib" / "req.lua"


@dataclass(frozen=True, slots=True)
class Load:
    """req_s: answers per second. p50_ms and p99_ms: of the time from request to answer."""

    req_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Request:
    url: str
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""


def demand_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")


def load(request: Request, connections: int, seconds: int) -> Load:
    """Ends the benchmark when an answer is not 2xx, or when a connection breaks."""
    return run_wrk(request.url, SCRIPT, _variables(request), connections, seconds)


def run_wrk(url: str, script: Path, variables: Mapping[str, str], connections: int, seconds: int) -> Load:
    """The same with another script, which says what is sent and prints a line of results."""
    demand_wrk()
    size = ("-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s")
    done = subprocess.run(
        ["wrk", *size, "-s", str(script), url],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    req_s, p50_ms, p99_ms, bad, broken, _ = line.split("\t")[1:]
    if int(bad) or int(broken):
        raise SystemExit(f"{url}: {bad} answers were no success, {broken} connections broke")
    return Load(float(req_s), float(p50_ms), float(p99_ms))


def _variables(request: Request) -> dict[str, str]:
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    body = {"REQ_BODY": request.body.decode()} if request.body else {}
    return {"REQ_METHOD": request.method, "REQ_HEADERS": headers} | body
