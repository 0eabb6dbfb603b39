"""The node type `http`: one request through the guard of `kernel.outbound`, its answer read to 1 MB.

Failures that may pass (429, 5xx, no connection, no time) say so; all else is final. An `Idempotency-Key`, the
same for each try at this node, goes with every request that may change something.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import httpx2
import orjson
from pydantic import AfterValidator, Field

from kernel.agents.flow import Part
from kernel.agents.references import Reference
from kernel.errors import NodeError, NodeTimeout, Problem, ProviderError
from kernel.models.seam import Models
from kernel.nodes.contract import Call, Outcome
from kernel.outbound import BlockedAddress, Egress, read_body
from kernel.shape import at_most

MAX_ANSWER = 2**20
MAX_WAIT_S = 60.0
SAFE_METHODS = ("GET", "HEAD")
OWN_HEADERS = frozenset(
    {"host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization"}
    | {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"content-length", "expect", "accept-encoding"}
)
"""What the connection itself decides."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e]{0,8192}")
_WHOLE_HOST = re.compile(r"[^/?#]*://[^/?#]+[/?#]")


def header_name(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("is no header name")
    if name.lower() in OWN_HEADERS:
        raise ValueError(f"'{name}' is set by the connection itself")
    return name


def header_value(value: str) -> str:
    if _VALUE.fullmatch(value) is None:
        raise ValueError("has a line break, a control or a non-ASCII character, or is too long")
    return value


Status = Annotated[int, Field(ge=100, le=599)]
Statuses = Annotated[list[Status], Field(min_length=1, max_length=100)]
StatusClass = Annotated[str, Field(pattern=r"^[1-5]xx$")]


class HttpConfig(Part):
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: str = Field(min_length=1, max_length=2048)
    headers: Annotated[
        dict[Annotated[str, AfterValidator(header_name)], Annotated[str, AfterValidator(header_value)]],
        at_most(64),
    ] = Field(default_factory=dict)
    body: Any = Field(None, description="text goes as it is, any other value as JSON")
    timeout_ms: int = Field(10_000, ge=1, le=120_000)
    expect: Statuses | StatusClass = Field("2xx", description="statuses that are no failure")

    def expects(self, status: int) -> bool:
        if isinstance(self.expect, str):
            return status // 100 == int(self.expect[0])
        return status in self.expect


class HttpNode:
    name = "http"
    title = "Sends one HTTP request and reads the answer."
    config = HttpConfig
    example: ClassVar[dict[str, Any]] = {
        "method": "POST",
        "url": "https://api.example.com/v1/tickets",
        "headers": {"Accept": "application/json"},
        "body": {"title": "{{ input.title }}"},
    }
    source_fields: frozenset[str] = frozenset()
    secret_fields = frozenset({"url", "headers", "body"})

    def __init__(self, egress: Egress):
        self._egress = egress

    def check(self, config: HttpConfig, models: Models) -> list[Problem]:
        literal, placeholder, _ = config.url.partition("{{")
        if placeholder and _WHOLE_HOST.match(literal) is None:
            return []
        reason = self._egress.check_url(literal)
        return [Problem("url", reason)] if reason else []

    def branches(self, config: HttpConfig) -> None:
        return None

    def references(self, config: HttpConfig) -> tuple[Reference, ...]:
        return ()

    async def run(self, config: HttpConfig, call: Call) -> Outcome:
        """Output: `{status, headers, body}`, the body parsed if it is JSON. Raises NodeError and kin."""
        try:
            async with asyncio.timeout(config.timeout_ms / 1000):
                return Outcome(await self._exchange(config, call))
        except TimeoutError:
            raise NodeTimeout(f"No whole answer within {config.timeout_ms} ms") from None
        except BlockedAddress as exc:
            raise NodeError(exc.message, {"reason": "blocked_address"}) from None
        except httpx2.TransportError as exc:
            raise ProviderError(_said(exc), {"reason": "unreachable"}, None, True) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise ProviderError(f"The exchange failed: {type(exc).__name__}") from None

    async def _exchange(self, config: HttpConfig, call: Call) -> dict[str, Any]:
        headers, content = _request(config, call)
        async with (
            self._egress.client() as client,
            client.stream(config.method, config.url, headers=headers, content=content) as answer,
        ):
            if not config.expects(answer.status_code):
                raise _unexpected(answer, config)
            body = await read_body(answer, MAX_ANSWER)
        if body.truncated:
            raise ProviderError(f"The answer is larger than {MAX_ANSWER >> 20} MB")
        return {
            "status": answer.status_code,
            "headers": dict(answer.headers),
            "body": _parsed(answer.headers.get("content-type", ""), body.data),
        }


def _request(config: HttpConfig, call: Call) -> tuple[dict[str, str], bytes | None]:
    headers = {name.lower(): value for name, value in config.headers.items()}
    if config.method not in SAFE_METHODS:
        headers.setdefault("idempotency-key", call.idempotency_key)
    if config.body is None:
        return headers, None
    text = isinstance(config.body, str)
    headers.setdefault("content-type", "text/plain; charset=utf-8" if text else "application/json")
    return headers, config.body.encode() if text else orjson.dumps(config.body)


def _said(exc: httpx2.TransportError) -> str:
    if isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout):
        return "The host could not be reached"
    return f"The connection broke: {type(exc).__name__}"


def _unexpected(answer: httpx2.Response, config: HttpConfig) -> ProviderError:
    status = answer.status_code
    return ProviderError(
        f"The answer has status {status}, not {config.expect}",
        {"status": status},
        _retry_after(answer.headers),
        status == 429 or status >= 500,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    return min(float(text), MAX_WAIT_S) if re.fullmatch("[0-9]{1,9}", text) else None


def _parsed(content_type: str, data: bytes) -> Any:
    if "json" in content_type.lower():
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return data.decode(errors="replace")
    return data.decode(errors="replace")
