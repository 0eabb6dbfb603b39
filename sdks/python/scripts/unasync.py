"""Writes `codexos/_sync` from `codexos/_async`: the same code without `async` and `await`.

    python sdks/python/scripts/unasync.py

A test compares the two, so run it after every change of `_async`.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "codexos"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"
BY_HAND = {"__init__.py", "concurrency.py", "paging.py"}
RULES = [
    (r"\bAsyncPages\b", "Page"),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|closing|read|iter_bytes)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b_async\b", "_sync"),
]


def synchronous(text: str) -> str:
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


def generated() -> dict[str, str]:
    """The text of each file of `_sync` that is not written by hand, by name."""
    sources = [path for path in sorted(SOURCE.glob("*.py")) if path.name not in BY_HAND]
    return {path.name: _tidy(synchronous(path.read_text())) for path in sources}


def _tidy(text: str) -> str:
    """Sorted, shortened and laid out anew: shorter names fit other lines."""
    for command in (
        ["check", "--fix", "--unsafe-fixes", "--select=I,F401,UP028", "--quiet"],
        ["format", "--quiet"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET / "x.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = done.stdout
    return text


if __name__ == "__main__":
    for name, text in generated().items():
        (TARGET / name).write_text(text)
