"""Cuts text into chunks where a reader would: before a section, a paragraph, a line, a sentence, a word.

One pass: a chunk is as long as it may be, but ends at the best kind of break in its second half, and before a
section that does not fit in whole. The next one repeats the end of it, from the beginning of a word. Every
character but blank space at the ends of chunks is in one of them.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from kernel.knowledge.contract import Chunk, DocumentError, Part
from kernel.knowledge.seams import seams
from kernel.models.wordllama import token_ends

MAX_CHUNKS = 250_000
"""Of one document; more would come of an overlap that is nearly as large as a chunk."""

SMALL = 4
"""What is less than this part of a chunk is put before the next section rather than left alone."""

CHARACTERS_A_TOKEN = 5
"""More than most tokens have: so much text is looked at first to find so many tokens."""

_BREAKS = (("\n\n",), ("\n",), (". ", "! ", "? ", "。", "！", "？"), (" ", "\t"))


_TEXT, _BLANK = re.compile(r"\S"), re.compile(r"\s+")


class _Measure(Protocol):
    def reach(self, start: int) -> int:
        """Where a chunk that starts here ends at the latest."""
        ...

    def fits(self, start: int, end: int) -> bool: ...

    def back(self, start: int, end: int) -> int:
        """Where the overlap with the next chunk begins."""
        ...


def cut(parts: Sequence[Part], size: int, overlap: int, unit: str = "characters") -> list[Chunk]:
    """Chunks in reading order, none longer than `size`, each with the page, heading and offset where it begins.

    overlap: how much of a chunk the next one repeats at most, less than `size`; none when a section begins there.
    unit: of both, `characters` or `tokens`, which are those of the local model. Raises DocumentError when there
    would be too many chunks.
    """
    text, starts = _joined(parts)
    measure: _Measure = (_Tokens if unit == "tokens" else _Characters)(text, size, overlap)
    sections = [start for start, part in zip(starts, parts, strict=True) if part.heading is not None]
    spans = list(islice(_spans(text, starts, sections, measure), MAX_CHUNKS + 1))
    if len(spans) > MAX_CHUNKS:
        raise DocumentError(f"The document comes to more than {MAX_CHUNKS:,} chunks: make them larger")
    chunks: list[Chunk] = []
    for (start, end), seam in zip(spans, seams(text, spans, starts, parts), strict=True):
        n = bisect_right(starts, start) - 1
        part, offset = parts[n], start - starts[n]
        chunks.append(
            Chunk(len(chunks), text[start:end], part.offset + offset, part.page, part.heading, seam)
        )
    return chunks


def _joined(parts: Sequence[Part]) -> tuple[str, list[int]]:
    """All text, and where in it each part starts."""
    texts, starts, size = [], [], 0
    for part in parts:
        text = part.text if part.text.endswith("\n") else part.text + "\n\n"
        starts.append(size)
        texts.append(text)
        size += len(text)
    return "".join(texts), starts


def _spans(text: str, starts: list[int], sections: list[int], measure: _Measure) -> Iterator[tuple[int, int]]:
    """Begin and end of each chunk, neither at a blank."""
    found = _TEXT.search(text)
    start = found.start() if found else 0
    while found:
        fresh = found.start()
        end = _end(text, starts, start, fresh, measure)
        if end <= fresh:
            start, end = fresh, _end(text, starts, fresh, fresh, measure)
        stop = start + len(text[start:end].rstrip())
        yield start, stop
        if found := _TEXT.search(text, end):
            start = _next(text, sections, start, stop, found.start(), measure)


def _end(text: str, starts: list[int], start: int, fresh: int, measure: _Measure) -> int:
    """fresh: the first character that is in no chunk yet; the answer when no chunk from `start` can hold it."""
    limit = measure.reach(start)
    while limit > fresh:
        end = limit if limit == len(text) else _break(text, starts, start, fresh, limit)
        if end == start + 1 or measure.fits(start, end):
            return end
        limit = start + (end - start) * 3 // 4
    return fresh


def _break(text: str, starts: list[int], start: int, fresh: int, limit: int) -> int:
    span = limit - start
    section = starts[bisect_right(starts, limit) - 1]
    if section > max(start + span // SMALL, fresh):
        return section
    low = max(start + span // 2, fresh + 1)
    for kinds in _BREAKS:
        if found := max(_after(text, mark, low, limit) for mark in kinds):
            return found
    return limit


def _next(text: str, sections: list[int], start: int, stop: int, fresh: int, measure: _Measure) -> int:
    """Where the chunk after that from `start` to `stop` begins, at a word if one begins in the overlap."""
    back = measure.back(start, stop)
    if not start < back < stop or _holds(sections, stop, fresh):
        return fresh
    if not text[back - 1].isspace() and (blank := _BLANK.search(text, back, stop - 1)):
        return blank.end()
    word = _TEXT.search(text, back)
    return word.start() if word else fresh


def _holds(sections: list[int], stop: int, fresh: int) -> bool:
    """Whether a section begins between the two, or at the latter."""
    n = bisect_right(sections, fresh) - 1
    return n >= 0 and sections[n] >= stop


def _after(text: str, mark: str, low: int, limit: int) -> int:
    """The end of the last one in this stretch; 0 if there is none."""
    found = text.rfind(mark, low, limit)
    return found + len(mark) if found >= 0 else 0


class _Characters:
    def __init__(self, text: str, size: int, overlap: int):
        self._length, self._size, self._overlap = len(text), size, overlap

    def reach(self, start: int) -> int:
        return min(start + self._size, self._length)

    def fits(self, start: int, end: int) -> bool:
        return True

    def back(self, start: int, end: int) -> int:
        return end - self._overlap


class _Tokens:
    """Tokens depend on what is around them: a piece is measured alone, as it will be embedded."""

    def __init__(self, text: str, size: int, overlap: int):
        self._text, self._size, self._overlap = text, size, overlap
        self._ends: list[int] = []
        self._window = CHARACTERS_A_TOKEN * size

    def reach(self, start: int) -> int:
        while True:
            ends = token_ends(self._text[start : start + self._window])
            if len(ends) > self._size:
                reached = max(ends[self._size - 1], 1)
                self._window = reached + reached // 4 + CHARACTERS_A_TOKEN
                return start + reached
            if start + self._window >= len(self._text):
                return len(self._text)
            self._window *= 2

    def fits(self, start: int, end: int) -> bool:
        self._ends = token_ends(self._text[start:end].rstrip())
        return len(self._ends) <= self._size

    def back(self, start: int, end: int) -> int:
        """Of the piece that was last found to fit."""
        kept = len(self._ends) - self._overlap
        return start + self._ends[kept - 1] if kept > 0 else start
