"""Globs over paths, as callers write them in `include` and `exclude`.

`*`, `?` and `[…]` stand within one name, `**` for any number of folders. A glob without a slash is for the
last name of a path, wherever it is; one that ends in a slash is for all that is below.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

ANY_DEPTH: Final = "**"
Piece = re.Pattern[str] | None
"""None is `**`."""


class Globs:
    """Raises ValueError for a glob that is none."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]):
        self._include = [_pieces(glob) for glob in include]
        self._exclude = [_pieces(glob) for glob in exclude]

    def takes(self, path: str) -> bool:
        """Whether some `include` (or there is none) and no `exclude` is for this path, with slashes."""
        names = path.strip("/").split("/")
        included = not self._include or any(_matches(glob, names) for glob in self._include)
        return included and not any(_matches(glob, names) for glob in self._exclude)


def check_glob(glob: str) -> str:
    """The glob, for fields of shapes."""
    _pieces(glob)
    return glob


def _pieces(glob: str) -> list[Piece]:
    if not glob.strip("/"):
        raise ValueError("must name something")
    text = glob if "/" in glob else f"{ANY_DEPTH}/{glob}"
    text = text + ANY_DEPTH if text.endswith("/") else text
    try:
        return [None if name == ANY_DEPTH else re.compile(fnmatch.translate(name)) for name in _names(text)]
    except re.error:
        raise ValueError("is not a glob") from None


def _names(text: str) -> list[str]:
    return text.strip("/").split("/")


def _matches(glob: Sequence[Piece], names: Sequence[str]) -> bool:
    """In time of length times length: what follows the last `**` is tried from one place after the other."""
    piece, name = 0, 0
    resume: tuple[int, int] | None = None
    while name < len(names):
        wanted = glob[piece] if piece < len(glob) else _NOTHING
        if wanted is None:
            resume, piece = (piece + 1, name), piece + 1
        elif wanted.match(names[name]):
            piece, name = piece + 1, name + 1
        elif resume:
            resume = resume[0], resume[1] + 1
            piece, name = resume
        else:
            return False
    return all(rest is None for rest in glob[piece:])


_NOTHING = re.compile(r"(?!)")
