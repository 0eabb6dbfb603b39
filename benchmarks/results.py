"""Figures on file: a row for each, appended to a TSV. Only the newest run of a benchmark is reported."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """`case` is what was measured (a peer, a route), `metric` which quantity of it, its unit in the name."""

    case: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Row:
    """run: the moment the benchmark began, so rows of one run belong together."""

    run: str
    bench: str
    case: str
    metric: str
    value: float


Values = Mapping[tuple[str, str], Sequence[float]]
"""Of one run: (case, metric) -> its figures, in the order they were measured."""


def moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def append(file: Path, bench: str, figures: Iterable[Figure], run: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = not file.exists()
    with file.open("a", newline="") as opened:
        writer = csv.writer(opened, delimiter="\t", lineterminator="\n")
        if fresh:
            writer.writerow(field.name for field in fields(Row))
        for figure in figures:
            writer.writerow((run, bench, figure.case, figure.metric, f"{figure.value:.6g}"))


def newest(file: Path) -> dict[str, Values]:
    """Benchmark -> the figures of its newest run."""
    rows = list(_rows(file))
    last = {row.bench: row.run for row in sorted(rows, key=lambda row: row.run)}
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.run == last[row.bench]:
            found[row.bench][row.case, row.metric].append(row.value)
    return {bench: dict(values) for bench, values in found.items()}


def dates(file: Path) -> dict[str, str]:
    """Benchmark -> when its newest run began."""
    return {row.bench: row.run for row in sorted(_rows(file), key=lambda row: row.run)}


def by_case(figures: Iterable[Figure]) -> Values:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for figure in figures:
        found[figure.case, figure.metric].append(figure.value)
    return found


def shown(values: Sequence[float]) -> str:
    """The median, and the range of several: `512 (498–530)`."""
    middle = _rounded(statistics.median(values))
    low, high = _rounded(min(values)), _rounded(max(values))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: float) -> str:
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 or value == int(value) else 1 if magnitude >= 10 else 2
    return f"{value:,.{digits}f}"


def _rows(file: Path) -> Iterator[Row]:
    if not file.exists():
        return
    with file.open(newline="") as opened:
        for line in csv.DictReader(opened, delimiter="\t"):
            yield Row(line["run"], line["bench"], line["case"], line["metric"], float(line["value"]))
