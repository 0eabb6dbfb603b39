"""The arithmetic of request limits: a bucket that drains with each request and refills evenly (GCRA).

Times are whole microseconds. A bucket is its debt: the time it needs to be full again. A request adds `emission`
to the debt and is admitted while the debt stays within `emission * burst`. `scripts/meter_settle.lua` does the
same in Redis, where the buckets are; the tests hold the two together.

A lease holds spare requests: counted as spent when they are granted, spent for up to `hold` after. To keep the
limit in every window of time, and not only in sum, the debt is raised to `hold` before spare ones are granted:
the bucket then is as if they were taken at the last moment they can be spent, and what comes back until then can
be taken off the debt again.
"""

from dataclasses import dataclass, replace

SECOND = 1_000_000
HOUR = 3600 * SECOND
LONGEST_HOLD = SECOND // 4
SMALLEST_SHARED = 64
"""A bucket that takes fewer at once has none to spare: the holder of one would keep it from another."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`emission`: µs after which one more request is allowed. `burst`: how many a full bucket has."""

    emission: int
    burst: int

    @classmethod
    def hourly(cls, requests: int, burst: int) -> "Limit":
        return cls(-(-HOUR // requests), burst)

    @property
    def capacity(self) -> int:
        return self.emission * self.burst

    @property
    def hold(self) -> int:
        """µs that spare requests may be kept; 0 where there are none to spare."""
        return min(LONGEST_HOLD, self.capacity // 8) if self.burst >= SMALLEST_SHARED else 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """`debt` as of the moment `at`, of a limit with this `emission`."""

    debt: int
    at: int
    emission: int

    def seen(self, limit: Limit, now: int) -> "Bucket":
        """As it is now. A clock that was set back refills nothing; another limit finds as many requests used."""
        debt = max(0, self.debt - max(0, now - self.at))
        if self.emission != limit.emission:
            debt = -(-debt // self.emission) * limit.emission
        return Bucket(min(debt, limit.capacity), now, limit.emission)

    def room(self, limit: Limit) -> int:
        """How many requests it has."""
        return (limit.capacity - self.debt) // self.emission


@dataclass(frozen=True, slots=True)
class Lease:
    """What a holder has: up to `spare` requests granted ahead, which may be spent, or come back, until `until`."""

    spare: int = 0
    at: int = 0
    until: int = 0

    def counts(self, now: int) -> bool:
        return self.at <= now <= self.until


@dataclass(frozen=True, slots=True)
class Grant:
    """`granted` of those that wait; `spare` new and `kept` old ones to hold; `remaining` in the bucket; µs to the
    next one, and until the bucket is full."""

    granted: int
    spare: int
    remaining: int
    wait: int
    full: int
    kept: int


def settle(
    limit: Limit, bucket: Bucket, lease: Lease, now: int, back: int, kept: int, waiting: int, spare: int
) -> tuple[Bucket, Lease, Grant]:
    """A holder gives `back` some of its lease, keeps others for longer, and asks for those that wait and to spare.

    Spare ones come only from the upper three quarters of the bucket: the last are for those who wait.
    """
    bucket = bucket.seen(limit, now)
    held = lease.spare if lease.counts(now) else 0
    back = min(back, held)
    kept = min(kept, held - back)
    debt = max(0, bucket.debt - back * limit.emission)
    granted = min(waiting, (limit.capacity - debt) // limit.emission)
    debt += granted * limit.emission
    extra, debt = _spare(limit, debt, kept, spare)
    after = replace(bucket, debt=debt)
    remaining = after.room(limit)
    wait = 0 if remaining else debt + limit.emission - limit.capacity
    return (
        after,
        Lease(kept + extra, now, now + limit.hold),
        Grant(granted, extra, remaining, wait, debt, kept),
    )


def _spare(limit: Limit, debt: int, kept: int, wanted: int) -> tuple[int, int]:
    """How many more may be held, and the debt after."""
    if limit.hold == 0 or kept + wanted == 0:
        return 0, debt
    raised = max(debt, limit.hold + kept * limit.emission)
    extra = max(0, min(wanted, (limit.capacity * 3 // 4 - raised) // limit.emission))
    if kept + extra == 0:
        return 0, debt
    return extra, raised + extra * limit.emission
