"""Keeps secret values out of what is stored or shown: wherever one stands, in any usual form, a mark replaces it.

It knows only values that were really used: an execution's redactor begins empty and learns each secret before the
node sees it.
"""

import base64
import html
import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[secret]"
SHORTEST = 4
"""Characters; what is shorter stands in too many texts by chance to be replaced."""


class Redactor:
    """Grows; never forgets."""

    def __init__(self) -> None:
        self.forms: set[str] = set()
        """Everything that is replaced."""
        self._pattern: re.Pattern[str] | None = None
        self._sorted: list[str] = []
        self._heads: frozenset[str] = frozenset()
        """How forms begin."""
        self._longest = 0
        """Characters of the longest form."""

    def __bool__(self) -> bool:
        return self._pattern is not None

    def learn(self, value: Any) -> None:
        """A secret: text, or JSON whose every text and number is one."""
        forms = {form for text in _texts(value) for form in _forms(text)} - self.forms
        if forms:
            self.forms |= forms
            longest_first = sorted(self.forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            self._sorted, self._longest = sorted(self.forms), len(longest_first[0])
            self._heads = frozenset(form[:SHORTEST] for form in self.forms)

    def text(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(MARK, text)

    def value(self, value: Any) -> Any:
        """Any JSON, keys of objects included."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return MARK if isinstance(value, int | float) and _digits(value) in self.forms else value

    def settled(self, text: str) -> tuple[str, str]:
        """Of a text that goes on: what may be said, and the end that could still become a secret, or a longer one."""
        if self._pattern is None:
            return text, ""
        said, at = "", 0
        while True:
            match = self._pattern.search(text, at)
            grows = self._grows(text, at, match.start() if match else len(text) - 1)
            if grows is not None:
                return said + text[at:grows], text[grows:]
            if match is None:
                return said + text[at:], ""
            said, at = said + text[at : match.start()] + MARK, match.end()

    def _grows(self, text: str, first: int, last: int) -> int | None:
        """The first place of these where what is left of the text begins a form that is longer."""
        for at in range(max(first, len(text) - self._longest + 1), last + 1):
            if (text[at : at + SHORTEST] in self._heads or len(text) - at < SHORTEST) and self._begins(
                text[at:]
            ):
                return at
        return None

    def _begins(self, text: str) -> bool:
        at = bisect_left(self._sorted, text)
        if at < len(self._sorted) and self._sorted[at] == text:
            at += 1
        return at < len(self._sorted) and self._sorted[at].startswith(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float):
        digits = _digits(value)
        if sum(map(str.isdigit, digits)) >= SHORTEST:
            yield digits
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _digits(number: float) -> str:
    """As it is written; one that is whole, without a fraction."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _forms(text: str) -> Iterator[str]:
    """Itself, escaped for JSON, URLs and HTML, in base64 at each of the three offsets it can have there, in hex."""
    if len(text.strip()) < SHORTEST:
        return
    raw = text.encode("utf-8", "surrogatepass")
    yield from (text, text.strip(), raw.hex(), raw.hex().upper())
    for escaped in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield from (escaped, escaped.replace("/", "\\/"))
    for escaped in (quote(text, safe=""), quote(text), quote_plus(text)):
        yield from (escaped, re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), escaped))
    yield from _html(text)
    yield from (line for line in text.splitlines() if len(line) >= 16)
    yield from (form for offset in range(3) for form in _base64(raw, offset))


def _html(text: str) -> Iterator[str]:
    escaped = html.escape(text)
    yield from (escaped, html.escape(text, quote=False))
    yield escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _base64(raw: bytes, offset: int) -> Iterator[str]:
    """The letters that are the value's alone when `offset` bytes stand before it and others follow."""
    encoded = base64.b64encode(bytes(offset) + raw).decode().rstrip("=")
    spare = (offset + len(raw)) % 3
    letters = encoded[(0, 2, 3)[offset] : len(encoded) - (1 if spare else 0)]
    if len(letters) >= 2 * SHORTEST:
        yield letters
        yield letters.replace("+", "-").replace("/", "_")


class Speech:
    """Text that comes in pieces: what could be the beginning of a secret waits until more has come."""

    def __init__(self, redactor: Redactor):
        self._redactor, self._held = redactor, ""

    def say(self, piece: str) -> str:
        """What may be said now."""
        said, self._held = self._redactor.settled(self._held + piece)
        return said

    def rest(self) -> str:
        """What is left when no more comes."""
        text, self._held = self._redactor.text(self._held), ""
        return text
