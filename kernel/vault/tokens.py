"""Vault tokens: what a caller needs, beside the scope, to read a value in the clear. They live an hour at most.

`cxv_<id>_<secret>`: known by a keyed hash alone, under the same pepper as API keys and for a purpose of its own.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from kernel.access.act import Act
from kernel.access.secret import keyed_hash, new_secret
from kernel.clock import Clock, rfc3339
from kernel.errors import AuthenticationError, AuthorizationError, NotFound, RateLimitError, ValidationError
from kernel.ids import new_id
from kernel.storage.vault import Attempt, NewToken, Refusal, VaultStore
from kernel.vault.record import TokenCreate
from kernel.vault.trail import VaultTrail

HEADER = "X-Vault-Token"
REFUSED = {
    "expired": "The vault token has expired",
    "used_up": "The vault token has been used as often as it may be",
    "credential": "The vault token does not open this credential",
    "key": "The vault token is bound to another API key",
}
"""What whoever holds a real token is told."""
_TOKEN = re.compile(r"cxv_([0-9A-HJKMNP-TV-Z]{26})_[0-9A-Za-z]{43}")


class VaultTokens:
    def __init__(self, store: VaultStore, trail: VaultTrail, clock: Clock, pepper: bytes):
        self._store, self._trail, self._clock, self._pepper = store, trail, clock, pepper

    async def mint(self, act: Act, order: TokenCreate) -> dict[str, Any]:
        """As the API answers it, with the token. Raises AuthorizationError for a limited key, ValidationError for what
        it names and is not there."""
        await self._trail.allow(act, "vault_token.create", "")
        if order.all == (order.credential_ids is not None):
            raise ValidationError.at("credential_ids", "Name credentials, or say all: true; one of the two")
        now = self._clock.now_ms()
        token, token_id = new_token()
        audit = self._trail.entry(act, "vault_token.create", shown_id(token_id), order.model_dump())
        new = NewToken(
            id=token_id,
            hash=self._hash(token),
            until=now + order.ttl_s * 1000,
            uses=order.max_uses,
            key=order.key_id,
            credentials=order.credential_ids,
        )
        state = await self._store.mint(act.who.workspace_id, new, now, act.before, audit, act.record)
        if state == "key":
            raise ValidationError.at("key_id", "There is no such API key")
        if isinstance(state, int):
            raise ValidationError.at(f"credential_ids[{state - 1}]", "There is no such credential")
        facts = {"id": shown_id(token_id), "token": token, "expires_at": rfc3339(new.until)}
        return facts | order.model_dump(exclude={"ttl_s"})

    async def attempt(self, act: Act, credential_id: str, given: Sequence[str]) -> Attempt:
        """A try to read a value with the headers that were sent. Raises AuthenticationError, and records it, when
        there is none."""
        action = "credential.read"
        if not any(given):
            await self._trail.note(act, action, credential_id, {"reason": "no_token"})
            raise AuthenticationError(f"Reading a value takes the header {HEADER}", {"header": HEADER})
        text = "\n".join(given)
        match = _TOKEN.fullmatch(text)
        details = {"token": shown_id(match[1])} if match else {}
        refused = details | {"reason": "?"}
        return Attempt(
            key=act.who.key_id,
            token=match[1] if match else None,
            hash=self._hash(text),
            allowed=self._trail.entry(act, action, credential_id, details),
            refused=self._trail.entry(act, action, credential_id, refused, "refused"),
        )

    def _hash(self, token: str) -> bytes:
        return keyed_hash(self._pepper, f"vault token\0{token}")


def new_token() -> tuple[str, str]:
    """The token, and the id by which it is found."""
    token_id = new_id("req").partition("_")[2]
    return f"{shown_id(token_id)}_{new_secret()}", token_id


def shown_id(token_id: str) -> str:
    """The part of a token that may be shown again."""
    return f"cxv_{token_id}"


def refuse(refusal: Refusal) -> NoReturn:
    """Raises what a caller is told."""
    if refusal.reason == "missing":
        raise NotFound("Credential not found")
    if refusal.reason == "locked":
        message = "Too many wrong vault tokens: this key is locked out of the vault"
        raise RateLimitError(message, {"limit": "vault"}, refusal.left_ms / 1000)
    if refusal.reason in REFUSED:
        raise AuthorizationError(REFUSED[refusal.reason], {"reason": refusal.reason})
    raise AuthorizationError("The vault token is wrong")
