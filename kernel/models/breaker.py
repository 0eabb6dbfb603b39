"""Stops asking a provider that keeps failing, so that its silence does not fill every runner."""

from collections import deque

from kernel.clock import Clock

FAILURES, WINDOW_MS, REST_MS = 5, 30_000, 10_000


class Breaker:
    """Opens after 5 failures in a row within 30 s; lets a probe through every 10 s until one succeeds."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._failures: deque[int] = deque(maxlen=FAILURES)
        self._closed_until_ms: int | None = None

    def wait_s(self) -> float:
        """0 when the call may go out, else seconds until a probe may. Asking takes the probe's turn."""
        if self._closed_until_ms is None:
            return 0.0
        now = self._clock.now_ms()
        if now < self._closed_until_ms:
            return (self._closed_until_ms - now) / 1000
        self._closed_until_ms = now + REST_MS
        return 0.0

    def succeeded(self) -> None:
        self._failures.clear()
        self._closed_until_ms = None

    def failed(self) -> None:
        now = self._clock.now_ms()
        self._failures.append(now)
        if self._closed_until_ms is not None or self._is_full(now):
            self._closed_until_ms = now + REST_MS

    def _is_full(self, now: int) -> bool:
        return len(self._failures) == FAILURES and now - self._failures[0] <= WINDOW_MS
