"""The local embedding model: the token vectors that the package wordllama brings, and their tokenizer.

Its files are read here without importing the package, which configures the whole process's logging, and pads every
text of a batch to the longest: without that, half as many texts again are embedded in the same processor time.
"""

from collections.abc import Sequence
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


def token_ids(texts: Sequence[str]) -> list[list[int]]:
    return [found.ids for found in _tokenizer().encode_batch_fast(list(texts), add_special_tokens=False)]


def token_ends(text: str) -> list[int]:
    """Where each token ends, in characters."""
    return [end for _, end in _tokenizer().encode(text, add_special_tokens=False).offsets]
