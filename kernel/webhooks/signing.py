"""Signatures as Standard Webhooks has them, so that receivers verify deliveries with existing libraries.

What is signed is `<webhook-id>.<webhook-timestamp>.<body>`, by HMAC-SHA256, once for each secret that is valid.
"""

import base64
import hmac
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernel.clock import Clock
from kernel.sealing import Envelope
from kernel.storage.outbox import Flight
from kernel.webhooks.record import Secret, secret_bytes, valid_secrets

KEPT_MS = 30_000
"""How long opened secrets stay in memory."""


def signature(secrets: Iterable[str], event_id: str, at_s: int, body: bytes) -> str:
    """The header `webhook-signature`. at_s: seconds since 1970, as `webhook-timestamp` says them."""
    signed = b"%s.%d.%s" % (event_id.encode(), at_s, body)
    return " ".join(f"v1,{_mac(secret_bytes(secret), signed)}" for secret in secrets)


def _mac(key: bytes, text: bytes) -> str:
    return base64.b64encode(hmac.digest(key, text, "sha256")).decode()


@dataclass(frozen=True, slots=True)
class Opened:
    plain: bytes
    until: int


class Signer:
    """Opens the secrets of endpoints, and keeps them for a moment under what they are sealed as."""

    def __init__(self, envelope: Envelope, clock: Clock):
        self._envelope, self._clock = envelope, clock
        self._opened: OrderedDict[tuple[str, str, bytes], Opened] = OrderedDict()

    async def headers(self, flight: Flight) -> dict[str, str]:
        """For an attempt that begins now. Raises Damaged, Unavailable when the secrets do not open."""
        secrets, at_s = await self._secrets(flight), self._clock.now_ms() // 1000
        texts = (secret.text for secret in secrets)
        return {
            "webhook-id": flight.event_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": signature(texts, flight.event_id, at_s, flight.body),
        }

    async def _secrets(self, flight: Flight) -> Sequence[Secret]:
        self.forget()
        now, name = self._clock.now_ms(), (flight.workspace_id, flight.webhook_id, flight.sealed)
        if (known := self._opened.get(name)) is None:
            plain = await self._envelope.open(flight.sealed, flight.workspace_id, flight.webhook_id, "secret")
            known = self._opened[name] = Opened(plain, now + KEPT_MS)
        return valid_secrets(known.plain, now)

    def forget(self) -> None:
        """Drops what has been kept long enough; to be called also when nothing is signed."""
        now = self._clock.now_ms()
        while self._opened and next(iter(self._opened.values())).until <= now:
            self._opened.popitem(last=False)
