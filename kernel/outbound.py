"""The one way out: every request this platform sends to an address somebody gave it.

It owns what may be reached. A URL is judged twice: by `Egress.check_url` when it is saved (no DNS), and by
the transport when it is used, which resolves the name, refuses it if *any* answer is not public, and connects
to the very address it judged, so a name cannot change its mind in between. Redirects are not followed, the
environment's proxies are not used, cookies are not kept, TLS is verified.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from unicodedata import name as character_name
from urllib.parse import SplitResult, urlsplit

import anyio.to_thread
import httpcore2
import httpx2
import idna

from kernel.errors import CodexError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""Host and port to the addresses of the host, in text. Raises OSError when there are none."""

MAX_URL = 8192
MALFORMED = "URL has a malformed host or port"
OWN = "Host is this product itself"
RESOLVE_S = 3.0
LOOKUPS = 256
"""Names looked up at once; each takes a thread."""
CONNECTIONS = 1024
TIMEOUT = httpx2.Timeout(15.0, connect=5.0)

# Stores, brokers and control planes that speak to whoever reaches them, ours (Ray, Valkey, Milvus) first.
UNSAFE_PORTS = frozenset(
    {6379, 6380, 6390, 8265, 8404, 9091, 9101, 10001, 19530, 19540}
    | {1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5672, 5900, 5984}
    | {6000, 6443, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 25672, 27017}
)
METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})

_NETLOC = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")

# What `is_global` of Python 3.11 lets through and must not be reached: the relays and the documentation of
# the two protocols, and everything outside the one IPv6 block that is in use.
_CLOSED = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
_UNICAST, _NAT64, _TO4 = map(IPv6Network, ("2000::/3", "64:ff9b::/96", "2002::/16"))


class BlockedAddress(CodexError):
    """The URL names, or resolves to, something that may not be reached."""

    code, status = "VALIDATION_ERROR", 422


@dataclass(frozen=True, slots=True)
class Body:
    """The first bytes of an answer; `truncated` says that there were more."""

    data: bytes
    truncated: bool


async def read_body(response: httpx2.Response, max_bytes: int) -> Body:
    """Reads at most `max_bytes` of a streamed answer. Raises what `refuse_encoded` does."""
    refuse_encoded(response)
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > max_bytes:
            return Body(bytes(data[:max_bytes]), True)
    return Body(bytes(data), False)


