"""What usage counts, wherever it is kept: an hour's bucket in Redis, or a row in Parquet.

A bucket's fields are `<metric>` for the whole workspace, or `<metric>|<kind>|<value>`, such as `t|a|agent_…`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

HOUR_MS = 3_600_000
DAY = 24
"""Hours of it."""


class Counts(NamedTuple):
    """Counts that can be added up. cost: millionths of a USD, of executions whose cost is known; unpriced: how many
    others there are. late: executions put into a later hour than their own, which was closed. stored: bytes, of
    `samples` samples. calls: API requests that were admitted. embedded: tokens that models of providers have embedded
    for documents and for searches over the API, so of no execution; embedded_cost: thousandths of a millionth of a
    USD, of calls whose price is known; embedded_unpriced: how many others there are."""

    executions: int = 0
    tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    cpu_ms: int = 0
    gpu_ms: int = 0
    late: int = 0
    calls: int = 0
    stored: int = 0
    samples: int = 0
    ingested: int = 0
    embedded: int = 0
    embedded_cost: int = 0
    embedded_unpriced: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*map(int.__add__, self, other))

    def minus(self, other: "Counts") -> "Counts":
        """Never below 0."""
        return Counts(*(max(0, mine - theirs) for mine, theirs in zip(self, other, strict=True)))

    def hourly(self) -> "Counts":
        """An hour's counts with the mean of its samples as one sample."""
        if self.samples < 2:
            return self
        return self._replace(stored=self.stored // self.samples, samples=1)

    @classmethod
    def of(cls, found: Mapping[str, int]) -> Self:
        """Of metric letters. Raises ValueError for one that is not known: it must not be lost unseen."""
        if unknown := found.keys() - METRICS.keys():
            raise ValueError(f"no such metrics: {', '.join(sorted(unknown))}")
        return cls(**{METRICS[metric]: count for metric, count in found.items()})


METRICS = dict(zip("etcupgnrbsixyz", Counts._fields, strict=True))
"""Letter in a field's name -> what it counts, in the order of `Counts`."""

KINDS = {"": "total", "a": "agent", "k": "key", "m": "model", "l": "label", "o": "collection"}
"""Letter in a field's name -> what it is counted by."""


def by_kind(fields: Iterable[tuple[str, int]]) -> dict[tuple[str, str], Counts]:
    """(kind as its letter, value) -> counts, of a bucket's fields. Raises ValueError for a metric or kind unknown."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for field, count in fields:
        metric, _, of = field.partition("|")
        kind, _, value = of.partition("|")
        if kind not in KINDS:
            raise ValueError(f"no such kind: {kind}")
        found[kind, value][metric] = count
    return {name: Counts.of(counts) for name, counts in found.items()}
