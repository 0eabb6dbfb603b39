"""One attempt to deliver an event over HTTP, what became of it, and when the next one is due."""

import random
import ssl
import time
from asyncio import timeout
from dataclasses import dataclass, replace

import httpx2
import structlog

from kernel.clock import Clock
from kernel.errors import CodexError
from kernel.outbound import BlockedAddress, Egress, read_body
from kernel.storage.outbox import Flight, Outcome
from kernel.webhooks.record import disabled_entry
from kernel.webhooks.signing import Signer

log = structlog.get_logger()

SCHEDULE_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""How long after each attempt that failed the next is due, a tenth more or less. The one after these is the last."""
JITTER = 0.1
READ = 65_536
KEPT = 1_024
"""Bytes of an answer that are read at most, and that are kept."""
HEADERS = {"content-type": "application/json", "user-agent": "CodexOS-Webhooks"}
GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """error: None when the event was delivered, else one of the known words. body: how the answer begins."""

    status_code: int | None
    error: str | None
    body: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """at: ms when it began."""

    at: int
    duration_ms: int
    answer: Answer


class Sender:
    """One client for all endpoints, which keeps connections open. timeout_s: of a whole attempt. Wants `aclose`."""

    def __init__(self, egress: Egress, signer: Signer, clock: Clock, timeout_s: float):
        self.signer, self._clock, self._timeout_s = signer, clock, timeout_s
        self._client = egress.client(httpx2.Timeout(timeout_s))

    async def send(self, flight: Flight) -> Attempt:
        """Raises nothing that receivers, networks or secrets may cause: that is in the attempt."""
        at, began = self._clock.now_ms(), time.monotonic()
        try:
            async with timeout(self._timeout_s):
                answer = await self._post(flight)
        except (CodexError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            answer = Answer(None, _word(error))
            if answer.error == "internal":
                log.error("a webhook's secrets do not open", webhook_id=flight.webhook_id, error=str(error))
        return Attempt(at, round(1000 * (time.monotonic() - began)), answer)

    async def _post(self, flight: Flight) -> Answer:
        headers = HEADERS | await self.signer.headers(flight)
        async with self._client.stream("POST", flight.url, headers=headers, content=flight.body) as response:
            status = response.status_code
            return Answer(status, _judged(status), await _beginning(response))

    async def aclose(self) -> None:
        await self._client.aclose()


async def _beginning(response: httpx2.Response) -> str:
    """Of an answer that came compressed, nothing."""
    try:
        body = await read_body(response, READ)
    except httpx2.DecodingError:
        return ""
    return body.data[:KEPT].decode(errors="replace")


def _judged(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "redirected" if 300 <= status < 400 else "status"


def _word(error: Exception) -> str:
    if isinstance(error, BlockedAddress):
        return "blocked_address"
    if isinstance(error, CodexError):
        return "internal"
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "timed_out"
    return "tls_failed" if _of_tls(error) else "connection_failed"


def _of_tls(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def outcome(flight: Flight, attempt: Attempt, now: int) -> Outcome:
    """What an attempt that has ended comes to."""
    answer, gone = attempt.answer, attempt.answer.status_code == GONE
    told = Outcome(
        *(flight.workspace_id, flight.webhook_id, flight.event_id),
        verdict="delivered",
        at=attempt.at,
        duration_ms=attempt.duration_ms,
        status_code=answer.status_code,
        error=answer.error,
        body=answer.body,
    )
    if answer.error is None:
        return told
    audit = disabled_entry(flight.webhook_id, "gone" if gone else "failing", now)
    if gone or flight.attempt > len(SCHEDULE_S):
        return replace(told, verdict="gone" if gone else "dead", audit=audit)
    return replace(told, verdict="retry", retry_at=now + _delay_ms(flight.attempt), audit=audit)


def _delay_ms(attempt: int) -> int:
    return round(1000 * SCHEDULE_S[attempt - 1] * random.uniform(1 - JITTER, 1 + JITTER))
