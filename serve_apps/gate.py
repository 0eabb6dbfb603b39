"""In front of every route under `/v1`: without a valid key nothing there is reached, nor beyond the plan's limits.

The few public paths are listed here. Streams may be opened by a ticket or a subprotocol instead of the
header, because browsers cannot set one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.access.principal import Principal
from kernel.assembly import Kernel
from kernel.clock import Clock
from kernel.errors import AuthenticationError, RateLimitError, Unavailable
from serve_apps import limits

PUBLIC = frozenset({"/v1/openapi.json"})
GUARDED = "/v1/"
STREAM = re.compile(r"/v1/executions/([^/]+)/(stream|events)")
PROTOCOL = "bearer."

WINDOW_MS = 60_000
MAX_BAD_KEYS = 60
MAX_ADDRESSES = 10_000


class Gate:
    """Puts `principal`, `token` (empty for a ticket) and `told` (headers of the limits) into the scope."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._bad_keys: BadKeys | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"].startswith(GUARDED) and scope["path"] not in PUBLIC:
            await self._admit(scope)
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        kernel: Kernel | None = getattr(scope["app"].state, "kernel", None)
        if kernel is None:
            raise Unavailable("The API is starting", {"reason": "starting"})
        try:
            scope["principal"] = who = await self._identify(kernel, scope)
        except AuthenticationError:
            self._count(kernel.clock, scope)
            raise
        await self._meter(kernel, scope, who)

    async def _identify(self, kernel: Kernel, scope: Scope) -> Principal:
        if ticket := _ticket(scope):
            key_id = await kernel.tickets.redeem(ticket, scope["path"].split("/")[3])
            scope["token"] = ""
            return await kernel.access.principal(key_id)
        scope["token"] = token = bearer(scope)
        return await kernel.access.authenticate(token)

    async def _meter(self, kernel: Kernel, scope: Scope, who: Principal) -> None:
        scope["told"] = [limits.plan_header(who.plan)]
        limit = kernel.plans.of(who.plan, who.overrides).limit
        standing = await kernel.admission.admit(who.workspace_id, who.key_id, limit)
        scope["told"] = limits.headers(who.plan, standing, kernel.clock)
        if not standing.admitted:
            raise limits.refusal(standing)
        scope["admitted"] = True

    def _count(self, clock: Clock, scope: Scope) -> None:
        self._bad_keys = self._bad_keys or BadKeys(clock)
        self._bad_keys.count((scope.get("client") or ("",))[0])


def bearer(scope: Scope) -> str:
    """The key of the one Authorization header, or of a stream's subprotocol. Raises AuthenticationError."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given and scope["type"] == "websocket":
        return _offered(scope)
    if len(given) != 1:
        raise AuthenticationError
    header: str = given[0].decode("latin-1")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii() or token != token.strip():
        raise AuthenticationError
    return token


def _offered(scope: Scope) -> str:
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(PROTOCOL):
            return str(protocol)[len(PROTOCOL) :]
    raise AuthenticationError


def _ticket(scope: Scope) -> str | None:
    """Only the two stream routes take one."""
    if b"ticket=" not in scope["query_string"] or not STREAM.fullmatch(scope["path"]):
        return None
    found = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [])
    return found[0] if len(found) == 1 else None


@dataclass(slots=True)
class _Window:
    began: int
    count: int = 0


class BadKeys:
    """How many bad keys each address has sent in its minute; this replica's own count.

    Past the limit a bad key is answered 429 instead of 401. A good key from the same address goes on
    working, so one bad program behind a shared address locks nobody out.
    """

    def __init__(self, clock: Clock):
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def count(self, address: str) -> None:
        """Raises RateLimitError when the address has sent too many."""
        now = self._clock.now_ms()
        window = self._windows.get(address)
        if window is None or now - window.began >= WINDOW_MS:
            self._make_room(now)
            window = self._windows[address] = _Window(now)
        window.count += 1
        if window.count > MAX_BAD_KEYS:
            wait = (window.began + WINDOW_MS - now) / 1000
            raise RateLimitError("Too many invalid keys from this address", {"limit": "requests"}, wait)

    def _make_room(self, now: int) -> None:
        if len(self._windows) < MAX_ADDRESSES:
            return
        self._windows = dict(self._expiring(now))

    def _expiring(self, now: int) -> Iterator[tuple[str, _Window]]:
        """The younger half, so that a flood of addresses cannot grow the table."""
        young = sorted(self._windows.items(), key=lambda item: item[1].began)[MAX_ADDRESSES // 2 :]
        return ((address, window) for address, window in young if now - window.began < WINDOW_MS)
