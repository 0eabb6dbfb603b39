"""Placeholders in the strings of a config: `{{ input.text }}`, `{{ nodes.llm1.output.items[0] }}`.

A placeholder is a plain path, filled in once; what it yields is never read again, so no value can smuggle in
a placeholder of its own. There are no operators, filters or calls: those belong to the node type `template`.
A string that is one placeholder yields the value itself; inside other text a string goes in as it is and any
other value as compact JSON. `{{ '{{' }}` writes two literal braces; `}}` and `{%` need nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kernel.errors import NodeError

LONGEST_TEXT = 1_000_000
LARGEST_CONFIG = 8_000_000
"""Characters of all filled-in texts of one config together."""

ROOTS = ("input", "nodes", "execution", "secrets")
EXECUTION_FIELDS = ("id",)

Context = Mapping[str, Any]
Secret = Callable[[str], Any]
"""The value of a secret, by name: text, or an object with fields."""

_STEP = r"""\.[A-Za-z_][\w-]*|\[-?\d{1,9}\]|\["[^"\\]*"\]|\['[^'\\]*'\]"""
_PATH = re.compile(rf"([A-Za-z_]\w*)((?:{_STEP})*)", re.ASCII)
_STEPS = re.compile(_STEP, re.ASCII)
_BRACES = re.compile(r"""'[{}%#]+'|"[{}%#]+\"""")


class BadTemplate(Exception):
    """Text whose placeholders are not all plain, known paths; `reasons` has one sentence for each."""

    def __init__(self, reasons: Sequence[str]):
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


def no_secret(name: str) -> Any:
    raise NodeError(f"There is no secret named '{name}'", {"path": f"secrets.{name}"})


def as_text(value: Any) -> str:
    """How a value reads inside other text."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@dataclass(frozen=True, slots=True)
class Path:
    """`text` is the path as written, `steps` what follows the root."""

    text: str
    root: str
    steps: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Raises ValueError with the reason: not a path, an unknown root, or nothing it could ever name."""
        match = _PATH.fullmatch(text)
        if match is None:
            raise ValueError(
                f"'{text[:80]}' is not a plain path such as input.text; "
                "write {{ '{{' }} for literal braces"
            )
        path = cls(text, match[1], tuple(map(_step, _STEPS.findall(match[2]))))
        if reason := path._misfit():
            raise ValueError(reason)
        return path

    def _misfit(self) -> str | None:
        if self.root not in ROOTS:
            return f"unknown variable '{self.root[:80]}'; there are {', '.join(ROOTS)}"
        if self.root == "nodes" and (self.node is None or self.steps[1:2] != ("output",)):
            return f"'{self.text[:80]}' names no output; write nodes.<id>.output"
        if self.root == "execution" and (len(self.steps) != 1 or self.steps[0] not in EXECUTION_FIELDS):
            return f"unknown variable '{self.text[:80]}'; there is execution.id"
        if self.root == "secrets" and not (self.steps and all(isinstance(step, str) for step in self.steps)):
            return f"'{self.text[:80]}' names no secret; write secrets.NAME or secrets.NAME.field"
        return None

    @property
    def secret(self) -> str | None:
        """The name of the secret it reads."""
        return str(self.steps[0]) if self.root == "secrets" else None

    @property
    def node(self) -> str | None:
        """The node whose output it reads."""
        named = self.root == "nodes" and self.steps and isinstance(self.steps[0], str)
        return str(self.steps[0]) if named else None

    def value(self, context: Context, secret: Secret = no_secret) -> Any:
        """Raises NodeError naming the path when nothing is there."""
        try:
            found = context[self.root] if self.secret is None else secret(self.secret)
            for step in self.steps if self.secret is None else self.steps[1:]:
                found = _inside(found)[step]
        except (KeyError, IndexError, TypeError):
            raise NodeError(f"There is nothing at '{self.text}'", {"path": self.text}) from None
        return found


def _inside(value: Any) -> Any:
    """Text has no parts: `input.text[0]` is a mistake, not its first letter."""
    return {} if isinstance(value, str) else value


def _step(text: str) -> str | int:
    if text[0] == ".":
        return text[1:]
    return text[2:-2] if text[1] in "\"'" else int(text[1:-1])


