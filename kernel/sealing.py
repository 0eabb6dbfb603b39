"""Envelope encryption: each value under a data key of its own, each data key wrapped by a key-encryption key (KEK).

AES-256-GCM both times. What a value is bound to (its workspace, its id, its version) is authenticated with it, so a
sealed value that is moved elsewhere does not open. Who keeps the KEK is a seam, `Custody`: a file beside the data, the
environment, or a KMS.

Data keys live in a `bytearray` that is wiped after use. Python may have made copies on the way (`bytes` of the cipher,
of the plain value itself) that only the garbage collector frees: memory of a live process is not protected.
"""

import base64
import secrets
from dataclasses import dataclass
from typing import Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kernel.errors import InternalError

KEY_BYTES = 32
NONCE_BYTES = 12


class Damaged(InternalError):
    """A sealed value that does not open: cut, changed, or moved from where it was sealed. Says no more than that."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A data key under the KEK `kek` (its id)."""

    kek: str
    key: bytes


class Custody(Protocol):
    """Who keeps the KEK. Raises Unavailable when it cannot be asked, Damaged for what it did not wrap."""

    async def current(self) -> str:
        """The id of the KEK that new data keys are wrapped with."""
        ...

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped: ...

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """body: nonce and ciphertext."""

    wrapped: Wrapped
    body: bytes

    def encode(self) -> bytes:
        parts = {"kek": self.wrapped.kek, "key": _text(self.wrapped.key), "body": _text(self.body)}
        return orjson.dumps(parts)

    @classmethod
    def decode(cls, stored: bytes) -> "Sealed":
        """Raises Damaged."""
        try:
            parts = orjson.loads(stored)
            key, body = (base64.b64decode(parts[name], validate=True) for name in ("key", "body"))
            return cls(Wrapped(str(parts["kek"]), key), body)
        except (ValueError, KeyError, TypeError):
            raise Damaged from None


class Envelope:
    def __init__(self, custody: Custody):
        self.custody = custody

    async def seal(self, plain: bytes, *bound: str) -> bytes:
        """bound: what the value belongs to; it opens only with the same. Raises Unavailable."""
        data_key = bytearray(secrets.token_bytes(KEY_BYTES))
        try:
            body = encrypt(data_key, plain, bind(bound))
            return Sealed(await self.custody.wrap(bytes(data_key), bind(bound)), body).encode()
        finally:
            wipe(data_key)

    async def open(self, stored: bytes, *bound: str) -> bytes:
        """Raises Damaged, Unavailable."""
        sealed = Sealed.decode(stored)
        data_key = bytearray(await self.custody.unwrap(sealed.wrapped, bind(bound)))
        try:
            return decrypt(data_key, sealed.body, bind(bound))
        finally:
            wipe(data_key)

    async def rewrap(self, stored: bytes, *bound: str) -> bytes | None:
        """The same value with its data key under the current KEK; None when it is there already."""
        sealed = Sealed.decode(stored)
        if sealed.wrapped.kek == await self.custody.current():
            return None
        data_key = bytearray(await self.custody.unwrap(sealed.wrapped, bind(bound)))
        try:
            return Sealed(await self.custody.wrap(bytes(data_key), bind(bound)), sealed.body).encode()
        finally:
            wipe(data_key)


def bind(parts: tuple[str, ...]) -> bytes:
    """Each part with its length, so that no two lists of parts read alike."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def encrypt(key: bytes | bytearray, plain: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(bytes(key)).encrypt(nonce, plain, bound)


def decrypt(key: bytes | bytearray, body: bytes, bound: bytes) -> bytes:
    """Raises Damaged."""
    try:
        return AESGCM(bytes(key)).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise Damaged from None


def wipe(key: bytearray) -> None:
    for at in range(len(key)):
        key[at] = 0


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
