"""What can go wrong between us and a provider, named once, so that retries and the breaker agree on it."""

import re
from enum import StrEnum

from kernel.errors import ProviderError

MAX_MESSAGE = 300

_KEY = re.compile(r"(?i)\b(?:bearer\s+\S+|(?:sk|pk|rk|gsk|xai|key|aiza|hf)[-_][-\w*.…]{4,})")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class Kind(StrEnum):
    REFUSED = "refused"  # the provider understood and said no: the same request will fail again
    LIMITED = "limited"  # 429: not now
    FAULT = "fault"  # no connection, 5xx, or an answer that broke off
    TIMEOUT = "timeout"  # connected, then silence
    MALFORMED = "malformed"  # an answer that is none
    OPEN = "open"  # not asked at all: too many faults a moment ago


RETRYABLE = frozenset({Kind.LIMITED, Kind.FAULT, Kind.TIMEOUT, Kind.OPEN})
UNBILLED = frozenset({Kind.REFUSED, Kind.LIMITED, Kind.FAULT, Kind.OPEN})
"""Before the first word of an answer, these mean that the model did not begin."""


def failure(kind: Kind, provider: str, message: str, retry_after: float | None = None) -> ProviderError:
    """`details{provider, kind}`; `retry_after` in seconds."""
    return ProviderError(message, {"provider": provider, "kind": kind.value}, retry_after, kind in RETRYABLE)


def presentable(text: str, secret: str | None) -> str:
    """A provider's own words, safe to show: one short line without keys, whole or half masked."""
    if secret:
        text = text.replace(secret, "[redacted]")
    line = _UNPRINTABLE.sub(" ", _KEY.sub("[redacted]", text)).strip()
    return line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + "…"
