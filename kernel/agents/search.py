"""By which words an agent is found: any prefix of a word of its name or description, in any case.

Words are what stands between spaces, and the plain words inside of that, so `C++` finds `C++` and `review`
finds `code-review`. Every prefix has a set of the agents that have it: a search reads sets and scans nothing.
Words count by their first 32 characters.
"""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from kernel.errors import ValidationError
from kernel.storage.agents import Place
from kernel.text import clean_name

LONGEST_PREFIX = 32
LONGEST_SEARCH = 256
STATUSES = ("active", "inactive", "error")


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """What a list is narrowed to; all of it must hold. `only` are the agents a limited key reaches."""

    status: str | None = None
    tag: str | None = None
    prefixes: tuple[str, ...] = ()
    only: Collection[str] | None = None

    @classmethod
    def of(
        cls,
        status: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        only: Collection[str] | None = None,
    ) -> "AgentFilter":
        """From query parameters; a blank search is none. Raises ValidationError naming the parameter."""
        if status is not None and status not in STATUSES:
            raise ValidationError.at("status", f"must be one of {', '.join(STATUSES)}")
        wanted = _clean("search", search, LONGEST_SEARCH) if search and search.strip() else ""
        tagged = None if tag is None else _clean("tag", tag, 64)
        return cls(status, tagged, sought(wanted), only)

    def places(self) -> list[Place]:
        """The sets that an agent must be in."""
        named = [("status", self.status), ("tag", self.tag)]
        prefixes = [("prefix", prefix) for prefix in self.prefixes]
        return [(field, value) for field, value in named if value is not None] + prefixes


def places_of(name: str, description: str, tags: Collection[str]) -> list[Place]:
    """The sets an agent is in beside those of its status."""
    found = {word[:end] for word in words(f"{name} {description}") for end in range(1, len(word) + 1)}
    return [("tag", tag) for tag in tags] + [("prefix", prefix) for prefix in sorted(found)]


def words(text: str) -> frozenset[str]:
    tokens = _folded(text).split()
    found = set(tokens) | {run for token in tokens for run in _runs(token)}
    return frozenset(word[:LONGEST_PREFIX] for word in found)


def sought(search: str) -> tuple[str, ...]:
    """The prefixes that a search asks for, without those that another of them implies."""
    asked = sorted({token[:LONGEST_PREFIX] for token in _folded(search).split()})
    followed = zip(asked, [*asked[1:], ""], strict=False)
    return tuple(one for one, longer in followed if not longer.startswith(one))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _runs(token: str) -> list[str]:
    return "".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in token).split()


def _clean(field: str, text: str, longest: int) -> str:
    try:
        return clean_name(text, longest)
    except ValueError as error:
        raise ValidationError.at(field, str(error)) from None
