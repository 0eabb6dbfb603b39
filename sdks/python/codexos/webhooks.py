"""Verifies what a webhook received: `event = verify(request.body, request.headers, secret)`.

Deliveries are signed as Standard Webhooks has it. One may come twice: `webhook-id` is the same then.
"""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from codexos.errors import WebhookVerificationError


def verify(
    payload: bytes | str, headers: Mapping[str, str], secret: str, tolerance_s: float = 300
) -> dict[str, Any]:
    """The event: `event`, `timestamp` and `data`. Raises WebhookVerificationError: answer 400 then, and do nothing.

    payload: the body as it came, not parsed. secret: the webhook's. tolerance_s: how far `webhook-timestamp` may be
    from now.
    """
    body = payload.encode() if isinstance(payload, str) else payload
    sent = {name.lower(): value for name, value in headers.items()}
    event_id, stamp, signatures = (
        sent.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    _check_age(stamp, tolerance_s)
    signed = b"%s.%s.%s" % (event_id.encode(errors="replace"), stamp.encode(), body)
    mac = base64.b64encode(hmac.digest(_key(secret), signed, "sha256"))
    known = signatures.encode(errors="replace").split(b" ")
    if not any(hmac.compare_digest(b"v1," + mac, one) for one in known):
        raise WebhookVerificationError("No signature matches: it was changed, or the secret is another")
    event: dict[str, Any] = json.loads(body)
    return event


def _check_age(stamp: str, tolerance_s: float) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        raise WebhookVerificationError("The header webhook-timestamp is missing or no number")
    if abs(time.time() - int(stamp)) > tolerance_s:
        raise WebhookVerificationError("It was signed too long ago, or a clock is wrong")


def _key(secret: str) -> bytes:
    """Of `whsec_<base64>` what is encoded, of other text its UTF-8 bytes."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
