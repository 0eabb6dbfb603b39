"""How the commands talk: one line for each thing, its mark first. The only place that prints."""

import sys
from collections.abc import Iterable
from typing import NoReturn

from cluster.failure import Refused
from cluster.layout import Connection, Home

DONE, NOTE, FAILED, PLAY = "✓", "!", "✗", "▶"
NAME_WIDTH, FACTS_WIDTH = 22, 42


def line(text: str = "") -> None:
    print(text, flush=True)


def step(name: str, facts: str, seconds: float | None = None, mark: str = DONE) -> None:
    took = "" if seconds is None else duration(seconds)
    line(f"  {mark} {name:<{NAME_WIDTH}} {facts:<{FACTS_WIDTH}} {took:>5}".rstrip())


def duration(seconds: float) -> str:
    return "<1 s" if seconds < 1 else f"{seconds:.0f} s"


def refused(problem: str, remedy: str) -> None:
    print(f"  {FAILED} {problem}\n    → {remedy}", file=sys.stderr, flush=True)


def give_up(refusal: Refused) -> NoReturn:
    refused(refusal.problem, refusal.remedy)
    raise SystemExit(1)


def closing(home: Home, connection: Connection, key_is_new: bool) -> None:
    """Where to go from here. The key is shown in full only when it was just made."""
    key = connection.api_key or "$KEY"
    told = f"{key} (shown once; also in {home.connection})" if key_is_new else f"in {home.connection}"
    if connection.api_key is None:
        told = "lost; `make key` makes another"
    line()
    line(f"  API        {connection.base_url:<34} key  {told}")
    shown = key if key_is_new else "$KEY"
    line(f"  Dashboard  {connection.dashboard_url}")
    line(f'  Try        curl -H "Authorization: Bearer {shown}" {connection.base_url}/agents')
    line("  Stop       make down")


def table(rows: Iterable[tuple[str, ...]]) -> None:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
