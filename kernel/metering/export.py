"""Usage as files for other programs: a row for each part of the period, or for each group in it.

Columns: start, end, group where there are groups, then what `GET /v1/usage/stats` shows, and total.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from kernel.clock import rfc3339
from kernel.metering.period import Period
from kernel.metering.usage import SOURCES, Line
from kernel.text import cell

Format = Literal["csv", "parquet"]
MEDIA: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

Rows = Sequence[tuple[int, int, Line]]
MONEY = ("compute", "storage", "api", "total")
COLUMNS = (*SOURCES, *MONEY)
BROKEN = {"storage_mb", "cpu_seconds", "gpu_seconds", "ingested_mb", *MONEY}
"""Columns of numbers that are not whole."""


def file_name(period: Period, kind: Format) -> str:
    """Such as `usage-2024-01-01-2024-01-31.csv`, by the days of start and end."""
    start, end = (rfc3339(ms)[:10] for ms in (period.start, period.end))
    return f"usage-{start}-{end}.{kind}"


def file(rows: Rows, grouped: bool, kind: Format) -> bytes:
    """Takes time in proportion to the rows: for a thread."""
    return as_csv(rows, grouped) if kind == "csv" else as_parquet(rows, grouped)


def as_csv(rows: Rows, grouped: bool) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_names(grouped))
    for start, end, line in rows:
        group = [cell(line.value or "")] if grouped else []
        writer.writerow([rfc3339(start), rfc3339(end), *group, *_values(line)])
    return out.getvalue().encode()


def as_parquet(rows: Rows, grouped: bool) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = [(start, end, *([line.value] if grouped else []), *_values(line)) for start, end, line in rows]
    names = _names(grouped)
    columns = zip(*table, strict=True) if table else ([] for _ in names)
    arrays = [pa.array(column, _type(name)) for name, column in zip(names, columns, strict=True)]
    out = io.BytesIO()
    pq.write_table(pa.table(arrays, names=names), out, compression="zstd")
    return out.getvalue()


def _values(line: Line) -> Iterable[Any]:
    usage, costs = line.usage(), line.costs()
    return [*usage.values(), *(costs[name] for name in MONEY)]


def _names(grouped: bool) -> list[str]:
    return ["start", "end", *(["group"] if grouped else []), *COLUMNS]


def _type(name: str) -> Any:
    import pyarrow as pa

    if name in ("start", "end"):
        return pa.timestamp("ms", "UTC")
    if name == "group":
        return pa.string()
    return pa.float64() if name in BROKEN else pa.int64()
