"""How the chunks of a document join, told with each of them: its text can be put together again, and cut another way.

A seam is JSON: what comes after the chunk (the blank space up to the next one, or how many characters that repeats),
the parts of the document that begin from here to the next chunk (where, from the begin of this one; offset, page and
heading), and of the first chunk the blank space before it. With the texts of the chunks this is the document as the
parser gave it, to the character.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson

from kernel.knowledge.contract import Chunk, Part

MOST_BLANK = 2_000
"""Characters of blank space that a seam holds; of more the rest is given up."""
MOST_BYTES = 32_000
"""Of a seam. Where more parts begin in one chunk than fit, the last of them are told as one."""


def seams(
    text: str, spans: Sequence[tuple[int, int]], starts: Sequence[int], parts: Sequence[Part]
) -> Iterator[str]:
    """Of each chunk. spans: begin and end of each in the text; starts: where in it each part begins."""
    n = 0
    for number, (start, stop) in enumerate(spans):
        last = number == len(spans) - 1
        following = len(text) if last else spans[number + 1][0]
        own: list[Any] = []
        while n < len(starts) and (last or starts[n] < following):
            own.append([starts[n] - start, parts[n].offset, parts[n].page, _clean(parts[n].heading)])
            n += 1
        then = stop - following if following < stop else text[stop:following][:MOST_BLANK]
        yield _told(then, own, text[:start][-MOST_BLANK:] if number == 0 else "")


def rebuilt(chunks: Sequence[Chunk]) -> list[Part]:
    """The parts that these chunks, all of a document and in order, were cut from."""
    pieces: list[str] = []
    begins: list[tuple[int, Any]] = []
    size = 0
    for chunk in chunks:
        then, own, before = orjson.loads(chunk.seam)
        piece = chunk.text[:-then] if isinstance(then, int) else chunk.text + then
        size += len(before)
        begins += [(size + at, rest) for at, *rest in own]
        pieces += (before, piece)
        size += len(piece)
    text = "".join(pieces)
    ends = [*(min(max(at, 0), size) for at, _ in begins), size]
    return [
        Part(text[start:end], *rest) for (start, end), (_, rest) in zip(pairwise(ends), begins, strict=True)
    ]


def _told(then: str | int, own: list[Any], before: str) -> str:
    told = orjson.dumps([then, own, before])
    while len(told) > MOST_BYTES:
        own = own[: len(own) // 2]
        told = orjson.dumps([then, own, before])
    return told.decode()


def _clean(heading: str | None) -> str | None:
    """Half characters cannot be stored."""
    return heading.encode(errors="replace").decode() if heading else heading
