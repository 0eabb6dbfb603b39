"""What sources stand on in tests, and how they are asked."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter

from configs.settings import Ingestion
from kernel.errors import NotFound
from kernel.knowledge.contract import Fetched, Found, Source
from kernel.knowledge.sources import SourceEntry, Surroundings, Upload, open_source
from kernel.outbound import Egress

LOOPBACK = Egress(("127.0.0.0/8",))

# As callers may write an address that is not theirs to reach (rows 90 to 107).
REFUSED = [
    *("http://127.0.0.1", "http://localhost", "http://LOCALHOST", "http://a.localhost", "http://localhost."),
    *("http://[::1]", "http://[::]", "http://0", "http://0.0.0.0", "http://2130706433", "http://0x7f000001"),
    *(
        "http://0177.0.0.1",
        "http://127.1",
        "http://0x7f.1",
        "http://169.254.169.254",
        "http://[fd00:ec2::254]",
    ),
    *("http://100.100.100.200", "http://metadata.google.internal", "http://10.0.0.1", "http://172.16.0.1"),
    *("http://192.168.0.1", "http://100.64.0.1", "http://192.0.0.1", "http://198.18.0.1", "http://240.0.0.1"),
    *("http://224.0.0.1", "http://255.255.255.255", "http://[fe80::1]", "http://[fc00::1]"),
    *(
        "http://[fe80::1%25eth0]",
        "http://[::ffff:127.0.0.1]",
        "http://[64:ff9b::7f00:1]",
        "file:///etc/passwd",
    ),
    *("gopher://example.com", "ftp://example.com", "dict://example.com", "ldap://example.com", "data:,x"),
    *("javascript:alert(1)", "unix:/run/x", "jar:http://example.com!/", "example.com", "//example.com"),
    *("http://good.com@127.0.0.1", "http://good.com:80@127.0.0.1:6379", "http://u:p@example.com"),
    *(f"http://example.com:{port}" for port in (0, 22, 25, 6379, 8265, 9091, 19530, 65536, -1)),
    *("http://" + "a." * 130 + "com", "http://" + "a" * 64 + ".com", "http://example.com..", "http://single"),
    *("http://xn--pple-43d.com", "http://xn--a.com", "http://аpple.com"),
]

T = TypeVar("T")
_ENTRIES: TypeAdapter[SourceEntry] = TypeAdapter(SourceEntry)


def entry(**fields: Any) -> SourceEntry:
    return _ENTRIES.validate_python(fields)


def surroundings(
    egress: Egress = LOOPBACK,
    uploads: Mapping[str, Upload] | None = None,
    credentials: Mapping[str, Mapping[str, str]] | None = None,
    **settings: Any,
) -> Surroundings:
    return Surroundings(egress, Ingestion(**settings), _named(uploads or {}), _named(credentials or {}))


def opened(around: Surroundings, **fields: Any) -> Source:
    return open_source(entry(**fields), around)


async def listed(source: Source) -> list[Found]:
    return [found async for found in source.list()]


async def fetched(source: Source, found: Found) -> Fetched:
    data = await source.fetch(found)
    assert data is not None
    return data


def _named(things: Mapping[str, T]) -> Callable[[str], Awaitable[T]]:
    async def find(name: str) -> T:
        if name not in things:
            raise NotFound(f"There is no {name}")
        return things[name]

    return find
