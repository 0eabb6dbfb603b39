"""Repeated requests: the first answer to an `Idempotency-Key`, kept for 24 h in its workspace.

Stored: `idempotency` (hash): fingerprint, state (pending | done), owner, until (ms; a pending mark older than
this may be taken over), resource (what the work created, written by the creating script itself, or just before
it where that works in another shard), and the answer: status, headers, body, sealed. An answer that carries a
secret is sealed under the caller's own key, which the store does not hold. The fingerprint is keyed: a secret that
a body carried cannot be guessed from it.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from kernel.clock import Clock
from kernel.errors import Conflict
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.store import Store

KEEP_MS = 86_400_000
GRACE_MS = 10_000
"""A request that is silent this long after its own time limit is taken for lost."""


@dataclass(frozen=True, slots=True)
class IdempotencyRef:
    """A claim on one key. What is created writes its id as `resource` into the hash `key`.

    `resource` is set when an earlier try created something, or was about to, and was lost before its answer.
    """

    key: str
    workspace_id: str
    owner: str
    resource: str | None = None

    @property
    def record(self) -> str:
        """What creating scripts are given: they create nothing once the key has passed to a later try."""
        return f"{self.key} {self.owner}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it was first given."""

    status: int
    headers: dict[str, str]
    body: bytes


def superseded() -> Conflict:
    """For a request that was taken for lost: a later one with its key does the work now."""
    return Conflict(
        "A later request with this Idempotency-Key has taken over",
        {"reason": "idempotency_superseded"},
        1.0,
        True,
    )


async def note_resource(store: Store, record: str, resource: str) -> None:
    """What is about to be made, before it is: its claim may lie in another shard, out of a script's reach.

    Does nothing without a `record`. Raises Conflict when the claim has passed to a later request.
    """
    if record:
        key, _, owner = record.partition(" ")
        if await store.call("HGET", key, "owner") != owner.encode():
            raise superseded()
        await store.call("HSET", key, "resource", resource)


class Idempotency:
    def __init__(self, store: Store, clock: Clock, pepper: bytes):
        self._store, self._clock, self._pepper = store, clock, pepper

    def fingerprint(self, *parts: bytes) -> str:
        """Of a request. Two with the same one ask for the same thing."""
        lengths = b"".join(len(part).to_bytes(8, "big") for part in parts)
        return hmac.digest(self._pepper, b"".join((b"idempotency\0", lengths, *parts)), "sha256").hex()

    async def begin(
        self, workspace_id: str, key: str, fingerprint: str, takes_ms: int, secret: str
    ) -> IdempotencyRef | Answer:
        """The claim to do the work, or the answer that was given before.

        Raises Conflict when the key was used for another request, or when the first is still in progress
        (`retryable`). `takes_ms` is how long the work may take; `secret` opens a sealed answer.
        """
        name = keys.key("idempotency", workspace_id, id=sha256(key.encode()).hexdigest())
        owner, now = new_id("req"), self._clock.now_ms()
        found = await self._store.run(
            "idempotency_begin",
            workspace_id,
            name,
            fingerprint,
            owner,
            now,
            now + takes_ms + GRACE_MS,
            KEEP_MS,
        )
        match found[0]:
            case b"mine":
                resource = found[1].decode() or None
                return IdempotencyRef(name, workspace_id, owner, resource)
            case b"done":
                return _opened(found[1:], secret)
            case b"pending":
                raise Conflict(
                    "A request with this Idempotency-Key is still in progress",
                    {"reason": "idempotency_in_progress"},
                    1.0,
                    True,
                )
        raise Conflict(
            "This Idempotency-Key was used for another request", {"reason": "idempotency_mismatch"}
        )

    async def finish(self, ref: IdempotencyRef, answer: Answer, secret: str | None = None) -> None:
        """Keeps the answer; under `secret` when one is given."""
        body = answer.body if secret is None else _seal(answer.body, secret)
        headers, sealed = orjson.dumps(answer.headers), int(secret is not None)
        await self._end(ref, answer.status, headers, body, sealed)

    async def abandon(self, ref: IdempotencyRef) -> None:
        """Gives the claim up: nothing was done, or what was created is left for the next try to find."""
        await self._end(ref, "", "", "", 0)

    async def _end(self, ref: IdempotencyRef, *answer: str | int | bytes) -> None:
        await self._store.run("idempotency_end", ref.workspace_id, ref.key, ref.owner, KEEP_MS, *answer)


def _opened(fields: list[Any], secret: str) -> Answer:
    status, headers, body, sealed = fields
    if sealed == b"1":
        body = _unseal(body, secret)
    return Answer(int(status), orjson.loads(headers), body)


def _cipher(secret: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(sha256(b"idempotency\0" + secret.encode()).digest())


def _seal(body: bytes, secret: str) -> bytes:
    from os import urandom

    nonce = urandom(12)
    return nonce + bytes(_cipher(secret).encrypt(nonce, body, None))


def _unseal(body: bytes, secret: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(_cipher(secret).decrypt(body[:12], body[12:], None))
    except InvalidTag:
        raise Conflict(
            "This Idempotency-Key was used with another API key", {"reason": "idempotency_mismatch"}
        ) from None
