"""The secret side of an API key: `cxk_<environment>_<id>_<secret>`, and the keyed hash it is known by.

The pepper that keys the hash is a file beside the data, not in it: a copy of the store alone opens nothing
and cannot be searched for keys. Whoever loses the file issues new keys.
"""

import hmac
import os
import re
import secrets
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kernel.errors import AuthenticationError, InternalError

HASH_BYTES = 32
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LETTERS = 43
"""Of 62 kinds: 256 bits."""
_TOKEN = re.compile(r"cxk_[a-z]{1,16}_([0-9A-HJKMNP-TV-Z]{26})_[0-9A-Za-z]{43}")


def new_secret() -> str:
    """The random part of an API key or a vault token."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LETTERS))


def new_token(environment: str, key_id: str) -> str:
    return f"{shown_prefix(environment, key_id)}_{new_secret()}"


def shown_prefix(environment: str, key_id: str) -> str:
    """The part of a key that may be shown again."""
    return f"cxk_{environment}_{key_id.removeprefix('key_')}"


def key_id_of(token: str) -> str:
    """The id that a key claims. Raises AuthenticationError when it has not the form of one."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise AuthenticationError()
    return f"key_{match[1]}"


def keyed_hash(pepper: bytes, token: str) -> bytes:
    return hmac.digest(pepper, token.encode(), "sha256")


def read_pepper(root: Path) -> bytes:
    """`secrets/pepper`, made when there is none. Processes that start at once agree on one."""
    path = root / "secrets" / "pepper"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        write_private(path, secrets.token_bytes(HASH_BYTES), os.link)
    pepper = path.read_bytes()
    if len(pepper) < HASH_BYTES:
        raise InternalError(f"{path} is damaged: restore it, or remove it and issue new keys")
    return pepper


def write_private(path: Path, data: bytes, move: Callable[[Path, Path], None]) -> None:
    """Written whole under another name, for its owner alone, then moved there: nobody sees half a file.

    move: `os.link` keeps what another process has put there meanwhile, `os.replace` takes its place.
    """
    draft = path.with_name(f".{path.stem}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
        with suppress(FileExistsError):
            move(draft, path)
        _sync(path.parent)
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            draft.unlink()


def _sync(folder: Path) -> None:
    """A name in it is there after a crash only when the folder is written, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
