"""The local embedding model: the token vectors that the package wordllama brings, and their tokenizer.

Its files are read here without importing the package, which configures the whole process's logging, and pads every
text of a batch to the longest. A word's tokens are looked up once and remembered: that takes a seventh of the time.
"""

import re
from array import array
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

PACKAGE = "wordllama"
WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
DIMENSION = 256

SPACE = "▁"
"""How tokens spell a space."""
MOST_PIECES = 50_000
"""That are remembered, in some 10 MB."""

_PIECE = re.compile(r" *[^ \n]+|\n| +")
"""No token reaches from one into the next: spaces stand only at the beginning of tokens, and none has a line end."""
_SPECIAL = re.compile(r"</?s>|<unk>")
"""Signs of the tokenizer's own."""


@lru_cache(maxsize=1)
def _tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(_file(TOKENIZER)))


@lru_cache(maxsize=1)
def table() -> "NDArray[np.float32]":
    """A vector for each token, of shape (tokens, 256): read on first use, 32 MB."""
    from safetensors.numpy import load_file

    vectors: NDArray[np.float32] = load_file(_file(WEIGHTS))["embedding.weight"].astype("float32")
    return vectors


def _file(path: str) -> Path:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"The package '{PACKAGE}' is not installed")
    return Path(found.submodule_search_locations[0], path)


class _Pieces(dict[str, bytes]):
    """Piece -> ids of its tokens, as int32."""

    def __missing__(self, piece: str) -> bytes:
        """The tokenizer takes a text to begin with a space, and a line end for a token: two that are not asked for."""
        if len(self) >= MOST_PIECES:
            self.clear()
        found = _tokenizer().encode("\n" + piece, add_special_tokens=False)
        self[piece] = ids = _packed(found.ids[2:])
        return ids


_ids_of = _Pieces().__getitem__


def token_ids(text: str) -> "NDArray[np.int32]":
    """As the tokenizer gives them."""
    from numpy import frombuffer, int32

    if not text or ("<" in text and _SPECIAL.search(text)):
        return frombuffer(_packed(_tokenizer().encode(text, add_special_tokens=False).ids), int32)
    pieces = _PIECE.findall(" " + text.replace(SPACE, " "))
    return frombuffer(b"".join(map(_ids_of, pieces)), int32)


def _packed(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def token_ends(text: str) -> list[int]:
    """Where each token ends, in characters."""
    return [end for _, end in _tokenizer().encode(text, add_special_tokens=False).offsets]
