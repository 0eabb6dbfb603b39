"""What the peers of ingestion share: the files, the way they are cut, the model, and how a run is told."""

import json
import os
from pathlib import Path
from typing import Any

SIZE, OVERLAP, DIMENSION = 1000, 200, 256


def files(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.md"))


def model() -> Any:
    """The weights that the package brings; without these arguments it asks a hub for them."""
    import wordllama

    return wordllama.WordLlama.load(cache_dir=os.path.dirname(wordllama.__file__), disable_download=True)


def chunks(text: str) -> list[str]:
    """About SIZE characters each, cut at a space where there is one; each repeats OVERLAP of the one before."""
    cut, start = [], 0
    while True:
        end = min(start + SIZE, len(text))
        if end < len(text) and (space := text.rfind(" ", start + SIZE // 2, end)) > 0:
            end = space
        cut.append(text[start:end])
        if end == len(text):
            return cut
        start = end - OVERLAP


def report(chunks: int, seconds: float, stored: int) -> None:
    print(json.dumps({"chunks": chunks, "seconds": seconds, "stored": stored}))
