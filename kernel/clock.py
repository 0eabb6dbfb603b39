"""The one way to get time. Tests pass a `ManualClock`."""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now_ms: int = 1_800_000_000_000):
        self._now = now_ms

    def now_ms(self) -> int:
        return self._now

    def advance(self, ms: int) -> None:
        self._now += ms


def rfc3339(epoch_ms: int) -> str:
    """`2024-01-15T10:00:00.000Z`."""
    seconds, ms = divmod(epoch_ms, 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


def rfc3339_or_none(epoch_ms: int | None) -> str | None:
    """Of a moment that may not have come."""
    return None if epoch_ms is None else rfc3339(epoch_ms)


@lru_cache(maxsize=256)
def _to_the_second(epoch_s: int) -> str:
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%dT%H:%M:%S}"


def epoch_ms(text: str) -> int:
    """Milliseconds of an RFC 3339 time with its zone. Raises ValueError with words for the caller."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("must be a time such as 2024-01-15T10:00:00Z")
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("is not a time that exists") from None
