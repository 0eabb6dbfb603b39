"""The period that usage is asked about, and the parts it is shown in.

All is UTC. A period is half-open, and usage is counted by the hour: an hour belongs to the period that it begins in.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

from kernel.clock import epoch_ms
from kernel.errors import ValidationError
from kernel.storage.counts import HOUR_MS

Granularity = Literal["hour", "day", "week", "month"]

DAY_MS = 24 * HOUR_MS
USUAL_MS = 30 * DAY_MS
LONGEST_DAYS = 366
YEARS = "must be from 1970 to 9999"
END_OF_TIME = 253_402_300_800_000
"""The first ms of the year 10000."""
STEPS = {"hour": (HOUR_MS, 0), "day": (DAY_MS, 0), "week": (7 * DAY_MS, 4 * DAY_MS)}
"""Length of a part and where one begins, in ms: 1970-01-05 was a Monday."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def moment(text: object) -> int:
    """ms of a date, which is its midnight, or of a time with its zone. Raises ValueError with words for the caller."""
    if not isinstance(text, str):
        raise ValueError("must be text")
    ms = epoch_ms(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    if not 0 <= ms < END_OF_TIME:
        raise ValueError(YEARS)
    return ms


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` up to, but not with, `end`, both in ms."""

    start: int
    end: int
    granularity: Granularity = "day"

    @classmethod
    def of(cls, start: int | None, end: int | None, granularity: Granularity, now_ms: int) -> "Period":
        """The last 30 days up to `end`, which is now, where not told otherwise.

        Raises ValidationError for one that ends before it starts, or is too long.
        """
        if end is None:
            end = max(now_ms, start or 0)
        if start is None:
            start = max(0, end - USUAL_MS)
        if start > end:
            raise ValidationError.at("start_date", "must not be after end_date")
        if end - start > LONGEST_DAYS * DAY_MS:
            raise ValidationError.at("start_date", f"must be at most {LONGEST_DAYS} days before end_date")
        return cls(start, end, granularity)

    @property
    def hours(self) -> range:
        """Hours since the epoch that begin in it."""
        return range(-(-self.start // HOUR_MS), -(-self.end // HOUR_MS))

    def parts(self) -> list[tuple[int, int]]:
        """Hours, days, ISO weeks or months, the first and last as far as they are in the period: (start, end)."""
        bounds = [self.start, *self._bounds(), self.end] if self.start < self.end else []
        return list(pairwise(bounds))

    def _bounds(self) -> Iterator[int]:
        """Where parts begin, within the period."""
        bound = self._next(self.start)
        while bound < self.end:
            yield bound
            bound = self._next(bound)

    def _next(self, ms: int) -> int:
        """The first beginning of a part after this moment."""
        if self.granularity == "month":
            return _next_month(ms)
        length, origin = STEPS[self.granularity]
        return ((ms - origin) // length + 1) * length + origin


def _next_month(ms: int) -> int:
    day = datetime.fromtimestamp(ms // 1000, UTC)
    if (day.year, day.month) == (9999, 12):
        return END_OF_TIME
    first = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return (first - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
