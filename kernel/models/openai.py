"""Chat completions of any provider that speaks OpenAI's HTTP API.

Owns one call from request to last token: retries while nothing has been said, patience, and the refusal of
every answer that is not a whole one. Text that came before a failure is never followed by `Finish`.

Token counts are the provider's. When it sends none they are estimated from the text (`completion.estimate`):
a call that counted as nothing would pass every limit.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx2
import orjson
from pydantic import ValidationError

from kernel.clock import Clock
from kernel.errors import ProviderError
from kernel.models.breaker import Breaker
from kernel.models.completion import Chunk, MaxTokensField, estimate, payload
from kernel.models.failure import Kind, failure, presentable
from kernel.models.seam import ChatRequest, Finish, TextDelta
from kernel.models.sse import EventReader, Patience, TooLarge, within
from kernel.outbound import BlockedAddress, read_body, refuse_encoded

ATTEMPTS = 5
FIRST_BACKOFF_S = 0.5
MAX_RETRY_AFTER_S = 60.0
MAX_ERROR_BODY = 64_000
DRAIN_S = 0.05
TIMEOUT = httpx2.Timeout(None, connect=5.0, write=30.0, pool=5.0)
"""Of the client; silence is timed by `Patience`."""

_AGAIN = frozenset({Kind.LIMITED, Kind.FAULT})
_BLAMED = frozenset({Kind.FAULT, Kind.TIMEOUT, Kind.MALFORMED})
_REASONS: dict[str, Literal["stop", "length", "content_filter"]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is, with its key, and what it does otherwise than OpenAI itself."""

    provider: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    max_tokens_field: MaxTokensField = "max_tokens"
    stream_options: bool = True


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance, as tests replace them. `jitter` is from 0 to 1."""

    clock: Clock
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


class OpenAIChat:
    """A `ChatModel`. `client` comes from `Egress`; all calls to one provider share one breaker."""

    def __init__(self, endpoint: Endpoint, client: httpx2.AsyncClient, breaker: Breaker, pace: Pace):
        self._endpoint = endpoint
        self._client = client
        self._breaker = breaker
        self._pace = pace

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        for attempt in range(1, ATTEMPTS + 1):
            self._admit()
            said = False
            try:
                async with aclosing(self._answer(request)) as items:
                    async for item in items:
                        said = True
                        yield item
                return
            except ProviderError as exc:
                self._record(exc)
                if said or attempt == ATTEMPTS or exc.details["kind"] not in _AGAIN:
                    raise
                wait_s = self._backoff(attempt, exc.retry_after)
            await self._pace.sleep(wait_s)

    def _admit(self) -> None:
        if wait_s := self._breaker.wait_s():
            raise self._failure(Kind.OPEN, "failed too often in a row and is left alone for a moment", wait_s)

    def _record(self, exc: ProviderError) -> None:
        if exc.details["kind"] in _BLAMED:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    def _backoff(self, attempt: int, asked_s: float | None) -> float:
        """Seconds: what the provider asked for, else half of 0.5, 1, 2, 4; a random part on top."""
        half = FIRST_BACKOFF_S / 2 * 2.0 ** (attempt - 1)
        return (half if asked_s is None else asked_s) + self._pace.jitter() * half

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        deadline = asyncio.get_running_loop().time() + self._pace.patience.first_byte_s
        with self._translated():
            async with asyncio.timeout_at(deadline):
                response = await self._client.send(self._request(request), stream=True)
            try:
                await self._require_stream(response)
                async with (
                    aclosing(self._events(response, deadline)) as events,
                    aclosing(self._items(events, request)) as items,
                ):
                    async for item in items:
                        yield item
            finally:
                await response.aclose()

    def _request(self, request: ChatRequest) -> httpx2.Request:
        endpoint = self._endpoint
        headers = {
            "accept": "text/event-stream",
            "content-type": "application/json",
            "idempotency-key": request.idempotency_key,
        }
        if endpoint.key:
            headers["authorization"] = f"Bearer {endpoint.key}"
        body = orjson.dumps(payload(request, endpoint.max_tokens_field, endpoint.stream_options))
        url = endpoint.base_url.rstrip("/") + "/chat/completions"
        return self._client.build_request("POST", url, content=body, headers=headers)

    async def _require_stream(self, response: httpx2.Response) -> None:
        if response.status_code != 200:
            raise await self._refusal(response)
        refuse_encoded(response)
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            raise self._failure(Kind.MALFORMED, "answered with something other than a stream of events")

    async def _refusal(self, response: httpx2.Response) -> ProviderError:
        status = response.status_code
        kind = Kind.LIMITED if status == 429 else Kind.FAULT if status >= 500 else Kind.REFUSED
        async with asyncio.timeout(self._pace.patience.idle_s):
            body = await read_body(response, MAX_ERROR_BODY)
        reason = presentable(_message(body.data), self._endpoint.key)
        return self._failure(kind, f"answered {status}: {reason}".rstrip(": "), self._retry_after(response))

    def _retry_after(self, response: httpx2.Response) -> float | None:
        """Seconds or a date, as HTTP has it, bounded to 0–60 s; None when there is none to be read."""
        text = response.headers.get("retry-after", "")
        try:
            asked_s = float(text)
        except ValueError:
            try:
                asked_s = parsedate_to_datetime(text).timestamp() - self._pace.clock.now_ms() / 1000
            except (ValueError, OverflowError):
                return None
        return None if asked_s != asked_s else min(max(asked_s, 0.0), MAX_RETRY_AFTER_S)

    async def _events(self, response: httpx2.Response, deadline: float) -> AsyncGenerator[bytes]:
        reader = EventReader()
        idle_s = self._pace.patience.idle_s
        async with aclosing(within(response.aiter_raw(), deadline, idle_s)) as chunks:
            async for chunk in chunks:
                for event in reader.feed(chunk):
                    yield event

    async def _items(
        self, events: AsyncGenerator[bytes], request: ChatRequest
    ) -> AsyncGenerator[TextDelta | Finish]:
        reason, tokens, said = None, None, 0
        async for event in events:
            if event == b"[DONE]":
                break
            chunk = self._chunk(event)
            tokens = chunk.usage.tokens() if chunk.usage else tokens
            reason = chunk.finish_reason or reason
            if text := chunk.text:
                said += len(text.encode())
                yield TextDelta(text)
        else:
            raise self._failure(Kind.FAULT, "broke off its answer")
        if reason is None:
            raise self._failure(Kind.MALFORMED, "ended its answer without a reason")
        await _drain(events)
        self._breaker.succeeded()
        yield Finish(_REASONS.get(reason, "other"), tokens or estimate(request, said))

    def _chunk(self, event: bytes) -> Chunk:
        try:
            chunk = Chunk.model_validate_json(event)
        except ValidationError as exc:
            raise self._failure(Kind.MALFORMED, "sent something that is no completion chunk") from exc
        if chunk.error is not None:
            reason = presentable(_message(event), self._endpoint.key)
            raise self._failure(Kind.FAULT, f"failed while answering: {reason}".rstrip(": "))
        return chunk

    def _failure(self, kind: Kind, what: str, retry_after: float | None = None) -> ProviderError:
        provider = self._endpoint.provider
        return failure(kind, provider, f"Provider '{provider}' {what}", retry_after)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except BlockedAddress as exc:
            raise self._failure(
                Kind.REFUSED, f"may not be reached ({exc}); see CODEXOS_EGRESS_ALLOW"
            ) from exc
        except (TooLarge, httpx2.DecodingError) as exc:
            raise self._failure(Kind.MALFORMED, "sent an answer that is compressed or too large") from exc
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as exc:
            raise self._failure(Kind.FAULT, "could not be reached in time") from exc
        except (TimeoutError, httpx2.TimeoutException) as exc:
            raise self._failure(Kind.TIMEOUT, "did not answer in time") from exc
        except httpx2.HTTPError as exc:
            raise self._failure(Kind.FAULT, "could not be reached or broke the connection") from exc


async def _drain(events: AsyncGenerator[bytes]) -> None:
    """Reads what ends the answer, so that the connection can be used again."""
    with suppress(TimeoutError, TooLarge, httpx2.HTTPError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in events:
                pass


def _message(body: bytes) -> str:
    """What a provider's error says: `error.message`, `error`, `message` or nothing that can be shown."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    for name in ("error", "message"):
        if isinstance(found, dict):
            found = found.get(name, found)
    return found if isinstance(found, str) else ""
