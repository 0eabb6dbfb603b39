"""Markdown files of some 2 KB each, the same bytes every time.

Four words in five are common English, so that a word is as many tokens as in real text; one in five is an invented
rare one.
"""

import random
from collections.abc import Iterator
from pathlib import Path

SEED = 7
SIZE = 2_000
RARE_WORDS = 4_000
COMMON = (Path(__file__).parent / "english.txt").read_text().split()
"""The most common word first."""


def texts(count: int, seed: int = SEED) -> Iterator[str]:
    chance = random.Random(seed)
    syllables = [
        begin + vowel + end
        for begin in (*"bcdfglmnprstv", "st", "tr", "pl")
        for vowel in (*"aeiou", "ai", "ea")
        for end in ("", "n", "r", "s", "l")
    ]
    rare = ["".join(chance.choices(syllables, k=chance.choice((2, 2, 3)))) for _ in range(RARE_WORDS)]
    weights = [1 / (rank + 8) for rank in range(len(COMMON))]

    def words(count: int) -> str:
        common = chance.choices(COMMON, weights, k=count)
        return " ".join(chance.choice(rare) if chance.random() < 0.2 else word for word in common)

    for number in range(count):
        parts = [f"# Document {number}: {words(5).title()}\n"]
        while sum(map(len, parts)) < SIZE:
            if chance.random() < 0.25:
                parts.append(f"\n## {words(3).title()}\n")
            sentences = (words(chance.randint(7, 18)).capitalize() for _ in range(chance.randint(2, 5)))
            parts.append(". ".join(sentences) + ".\n")
        yield "\n".join(parts)


def folder(place: Path, count: int) -> Path:
    """A folder of so many files, made unless it is there whole."""
    whole = place / ".whole"
    if not whole.exists() or whole.read_text() != str(count):
        place.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts(count)):
            (place / f"doc{number:06}.md").write_text(text)
        whole.write_text(str(count))
    return place
