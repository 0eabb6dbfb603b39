"""robots.txt as RFC 9309 has it: the longest rule wins, with `*` and `$`, groups of one name are one.

`urllib.robotparser` takes the first rule that fits and knows no wildcards: it would enter what is forbidden.
"""

import re
from dataclasses import dataclass, field

MAX_BYTES = 500 * 1024
"""More than this is not read."""
MAX_DELAY_S = 30.0
_COMMENT = re.compile(r"\s*#.*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]")
_FIELDS = frozenset({"user-agent", "allow", "disallow", "crawl-delay"})


@dataclass(slots=True)
class _Group:
    """rules: paths with whether they may be asked for. delay: seconds between two requests."""

    rules: list[tuple[str, bool]] = field(default_factory=list)
    delay: float = 0.0


class Robots:
    """What a robots.txt says to one agent. sitemaps: URLs."""

    def __init__(self, text: str, agent: str):
        self.sitemaps: list[str] = []
        groups = self._read(text)
        group = groups.get(agent.lower()) or groups.get("*") or _Group()
        self._rules = sorted(group.rules, key=lambda rule: (-len(rule[0]), not rule[1]))
        self.delay = min(group.delay, MAX_DELAY_S)

    def allows(self, target: str) -> bool:
        """target: path and query."""
        path = _normal(target)
        return next((allowed for rule, allowed in self._rules if _fits(rule, path)), True)

    def _read(self, text: str) -> dict[str, _Group]:
        groups: dict[str, _Group] = {}
        current: list[_Group] = []
        naming = False
        for line in text.lstrip("\ufeff").splitlines():
            name, _, value = _COMMENT.sub("", line).partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "sitemap":
                self.sitemaps.append(value)
            if name not in _FIELDS:
                continue
            if name == "user-agent":
                current = current if naming else []
                current.append(groups.setdefault(value.lower(), _Group()))
            else:
                _add(current, name, value)
            naming = name == "user-agent"
        return groups


def _add(groups: list[_Group], name: str, value: str) -> None:
    for group in groups:
        if name == "crawl-delay":
            group.delay = _seconds(value)
        elif value:
            group.rules.append((_normal(value), name == "allow"))


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) else 0.0


def _fits(rule: str, path: str) -> bool:
    whole = rule.endswith("$")
    first, *others = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    last = others.pop() if whole and others else None
    for piece in others:
        at = path.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    if not whole:
        return True
    return at == len(path) if last is None else len(path) - len(last) >= at and path.endswith(last)


def _normal(path: str) -> str:
    """Escaped where it has to be, in one way."""

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if _UNRESERVED.fullmatch(character) else match[0].upper()

    escaped = "".join(
        char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode(errors="replace"))
        for char in path
    )
    return _ESCAPE.sub(plain, escaped)
