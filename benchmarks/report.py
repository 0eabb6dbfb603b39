"""The results as Markdown: the goals first, then what stands behind them."""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.executions import PEERS
from benchmarks.goals import STORED, goals_table
from benchmarks.results import Values, dates, newest, shown, table

PEERS_HEAD = (
    *("peer", "req/s c=1", "req/s c=16", "req/s c=64", "p50 ms c=1", "p50 ms c=16", "p99 ms c=16"),
    *("CPU ms/req c=16", "PSS MB after c=64", "start s", "errors"),
)
MISSING = "–"


def report(file: Path) -> str:
    found = newest(file)
    parts = [_machine(), _dates(file), goals_table(found)]
    if "exec" in found:
        parts.append(_peers(found["exec"]))
    if "stored" in found:
        parts.append(_stored(found["stored"]))
    parts += [_others(bench, values) for bench, values in found.items() if bench not in ("exec", "stored")]
    return "\n\n".join(parts)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {memory_gb:.0f} GB, {system}. Medians, ranges in brackets."


def _dates(file: Path) -> str:
    return "Measured: " + ", ".join(f"{bench} {run}" for bench, run in sorted(dates(file).items())) + "."


def _peers(values: Values) -> str:
    rows = [_peer(peer, values) for peer in PEERS if (f"{peer} c=16", "req_s") in values]
    return table(PEERS_HEAD, rows)


def _peer(peer: str, values: Values) -> Sequence[str]:
    def cell(c: int, metric: str) -> str:
        return _cell(values, f"{peer} c={c}", metric)

    errors = sum(sum(found) for (case, metric), found in values.items() if _is_errors(case, metric, peer))
    rates = [cell(c, "req_s") for c in (1, 16, 64)]
    times = [cell(1, "p50_ms"), cell(16, "p50_ms"), cell(16, "p99_ms"), cell(16, "cpu_ms_per_req")]
    return [peer, *rates, *times, cell(64, "pss_mb"), cell(16, "startup_s"), f"{errors:.0f}"]


def _is_errors(case: str, metric: str, peer: str) -> bool:
    return metric == "errors" and case.startswith(f"{peer} c=")


def _stored(values: Values) -> str:
    """A row for each request; the columns are the numbers stored."""
    counts = sorted({int(case.split()[1]) for case, metric in values if metric == "req_s"})
    head = [
        "c=16",
        *(f"req/s at {count:,}" for count in counts),
        *(f"p50 ms at {count:,}" for count in counts),
    ]
    rows = [
        [words, *_cells(values, case, counts, "req_s"), *_cells(values, case, counts, "p50_ms")]
        for case, words in STORED.items()
    ]
    return table(head, rows)


def _cells(values: Values, case: str, counts: Sequence[int], metric: str) -> Iterator[str]:
    return (_cell(values, f"{case} {count}", metric) for count in counts)


def _cell(values: Values, case: str, metric: str) -> str:
    found = values.get((case, metric))
    return shown(found) if found else MISSING


def _others(bench: str, values: Values) -> str:
    rows = [(case, metric, shown(found)) for (case, metric), found in values.items()]
    return table((bench, "figure", "measured"), rows)
