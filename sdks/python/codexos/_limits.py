"""Where the caller stands with the limits of the plan, as every answer tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class RateLimits:
    """limit: requests that may come at once, remaining: of those, reset_at: when all are there again.

    The numbers are None where the plan has no limit.
    """

    plan: str
    limit: int | None = None
    remaining: int | None = None
    reset_at: datetime | None = None


def limits_of(headers: Mapping[str, str]) -> RateLimits | None:
    """None when the answer tells nothing, as one to an unknown key."""
    if (plan := headers.get("x-ratelimit-plan")) is None:
        return None
    limit, remaining, reset = (
        int(text) if (text := headers.get(f"x-ratelimit-{name}")) else None
        for name in ("limit", "remaining", "reset")
    )
    return RateLimits(plan, limit, remaining, None if reset is None else datetime.fromtimestamp(reset, UTC))
