"""What the platform uses when it has nothing to do, and how long it takes to start."""

import time
from collections.abc import Iterator

from benchmarks.installation import Installation
from benchmarks.results import Figure

SETTLE_S = 20.0


def idle(installation: Installation, seconds: float) -> list[Figure]:
    """Of all processes, the local model not loaded. The looking itself is no part of it."""
    time.sleep(SETTLE_S)
    before, began = installation.footprint(), time.monotonic()
    time.sleep(seconds)
    after, took = installation.footprint(), time.monotonic() - began
    if "model-worker" in installation.processes().values():
        raise SystemExit("the local model is loaded: this is no idle platform")
    return [
        Figure("platform", "pss_mb", after.pss_mb),
        Figure("platform", "rss_mb", after.rss_mb),
        Figure("platform", "cpu_percent", (after.cpu_s - before.cpu_s) / took * 100),
        Figure("platform", "processes", after.processes),
    ]


def warm_starts(installation: Installation, count: int) -> Iterator[Figure]:
    """Starts of a platform that has run before, so with its files in the page cache."""
    installation.up_quietly()
    installation.down()
    for _ in range(count):
        try:
            yield Figure("warm", "ready_s", installation.up())
        finally:
            installation.down()
