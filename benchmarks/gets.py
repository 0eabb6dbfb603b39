"""Reading one agent with a key, beside a no-op through the same Serve: `/healthz` of the same application.

That no-op passes HAProxy, the replica and the application's own layers, and asks nothing of the store.
"""

from collections.abc import Iterator

from benchmarks.http_load import Request, load
from benchmarks.installation import ECHO, Installation
from benchmarks.results import Figure

CONNECTIONS = 16


def beside_noop(installation: Installation, seconds: int, rounds: int) -> Iterator[Figure]:
    """By turns, every second round in turned order; the ratio is of requests per second within a round."""
    agent = installation.agent("Echo", ECHO)
    requests = {
        "agent": Request(f"{installation.url}/v1/agents/{agent}", installation.headers),
        "healthz": Request(f"{installation.url}/healthz", {}),
    }
    for number in range(-1, rounds):
        order = sorted(requests, reverse=number % 2 == 1)
        loads = {case: load(requests[case], CONNECTIONS, seconds) for case in order}
        if number < 0:
            continue
        for case, measured in loads.items():
            yield Figure(case, "req_s", measured.req_s)
            yield Figure(case, "p50_ms", measured.p50_ms)
            yield Figure(case, "p99_ms", measured.p99_ms)
        yield Figure("agent/healthz", "ratio", loads["agent"].req_s / loads["healthz"].req_s)