@dataclass(frozen=True, slots=True)
class Template:
    """Text split at its placeholders."""

    parts: tuple[str | Path, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises BadTemplate."""
        parts: list[str | Path] = []
        reasons: list[str] = []
        for literal, inner in _split(text):
            if literal:
                parts.append(literal)
            if inner is not None:
                try:
                    parts.append(_placeholder(inner))
                except ValueError as exc:
                    reasons.append(str(exc))
        if reasons:
            raise BadTemplate(reasons)
        return cls(tuple(parts))

    def references(self) -> tuple[Path, ...]:
        return tuple(part for part in self.parts if isinstance(part, Path))

    def render(self, context: Context, secret: Secret = no_secret) -> Any:
        """The value of a lone placeholder, else text. Raises NodeError for a path with nothing at it."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Path):
            return self.parts[0].value(context, secret)
        return self.text(context, secret)

    def text(self, context: Context, secret: Secret = no_secret) -> str:
        """Always text, also of a lone placeholder. Raises NodeError when it grows too long."""
        pieces, length = [], 0
        for part in self.parts:
            piece = part if isinstance(part, str) else as_text(part.value(context, secret))
            length += len(piece)
            if length > LONGEST_TEXT:
                raise NodeError(
                    f"A text with its placeholders filled in is longer than {LONGEST_TEXT:,} characters"
                )
            pieces.append(piece)
        return "".join(pieces)


def _split(text: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of literal text and the inside of the placeholder after it, in one pass over the text."""
    at = 0
    while (start := text.find("{{", at)) >= 0:
        end = text.find("}}", start + 2)
        if end < 0:
            raise BadTemplate(["'{{' is never closed; write {{ '{{' }} for literal braces"])
        yield text[at:start], text[start + 2 : end].strip()
        at = end + 2
    yield text[at:], None


def _placeholder(inner: str) -> str | Path:
    return inner[1:-1] if _BRACES.fullmatch(inner) else Path.parse(inner)


@dataclass(frozen=True, slots=True)
class _Holder:
    """A dict or list with placeholders inside: a copy of `blank` gets `parts` filled in."""

    blank: Any
    parts: tuple[tuple[str | int, "Template | _Holder"], ...]

    def secrets(self) -> Iterator[str]:
        for _, part in self.parts:
            if isinstance(part, _Holder):
                yield from part.secrets()
            else:
                yield from (path.secret for path in part.references() if path.secret is not None)

    def render(self, context: Context, secret: Secret, size: "_Size") -> Any:
        filled = self.blank.copy()
        for key, part in self.parts:
            if isinstance(part, _Holder):
                filled[key] = part.render(context, secret, size)
            else:
                filled[key] = size.with_room_for(part.render(context, secret))
        return filled


@dataclass(slots=True)
class _Size:
    """Characters that a config has grown to."""

    characters: int = 0

    def with_room_for(self, value: Any) -> Any:
        """The value itself. Raises NodeError when the config would grow too large."""
        self.characters += len(value) if isinstance(value, str) else 0
        if self.characters > LARGEST_CONFIG:
            raise NodeError(
                f"A config with its placeholders filled in is larger than {LARGEST_CONFIG:,} characters"
            )
        return value


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """A config ready to be filled in; `constant` when there is nothing to fill."""

    raw: dict[str, Any]
    holder: _Holder | None

    @property
    def constant(self) -> bool:
        return self.holder is None

    @property
    def secrets(self) -> frozenset[str]:
        """Names of the secrets it reads."""
        return frozenset() if self.holder is None else frozenset(self.holder.secrets())

    def render(self, context: Context, secret: Secret = no_secret) -> dict[str, Any]:
        """Raises NodeError naming the path that has no value."""
        if self.holder is None:
            return self.raw
        filled: dict[str, Any] = self.holder.render(context, secret, _Size())
        return filled


def compile_config(config: dict[str, Any], skip: frozenset[str] = frozenset()) -> CompiledConfig:
    """`skip`: top-level fields that are code and stay as they are. Raises BadTemplate."""
    return CompiledConfig(config, _hold(config, [(k, v) for k, v in config.items() if k not in skip]))


def _hold(value: Any, items: Sequence[tuple[str | int, Any]]) -> _Holder | None:
    parts = [(key, part) for key, inner in items if (part := _compile(inner)) is not None]
    return _Holder(value, tuple(parts)) if parts else None


def _compile(value: Any) -> Template | _Holder | None:
    if isinstance(value, str):
        return Template.parse(value) if "{{" in value else None
    return _hold(value, items_of(value))


def items_of(value: Any) -> Sequence[tuple[str | int, Any]]:
    """Keys and values of a dict or list; nothing of anything else."""
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else ()


def placeholders(config: Mapping[str, Any], skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Each string that has placeholders: its field (`headers.Accept`, `images[0]`) and its text."""
    for key, value in config.items():
        if key not in skip:
            yield from _strings(key, value)


def _strings(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if "{{" in value:
            yield field, value
        return
    for key, inner in items_of(value):
        yield from _strings(join(field, key), inner)


def join(field: str, step: str | int) -> str:
    """`config` and `model` make `config.model`, `nodes` and 0 make `nodes[0]`."""
    if isinstance(step, int):
        return f"{field}[{step}]"
    return f"{field}.{step}" if field else step


def is_placeholder(value: Any) -> bool:
    """Whether this is a lone placeholder, which can yield a value of any type."""
    if not isinstance(value, str) or "{{" not in value:
        return False
    try:
        parts = Template.parse(value).parts
    except BadTemplate:
        return False
    return len(parts) == 1 and isinstance(parts[0], Path)