def refuse_encoded(response: httpx2.Response) -> None:
    """Raises httpx2.DecodingError: what is compressed although nobody asked could unpack to any size."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise httpx2.DecodingError("The answer is compressed although it was asked not to be")


async def resolve_host(host: str, port: int) -> list[str]:
    """The system's resolver, in a thread of its own. How many there are is for the caller to limit."""

    def lookup() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    return await anyio.to_thread.run_sync(lookup, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


@dataclass(frozen=True, slots=True)
class _Lookup:
    """started: set when it has a place among all that run."""

    task: asyncio.Task[list[str]]
    started: asyncio.Event


class Lookups:
    """Names being looked up: each once, whoever asks for it meanwhile; nothing is kept once it is known.

    A lookup has a place until the resolver has answered, though nobody may wait for it any more.
    """

    def __init__(self, resolve: Resolve, places: int = LOOKUPS):
        self._resolve, self._places = resolve, asyncio.Semaphore(places)
        self._running: dict[tuple[str, int], _Lookup] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """Waits `RESOLVE_S` for a place, and as long for the answer. Raises OSError, TimeoutError."""
        lookup = self._running.get((host, port)) or self._begin(host, port)
        async with asyncio.timeout(RESOLVE_S):
            await lookup.started.wait()
        async with asyncio.timeout(RESOLVE_S):
            return await asyncio.shield(lookup.task)

    def _begin(self, host: str, port: int) -> _Lookup:
        started = asyncio.Event()
        task = asyncio.create_task(self._look(host, port, started))
        task.add_done_callback(_note_end)
        self._running[host, port] = lookup = _Lookup(task, started)
        return lookup

    async def _look(self, host: str, port: int, started: asyncio.Event) -> list[str]:
        try:
            async with self._places:
                started.set()
                return list(await self._resolve(host, port))
        finally:
            del self._running[host, port]


def _note_end(task: asyncio.Task[list[str]]) -> None:
    """Looks at how a lookup failed, for there may be nobody else to."""
    if not task.cancelled():
        task.exception()


class Egress:
    """What may be reached: public addresses, and the networks in `allow` (such as `10.0.0.0/8`).

    An allowed network named by address may be reached on any port. own: names and addresses that this product
    answers to: not to be reached, but at allowed addresses. Raises ValueError for a malformed network.
    """

    def __init__(self, allow: tuple[str, ...] = (), resolve: Resolve = resolve_host, own: Iterable[str] = ()):
        self._own = frozenset(host.lower().strip("[]") for host in own)
        self._allow = tuple(ipaddress.ip_network(network, strict=False) for network in allow)
        self._lookups = Lookups(resolve)

    def check_url(self, url: str) -> str | None:
        """Why this URL may not be used, or None. Looks nothing up."""
        if problem := _malformed(url):
            return problem
        try:
            parts = urlsplit(url)
        except ValueError:
            return MALFORMED
        return _bad_scheme(parts) or self._bad_target(parts)

    def _bad_target(self, parts: SplitResult) -> str | None:
        if "@" in parts.netloc:
            return "URL must not carry a user name or password"
        if not parts.netloc.isascii():
            return "Host must be ASCII; international names are written xn--…"
        if (match := _NETLOC.fullmatch(parts.netloc)) is None:
            return MALFORMED
        port = int(match["port"] or (443 if parts.scheme.lower() == "https" else 80))
        if not 0 < port < 65536:
            return "Port is out of range"
        if match["v6"] is not None:
            return self._bad_literal(match["v6"], IPv6Address, port)
        return self._bad_host(match["name"].lower(), port)

    def _bad_host(self, host: str, port: int) -> str | None:
        if _NUMERIC.fullmatch(host.rpartition(".")[2]):
            return self._bad_literal(host, IPv4Address, port)
        if host == "localhost" or host.endswith(".localhost"):
            return self._refusal(IPv4Address("127.0.0.1")) and "Host is this machine"
        if host in self._own and not self._allow:
            return OWN
        return _bad_name(host, dotless=bool(self._allow)) or _bad_port(port)

    def _bad_literal(self, text: str, kind: type[IPv4Address] | type[IPv6Address], port: int) -> str | None:
        if "%" in text:
            return "Host must not carry a zone id"
        try:
            address = kind(text)
        except ValueError:
            return "Host is not a plain IP address or name"
        return None if self._allows(address) else self._refusal(address) or _bad_port(port)

    def _allows(self, address: Address) -> bool:
        return any(address in network for network in self._allow)

    def _refusal(self, address: Address) -> str | None:
        closed = [one for one in _targets(address) if not self._allows(one)]
        if not all(map(_is_public, closed)):
            return "Address is not a public one"
        return OWN if any(str(one) in self._own for one in closed) else None

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect for `host`. Raises BlockedAddress if one is refused, OSError, TimeoutError."""
        found = await self._lookups.addresses(host, port)
        for text in found:
            if "%" in text or self._closed(host, ipaddress.ip_address(text)):
                raise BlockedAddress(f"Host '{host[:255]}' may not be reached", {"reason": "blocked_address"})
        return found

    def _closed(self, host: str, address: Address) -> bool:
        own = host.lower() in self._own and not self._allows(address)
        return own or self._refusal(address) is not None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx2.create_ssl_context(trust_env=False)

    def client(self, timeout: httpx2.Timeout = TIMEOUT) -> httpx2.AsyncClient:
        """A client that reaches only what is allowed.

        Requests raise BlockedAddress, else httpx2.HTTPError. Read answers with `stream()` and `read_body`.
        """
        return httpx2.AsyncClient(
            transport=_GuardedTransport(self, self._tls),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            headers={"accept-encoding": "identity", "user-agent": "CodexOS"},
        )


class _GuardedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own transport over a pool that connects through the guard; SNI and Host stay the name."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext):
        super().__init__(verify=tls, trust_env=False)
        self._egress = egress
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=CONNECTIONS,
            keepalive_expiry=15.0,
            network_backend=_GuardedBackend(egress),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if problem := self._egress.check_url(str(request.url)):
            raise BlockedAddress(problem, {"reason": "blocked_address"})
        return await super().handle_async_request(request)


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves, judges every address, and connects to the first that answers."""

    def __init__(self, egress: Egress):
        self._egress = egress
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await self._egress.addresses(host, port)
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout("The host name did not resolve in time") from exc
        except OSError as exc:
            raise httpcore2.ConnectError("The host name does not resolve") from exc
        return await self._connect(addresses, port, timeout and timeout / max(len(addresses), 1))

    async def _connect(self, hosts: list[str], port: int, each: float | None) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("The host has no address")
        for host in hosts:
            try:
                return await self._network.connect_tcp(host, port, each)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def _malformed(url: str) -> str | None:
    if len(url) > MAX_URL:
        return f"URL is longer than {MAX_URL} characters"
    if not url.isprintable() or "\\" in url or url != url.strip():
        return "URL has a control character, a backslash, or a space around it"
    return None


def _bad_scheme(parts: SplitResult) -> str | None:
    if parts.scheme.lower() not in ("http", "https"):
        return "URL must begin with http:// or https://"
    return None if parts.netloc else "URL has no host"


def _bad_port(port: int) -> str | None:
    if port in UNSAFE_PORTS or (port < 1024 and port not in (80, 443)):
        return f"Port {port} may not be used"
    return None


def _bad_name(host: str, dotless: bool) -> str | None:
    """`dotless`: whether a single label, which only a private network resolves, is fine."""
    labels = host.split(".")
    if host in METADATA_NAMES:
        return "Host is a metadata service"
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return "Host is not a plain IP address or name"
    if len(labels) == 1 and not dotless:
        return "Host must be a full domain name"
    return next(filter(None, map(_bad_idn, labels)), None)


def _bad_idn(label: str) -> str | None:
    if not label.startswith("xn--"):
        return None
    try:
        text = idna.decode(label)
    except idna.IDNAError:
        return "Host is not a valid international name"
    scripts = {character_name(char, "").partition(" ")[0] for char in text if char.isalpha()}
    return "Host mixes Latin with another script" if "LATIN" in scripts and len(scripts) > 1 else None


def _targets(address: Address) -> tuple[Address, ...]:
    """Every address a packet to this one may end at: IPv6 forms that carry an IPv4 address are opened."""
    if isinstance(address, IPv4Address):
        return (address,)
    inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped or address in _NAT64:
        return (inner,)
    if address in _TO4:
        return (address, IPv4Address(int(address) >> 80 & 0xFFFF_FFFF))
    if int(address) >> 32 & 0xFDFF_FFFF == 0x5EFE:  # ISATAP
        return (address, inner)
    return (address,)


def _is_public(address: Address) -> bool:
    if address.is_multicast or not address.is_global or any(address in network for network in _CLOSED):
        return False
    return isinstance(address, IPv4Address) or address in _UNICAST
