"""How an answer tells the caller where they stand: `X-RateLimit-*` and the IETF draft's `RateLimit` fields.

The limit that is told is the burst: how many may come at once. `Reset` is when all of it is there again.
"""

import math
from functools import lru_cache

from kernel.clock import Clock
from kernel.errors import RateLimitError
from kernel.metering.admission import Standing
from kernel.metering.limits import SECOND, Limit

Headers = list[tuple[bytes, bytes]]


def headers(plan: str, standing: Standing, clock: Clock) -> Headers:
    """Without numbers where there is no limit."""
    told = [plan_header(plan)]
    if standing.limit is None:
        return told
    left, full = b"%d" % standing.remaining, math.ceil(standing.full_s)
    policy, most = _policy(standing.limit)
    return [
        *told,
        (b"x-ratelimit-limit", most),
        (b"x-ratelimit-remaining", left),
        (b"x-ratelimit-reset", b"%d" % (clock.now_ms() // 1000 + full)),
        (b"ratelimit-policy", policy),
        (b"ratelimit", b'"burst";r=%b;t=%d' % (left, full)),
    ]


def plan_header(plan: str) -> tuple[bytes, bytes]:
    return b"x-ratelimit-plan", plan.encode()


@lru_cache(maxsize=1000)
def _policy(limit: Limit) -> tuple[bytes, bytes]:
    burst, whole = limit.burst, math.ceil(limit.capacity / SECOND)
    return b'"burst";q=%d;w=%d, "hour";q=%d;w=3600' % (burst, whole, limit.per_hour), b"%d" % burst


def refusal(standing: Standing) -> RateLimitError:
    wait = max(standing.wait_s, 0.001)
    return RateLimitError(
        f"Too many requests: the next is admitted in {math.ceil(wait)} s",
        {"limit": "requests", "retry_after_ms": math.ceil(wait * 1000)},
        wait,
    )
