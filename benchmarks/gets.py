"""Reading one agent with a key, beside two no-ops through the same Serve.

`noop` is a FastAPI route that does nothing in a deployment of its own; `healthz` is that of the platform's
application, whose layers it passes. Both come through the same HAProxy and have as many replicas.
"""

from collections.abc import Iterator

from benchmarks.beside import deploy
from benchmarks.http_load import Request, load
from benchmarks.installation import ECHO, Installation
from benchmarks.results import Figure

CONNECTIONS = 16
WARM_UP = -1


def beside_noops(installation: Installation, seconds: int, rounds: int) -> Iterator[Figure]:
    """By turns, every second round in turned order; ratios are of requests per second within a round."""
    deploy(installation, "benchmarks.noop")
    requests = _requests(installation)
    for number in range(WARM_UP, rounds):
        order = sorted(requests, reverse=number % 2 == 1)
        loads = {case: load(requests[case], CONNECTIONS, seconds) for case in order}
        if number == WARM_UP:
            continue
        for case, measured in loads.items():
            yield Figure(case, "req_s", measured.req_s)
            yield Figure(case, "p50_ms", measured.p50_ms)
            yield Figure(case, "p99_ms", measured.p99_ms)
        for noop in ("noop", "healthz"):
            yield Figure(f"agent/{noop}", "ratio", loads["agent"].req_s / loads[noop].req_s)


def _requests(installation: Installation) -> dict[str, Request]:
    agent = installation.agent("Echo", ECHO)
    return {
        "agent": Request(f"{installation.url}/v1/agents/{agent}", installation.headers),
        "healthz": Request(f"{installation.url}/healthz", {}),
        "noop": Request(f"{installation.url}/noop/", {}),
    }
