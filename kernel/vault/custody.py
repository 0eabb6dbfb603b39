"""Who keeps the key-encryption keys (KEKs): a file of the installation, its environment, or a KMS.

The file is `secrets/kek.json`, made with a first key when there is none and nothing is sealed yet. It is all that
stands between a copy of the store and the secrets in it: back it up apart from the store. Without it no secret opens
any more, and nobody can help. Who changes it holds `secrets/kek.lock`.
"""

import base64
import binascii
import fcntl
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson

from configs.settings import Vault as Settings
from kernel.access.secret import write_private
from kernel.errors import InternalError
from kernel.sealing import KEY_BYTES, Custody, Damaged, Wrapped, decrypt, encrypt
from kernel.vault.transit import TransitKeys


def custody(settings: Settings, root: Path) -> Custody:
    """As the settings have it. Raises InternalError for a key that is none."""
    if settings.kms_url:
        return TransitKeys(settings.kms_url, settings.kms_key, Path(settings.kms_token_file))
    return GivenKeys(settings.kek) if settings.kek else FileKeys(root / "secrets" / "kek.json")


async def prepare(custody: Custody, sealed: Callable[[], Awaitable[int]]) -> None:
    """Makes the first key of an installation that has a file for it and nothing sealed yet. sealed: tells how much is.

    Raises InternalError when something is, and no file: a new key would open none of it.
    """
    if not isinstance(custody, FileKeys) or custody.path.exists():
        return
    count = await sealed()
    if count and not custody.path.exists():
        raise InternalError(
            f"{custody.path} is missing, and {count} values are sealed: restore it from its backup"
        )
    custody.make()


@dataclass(frozen=True, slots=True)
class Ring:
    """KEKs by id, and the one that wraps new data keys."""

    current: str
    keys: Mapping[str, bytes]

    def encode(self) -> bytes:
        keys = {name: base64.b64encode(key).decode() for name, key in self.keys.items()}
        return orjson.dumps({"current": self.current, "keys": keys}, option=orjson.OPT_INDENT_2)

    def with_new(self) -> "Ring":
        made = Ring.made()
        return Ring(made.current, {**self.keys, **made.keys})

    def without(self, names: set[str]) -> "Ring":
        return Ring(self.current, {name: key for name, key in self.keys.items() if name not in names})

    @classmethod
    def made(cls) -> "Ring":
        key = secrets.token_bytes(KEY_BYTES)
        return cls(_name(key), {_name(key): key})

    @classmethod
    def read(cls, path: Path) -> "Ring":
        """Raises InternalError."""
        try:
            stored = orjson.loads(path.read_bytes())
            ring = cls(stored["current"], {name: _key(text) for name, text in stored["keys"].items()})
            ring.keys[ring.current]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InternalError(f"{path} is missing or damaged: restore it from its backup") from None
        return ring


class _Held(ABC):
    """A custody that has the keys itself."""

    @abstractmethod
    def ring(self, wanted: str | None = None) -> Ring: ...

    async def current(self) -> str:
        return self.ring().current

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped:
        ring = self.ring()
        return Wrapped(ring.current, encrypt(ring.keys[ring.current], data_key, bound))

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes:
        key = self.ring(wrapped.kek).keys.get(wrapped.kek)
        if key is None:
            raise Damaged
        return decrypt(key, wrapped.key, bound)


class GivenKeys(_Held):
    """Of the environment: keys in base64 between commas, the current one first."""

    def __init__(self, text: str):
        try:
            keys = [_key(part.strip()) for part in text.split(",")]
        except ValueError:
            raise InternalError(f"CODEXOS_VAULT__KEK must be {KEY_BYTES} bytes in base64") from None
        self._ring = Ring(_name(keys[0]), {_name(key): key for key in keys})

    def ring(self, wanted: str | None = None) -> Ring:
        return self._ring


class FileKeys(_Held):
    """Reads the file again when it has changed, so that a rotation reaches every process."""

    def __init__(self, path: Path):
        self.path = path
        self._read: tuple[tuple[int, ...], Ring] | None = None

    def make(self) -> "FileKeys":
        """With a first key, unless there is a file."""
        if not self.path.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.path, Ring.made().encode(), os.link)
        return self

    def ring(self, wanted: str | None = None) -> Ring:
        """wanted: the id of a key that must be in it, if there is one. Raises InternalError for a damaged file."""
        mark = self._mark()
        known = self._read
        if known is None or known[0] != mark or not (wanted is None or wanted in known[1].keys):
            known = self._read = mark, Ring.read(self.path)
        return known[1]

    def _mark(self) -> tuple[int, ...]:
        """Changes with the file."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def change(self, how: Callable[[Ring], Ring]) -> Ring:
        """What it has now, whole or not at all; others who change it wait. Raises InternalError for a damaged file."""
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ring = how(Ring.read(self.path))
            write_private(self.path, ring.encode(), os.replace)
        return ring


def _key(text: str) -> bytes:
    """Raises ValueError."""
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("is no base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"must have {KEY_BYTES} bytes")
    return key


def _name(key: bytes) -> str:
    """Tells keys apart and nothing about them."""
    return f"kek_{sha256(b'codexos kek ' + key).hexdigest()[:12]}"
