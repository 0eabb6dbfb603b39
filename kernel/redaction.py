"""Keeps secret values out of what is stored or shown: wherever one stands, in any usual form, a mark replaces it.

It knows only values that were really used: an execution's redactor begins empty and learns each secret before the
node sees it.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

MARK = "[secret]"
SHORTEST = 4
"""Characters; what is shorter stands in too many texts by chance to be replaced."""


class Redactor:
    """Grows; never forgets."""

    def __init__(self) -> None:
        self.forms: set[str] = set()
        """Everything that is replaced."""
        self._pattern: re.Pattern[str] | None = None
        self.longest = 0
        """Characters of the longest form."""

    def __bool__(self) -> bool:
        return self._pattern is not None

    def learn(self, value: Any) -> None:
        """A secret: text, or JSON whose every text is one."""
        forms = {form for text in _texts(value) for form in _forms(text)} - self.forms
        if forms:
            self.forms |= forms
            longest_first = sorted(self.forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            self.longest = len(longest_first[0])

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
        return [self.value(inner) for inner in value] if isinstance(value, list | tuple) else value

    def tail(self, text: str) -> int:
        """How many characters at the end of a text could be the beginning of a secret: those are not to be said yet."""
        for size in range(min(self.longest - 1, len(text)), 0, -1):
            if any(form.startswith(text[-size:]) for form in self.forms):
                return size
        return 0


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _forms(text: str) -> Iterator[str]:
    """Itself, escaped for JSON and URLs, in base64 at each of the three offsets it can have there, in hex."""
    if len(text.strip()) < SHORTEST:
        return
    raw = text.encode("utf-8", "surrogatepass")
    yield from (text, text.strip(), orjson.dumps(text).decode()[1:-1], ascii_json(text))
    yield from (quote(text, safe=""), quote(text), quote_plus(text), raw.hex(), raw.hex().upper())
    yield from (line for line in text.splitlines() if len(line) >= 16)
    yield from (form for offset in range(3) for form in _base64(raw, offset))


def ascii_json(text: str) -> str:
    """As JSON writers that keep to ASCII escape it."""
    return "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in orjson.dumps(text).decode()[1:-1])


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
        if not self._redactor:
            return piece
        text = self._redactor.text(self._held + piece)
        cut = len(text) - self._redactor.tail(text)
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What is left when no more comes."""
        text, self._held = self._held, ""
        return text
