"""How long to wait before a thing that died is started again."""

import time
from dataclasses import dataclass

FIRST_S = 0.2
LONGEST_S = 30.0
CALM_S = 30.0


@dataclass(slots=True)
class Backoff:
    """Doubles from 0.2 s to 30 s, and begins anew after half a minute without a death."""

    delay: float = 0.0
    last: float = 0.0

    def next(self, now: float | None = None) -> float:
        now = time.monotonic() if now is None else now
        calm = now - self.last > CALM_S + self.delay
        self.delay = FIRST_S if calm or not self.delay else min(self.delay * 2, LONGEST_S)
        self.last = now
        return self.delay
