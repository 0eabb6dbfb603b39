"""One act of a caller, as those parts take it that record and repeat it."""

from dataclasses import dataclass

from kernel.access.audit import LOCAL, Origin
from kernel.access.principal import Principal


@dataclass(frozen=True, slots=True)
class Act:
    """Who asks, from where, and with which Idempotency-Key. before: what an earlier, lost try had made or changed."""

    who: Principal
    origin: Origin = LOCAL
    record: str = ""
    before: str | None = None
