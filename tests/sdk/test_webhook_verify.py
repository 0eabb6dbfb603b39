"""What the SDK accepts is what the platform signs and what the kept library accepts, and nothing else."""

import base64
import time
from datetime import UTC, datetime

import pytest
import standardwebhooks

from codexos.webhooks import WebhookVerificationError, verify
from kernel.webhooks.record import new_secret, secret_bytes
from kernel.webhooks.signing import signature

BODY = '{"event":"agent.created","timestamp":"2024-01-15T10:00:00.000Z","data":{"name":"Grüße"}}'.encode()
EVENT = {
    "event": "agent.created",
    "timestamp": "2024-01-15T10:00:00.000Z",
    "data": {"name": "Grüße"},
}
SECRETS = ("your-webhook-secret", "Schlüssel", "whsec_aGVsbG8=", "whsec_aGVsbG8", new_secret())


def headers(*secrets: str, age_s: int = 0, body: bytes = BODY) -> dict[str, str]:
    """As the platform sends them."""
    at = int(time.time()) - age_s
    return {
        "Webhook-Id": "evt_1",
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": signature(secrets, "evt_1", at, body),
    }


@pytest.mark.parametrize("secret", SECRETS)
def test_what_the_platform_signed(secret: str) -> None:
    sent = headers(secret)
    assert verify(BODY, sent, secret) == EVENT
    assert verify(BODY.decode(), sent, secret) == EVENT
    assert standardwebhooks.Webhook(secret_bytes(secret)).verify(BODY, sent) == EVENT


@pytest.mark.parametrize("secret", SECRETS)
def test_what_the_library_signed(secret: str) -> None:
    now = datetime.now(UTC)
    signed = standardwebhooks.Webhook(secret_bytes(secret)).sign("evt_1", now, BODY.decode())
    sent = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signed,
    }
    assert verify(BODY, sent, secret) == EVENT


def test_any_of_several_signatures() -> None:
    sent = headers("new", "old")
    assert verify(BODY, sent, "old") == verify(BODY, sent, "new") == EVENT
    sent["Webhook-Signature"] = "v1a,c2ln junk v2,x " + sent["Webhook-Signature"]
    assert verify(BODY, sent, "old") == EVENT


@pytest.mark.parametrize("age_s", [301, -302, 10**9])
def test_another_time_is_refused(age_s: int) -> None:
    sent = headers("s", age_s=age_s)
    with pytest.raises(WebhookVerificationError, match="too long ago"):
        verify(BODY, sent, "s")
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(b"s").verify(BODY, sent)


def test_the_tolerance_is_the_callers() -> None:
    assert verify(BODY, headers("s", age_s=3_000), "s", tolerance_s=3_600) == EVENT
    with pytest.raises(WebhookVerificationError):
        verify(BODY, headers("s", age_s=12), "s", tolerance_s=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Webhook-Id", "evt_2"),
        ("Webhook-Id", ""),
        ("Webhook-Signature", ""),
        ("Webhook-Signature", "v1,"),
        ("Webhook-Signature", "v1,ä"),
        ("Webhook-Signature", "v1,\udc80"),
        ("Webhook-Id", "\udc80"),
        ("Webhook-Signature", "v1," + base64.b64encode(b"0" * 32).decode()),
    ],
)
def test_a_changed_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(WebhookVerificationError, match="No signature"):
        verify(BODY, headers("s") | {name: value}, "s")


def test_another_moment_is_refused() -> None:
    changed = {"Webhook-Timestamp": str(int(time.time()) - 60)}
    with pytest.raises(WebhookVerificationError, match="No signature"):
        verify(BODY, headers("s") | changed, "s")


@pytest.mark.parametrize("stamp", ["", "-1", "1e9", "١٢٣", "9" * 400, "12 "])
def test_a_time_that_is_none_is_refused(stamp: str) -> None:
    with pytest.raises(WebhookVerificationError, match="no number"):
        verify(BODY, headers("s") | {"Webhook-Timestamp": stamp}, "s")


@pytest.mark.parametrize("body", [b"", BODY + b" ", BODY.replace(b"created", b"deleted"), b"\xff"])
def test_a_changed_body_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookVerificationError, match="No signature"):
        verify(body, headers("s"), "s")


def test_another_secret_is_refused() -> None:
    for secret in ("S", "s ", new_secret()):
        with pytest.raises(WebhookVerificationError):
            verify(BODY, headers("s"), secret)


def test_the_version_is_part_of_a_signature() -> None:
    sent = headers("s")
    sent["Webhook-Signature"] = sent["Webhook-Signature"].replace("v1,", "v2,")
    with pytest.raises(WebhookVerificationError):
        verify(BODY, sent, "s")
