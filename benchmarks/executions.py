"""Executions of a trivial flow, awaited over HTTP, beside what a user would pick instead."""

import csv
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_load import demand_wrk
from benchmarks.installation import WORK
from benchmarks.results import Figure

RUN = Path(__file__).parent / "peers" / "run.sh"
PEERS = ("bare", "hayhooks", "celery", "dbos-pg", "codexos")
OURS = "codexos"
METRICS = ("req_s", "p50_ms", "p99_ms", "errors", "cpu_ms_per_req", "pss_mb", "startup_s", "calib_ms")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often the peers are measured."""

    seconds: int
    passes: int
    concurrencies: Sequence[int]


def beside_peers(effort: Effort, peers: Sequence[str] = PEERS) -> Iterator[Figure]:
    """Each pass starts, measures and stops all peers in turn; every second pass in turned order."""
    demand_wrk()
    for number in range(effort.passes):
        rows = _pass(effort, peers if number % 2 == 0 else peers[::-1])
        yield from _figures(rows)
        yield from _ratios(rows)


def _pass(effort: Effort, peers: Sequence[str]) -> list[dict[str, str]]:
    file = WORK / "pass.tsv"
    file.unlink(missing_ok=True)
    knobs = {"SECS": str(effort.seconds), "WARM": str(min(3, effort.seconds)), "RESULTS": str(file)}
    knobs |= {"CONC": " ".join(map(str, effort.concurrencies)), "BENCH_WORK": str(WORK)}
    _run_to_its_end(["bash", str(RUN), *peers], os.environ | knobs)
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened, delimiter="\t"))


def _run_to_its_end(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Ctrl-C reaches the script too: it is given the time to stop what it started."""
    child = subprocess.Popen(command, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise
    if code:
        raise SystemExit(f"{RUN.name} ended {code}")


def _figures(rows: Sequence[dict[str, str]]) -> Iterator[Figure]:
    for row in rows:
        for metric in METRICS:
            yield Figure(f"{row['peer']} c={row['c']}", metric, float(row[metric]))


def _ratios(rows: Sequence[dict[str, str]]) -> Iterator[Figure]:
    """Of requests per second, within a pass: the machine's speed moves from one to the next."""
    rates = {(row["peer"], row["c"]): float(row["req_s"]) for row in rows}
    for (peer, c), rate in rates.items():
        if peer != OURS and (OURS, c) in rates:
            yield Figure(f"{OURS}/{peer} c={c}", "ratio", rates[OURS, c] / rate)
