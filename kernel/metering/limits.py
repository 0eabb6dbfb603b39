"""The arithmetic of request limits: a bucket that drains with each request and refills evenly (GCRA).

Times are whole microseconds. A bucket is its debt, the time it needs to be full again: a request adds `emission` to
the debt and is admitted while the debt stays within `emission * burst`. `scripts/meter_settle.lua` does the same in
Redis, where the buckets are; the tests hold the two together.

A holder may have spare requests, granted ahead. They are reserved, which keeps them from others, and become debt
when the holder says that it has spent them, which is never before it did. So debt and reserve together bound what
was spent in every window of time, and what comes back unspent was never gone. A holder that says nothing until its
lease ends is taken to have spent all of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kernel.storage.meter import Settled

SECOND = 1_000_000
HOUR = 3600 * SECOND
HOLD = 25 * SECOND
"""How long spare requests are reserved for a holder that is silent."""
SMALLEST_SHARED = 64
"""A bucket that takes fewer at once has none to spare: the holder of one would keep it from another."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`emission`: µs after which one more request is allowed. `burst`: how many a full bucket has. `per_hour`: what
    the emission was made of."""

    emission: int
    burst: int
    per_hour: int = 0

    @classmethod
    def hourly(cls, requests: int, burst: int) -> "Limit":
        return cls(-(-HOUR // requests), burst, requests)

    @property
    def capacity(self) -> int:
        return self.emission * self.burst


@dataclass(frozen=True, slots=True)
class Lease:
    """Spare requests of one holder, reserved until then."""

    spare: int
    until: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """`debt` as of the moment `at`, of a limit with this `emission`; leases by holder."""

    debt: int
    at: int
    emission: int
    leases: Mapping[str, Lease] = field(default_factory=dict)

    @property
    def reserved(self) -> int:
        return sum(lease.spare for lease in self.leases.values())

    def seen(self, limit: Limit, now: int) -> "Bucket":
        """As it is now. A clock that was set back refills nothing; another limit finds as many requests used."""
        debt = max(0, self.debt - max(0, now - self.at))
        if self.emission != limit.emission:
            debt = -(-debt // self.emission) * limit.emission
        return replace(self, debt=min(debt, limit.capacity), at=now, emission=limit.emission)

    def without_the_silent(self, holder: str, now: int) -> "Bucket":
        """Others' leases that have ended count as spent."""
        ended = {name: one for name, one in self.leases.items() if one.until < now and name != holder}
        debt = self.debt + sum(lease.spare for lease in ended.values()) * self.emission
        kept = {name: one for name, one in self.leases.items() if name not in ended}
        return replace(self, debt=debt, leases=kept)

    def room(self, limit: Limit, part: float = 1) -> int:
        """How many requests it has, down to this part of its capacity."""
        return max(0, (int(limit.capacity * part) - self.debt) // self.emission - self.reserved)


def settle(
    limit: Limit, bucket: Bucket, holder: str, now: int, spent: int, kept: int, waiting: int, spare: int
) -> tuple[Bucket, Settled]:
    """A holder tells what it `spent` of its lease and what it would keep, and asks for those that wait and to spare.

    Spare ones come only from the upper three quarters of the bucket: the last are for those who wait.
    """
    bucket = bucket.seen(limit, now).without_the_silent(holder, now)
    held = bucket.leases[holder].spare if holder in bucket.leases else 0
    spent = min(spent, held)
    kept = min(kept, held - spent)
    bucket = _changed(bucket, holder, Lease(kept, now + HOLD), spent)
    granted = min(waiting, bucket.room(limit))
    bucket = _changed(bucket, holder, Lease(kept, now + HOLD), granted)
    extra = min(spare, bucket.room(limit, 0.75)) if limit.burst >= SMALLEST_SHARED else 0
    bucket = _changed(bucket, holder, Lease(kept + extra, now + HOLD), 0)
    owed = bucket.debt + bucket.reserved * limit.emission
    remaining = bucket.room(limit)
    wait = 0 if remaining else owed + limit.emission - limit.capacity
    return bucket, Settled(granted, extra, remaining, wait, owed, kept)


def _changed(bucket: Bucket, holder: str, lease: Lease, spent: int) -> Bucket:
    others = {name: one for name, one in bucket.leases.items() if name != holder}
    mine = {holder: lease} if lease.spare else {}
    return replace(bucket, debt=bucket.debt + spent * bucket.emission, leases=others | mine)
