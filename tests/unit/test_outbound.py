"""What may be reached: the pure check of URLs, and the transport that checks again when it connects."""

import gzip
import ssl
from datetime import datetime
from pathlib import Path

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kernel.errors import CodexError
from kernel.outbound import BlockedAddress, Egress, Lookups, read_body
from tests.web import Exchange, serve

pytestmark = pytest.mark.anyio

LOOPBACK = ("127.0.0.0/8",)

REFUSED = [
    # this machine
    *(
        "http://127.0.0.1",
        "http://localhost",
        "http://LOCALHOST/x",
        "http://localhost.",
        "http://a.localhost",
    ),
    *("http://[::1]", "http://[::]", "http://0", "http://0.0.0.0", "http://127.255.255.254"),
    # other spellings of addresses
    *("http://2130706433", "http://0x7f000001", "http://0177.0.0.1", "http://127.1", "http://0x7f.1"),
    *("http://0x7F.1", "http://127.0.0.1.", "http://127.0.0x1", "http://1.2.3.4.5", "http://256.1.1.1"),
    *("http://017700000001", "http://8.8.8.010", "http://a.0x7f", "http://134744072"),
    # IPv4 inside IPv6
    *("http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]", "http://[::ffff:0:127.0.0.1]"),
    *("http://[::127.0.0.1]", "http://[64:ff9b::7f00:1]", "http://[64:ff9b::a9fe:a9fe]"),
    *("http://[64:ff9b:1::7f00:1]", "http://[2002:7f00:1::]", "http://[2002:a00:1::1]"),
    *("http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "http://[2606:4700::5efe:7f00:1]"),
    *("http://[2606:4700::200:5efe:a00:1]", "http://[::8.8.8.8]"),
    # metadata services
    *("http://169.254.169.254/latest", "http://[fd00:ec2::254]", "http://100.100.100.200"),
    *("http://metadata.google.internal", "http://METADATA.google.internal", "http://metadata"),
    # private, shared, reserved, multicast
    *("http://10.0.0.1", "http://172.16.0.1", "http://172.31.255.255", "http://192.168.1.1"),
    *("http://100.64.0.1", "http://192.0.0.1", "http://192.0.0.9", "http://198.18.0.1", "http://198.19.0.1"),
    *("http://240.0.0.1", "http://224.0.0.1", "http://239.1.1.1", "http://255.255.255.255"),
    *("http://192.88.99.1", "http://192.0.2.1", "http://203.0.113.9", "http://0.1.2.3"),
    *("http://[fe80::1]", "http://[fc00::1]", "http://[fd12::1]", "http://[fec0::1]", "http://[ff02::1]"),
    *("http://[ff0e::1]", "http://[2001:db8::1]", "http://[3fff::1]", "http://[5f00::1]", "http://[100::1]"),
    *("http://[4000::1]", "http://[fe80::1%25eth0]", "http://[2606:4700::1%eth0]", "http://[::1%25lo]"),
    # schemes
    *("file:///etc/passwd", "gopher://example.com", "ftp://example.com", "dict://example.com:11211/"),
    *("ldap://example.com", "data:text/plain,x", "javascript:alert(1)", "unix:/run/x", "example.com"),
    *(
        "jar:http://example.com!/",
        "//example.com",
        "/path",
        "",
        "http:",
        "http://",
        "http:///x",
        "http:x.com",
    ),
    *("ws://example.com", "https:/example.com", "view-source:http://example.com"),
    # user names
    *("http://good.com@127.0.0.1", "http://good.com:80@127.0.0.1:6379", "http://u:p@example.com"),
    *(
        "http://u@example.com",
        "http://@example.com",
        "http://example.com:80@example.org",
        "http://a%40b@c.com",
    ),
    # ports
    *(f"http://example.com:{port}" for port in (0, 1, 22, 25, 6379, 8265, 9091, 19530, 65536, 99999)),
    *(
        "http://example.com:-1",
        "http://example.com:",
        "http://example.com:8e3",
        "http://example.com:٨٠",
        "http://example.com:80:80",
    ),
    *("http://example.com:+80", "http://8.8.8.8:22", "http://[2606:4700::1]:25"),
    # hosts
    *("http://" + "a." * 126 + "example", "http://" + "a" * 64 + ".com", "http://.com", "http://a..com"),
    *("http://example.com.", "http://example.com..", "http://intranet", "http://-a.com", "http://a-.com"),
    *(
        "http://exa mple.com",
        "http://example.com\\@127.0.0.1",
        "http://example.com\t",
        "http://exa\nmple.com",
    ),
    *("http://ex%61mple.com", "http://%31%32%37.0.0.1", "http://[127.0.0.1]", "http://[::1", "http://::1"),
    *("http://example.com/" + "a" * 8192, "http://a*b.com", "http://[v1.x]", "http://1.1.1.1,8.8.8.8"),
    # international names
    *("http://аpple.com", "http://xn--pple-43d.com", "http://xn--a.com", "http://xn--99999999.com"),
    *("http://\u212aelvin.com", "http://example.com/\ud800", " http://example.com", "http://example.com/ "),
    *("http://１２７.0.0.1", "http://ⓛocalhost", "http://example。com", "http://xn--.com"),
]

ACCEPTED = [
    *("http://example.com", "https://example.com/a?b=c#d", "HTTPS://EXAMPLE.com", "http://example.com:8080"),
    *("https://example.com:443", "http://example.com:80", "http://example.com:1024", "http://8.8.8.8"),
    *("https://1.1.1.1:8443/x", "http://[2606:4700:4700::1111]:8080/"),
    *("http://[64:ff9b::808:808]", "http://[2002:808:808::1]", "http://[::ffff:8.8.8.8]"),
    *("https://xn--bcher-kva.example", "https://xn--e1afmkfd.example", "http://a_b.example.com"),
    *(
        "http://" + "a" * 63 + ".com",
        "http://172.32.0.1",
        "http://100.128.0.1",
        "http://a-b.c1",
        "http://x.1a",
    ),
    *("https://api.example.com/%2e%2e/@x", "http://localhost.example.com", "http://example.com/a@b"),
    'http://example.com/ä b?q={"x": 1}|^',
]


@pytest.mark.parametrize("url", REFUSED)
def test_refuses(url: str) -> None:
    assert Egress().check_url(url)


@pytest.mark.parametrize("url", ACCEPTED)
def test_accepts(url: str) -> None:
    assert Egress().check_url(url) is None


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:6379", "http://127.0.0.1:22", "http://localhost:8080", "http://[::ffff:127.9.9.9]"],
)
def test_allowed_networks_are_reachable(url: str) -> None:
    assert Egress(LOOPBACK).check_url(url) is None
    assert Egress().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1",
        "http://127.1",
        "http://u@127.0.0.1",
        "http://127.0.0.1:0",
        "http://localhost:99999",
        "http://[::1]",
    ],
)
def test_an_allowed_network_opens_nothing_else(url: str) -> None:
    assert Egress(LOOPBACK).check_url(url)


def test_names_inside_a_private_network_need_an_allowed_network() -> None:
    assert Egress().check_url("http://ollama:11434/v1") == "Host must be a full domain name"
    assert Egress(("172.16.0.0/12",)).check_url("http://ollama:11434/v1") is None
    assert Egress(("0.0.0.0/0",)).check_url("http://metadata.google.internal")


def test_a_network_that_does_not_parse_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        Egress(("10.0.0.0/33",))


async def hello(exchange: Exchange) -> None:
    await exchange.answer(200, b"hello", "set-cookie: a=b")


async def never_reached(exchange: Exchange) -> None:
    raise AssertionError("the guard let a request through")


def resolving_to(*addresses: str):
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


def test_the_products_own_listener_is_no_target() -> None:
    own = ("8.8.8.8", "Codex.example.com", "[2606:4700::1111]")
    for url in ("http://8.8.8.8:8000/", "https://CODEX.example.com/v1", "http://[2606:4700::1111]/"):
        assert Egress(own=own).check_url(url) == "Host is this product itself"
        assert Egress(("8.8.8.8/32", "2606:4700::/32"), own=own).check_url(url) is None
    assert Egress(own=own).check_url("https://other.example.com/") is None


@pytest.mark.parametrize(
    ("host", "allow", "open_"),
    [
        ("codex.example.com", "10.0.0.0/8", False),
        ("codex.example.com", "1.1.1.1/32", True),
        ("alias.example.com", "10.0.0.0/8", False),
    ],
)
async def test_its_names_and_addresses_are_judged_as_they_resolve(host: str, allow: str, open_: bool) -> None:
    own = ("codex.example.com", "1.1.1.1")
    egress = Egress((allow,), resolving_to("1.1.1.1"), own)
    if open_:
        assert await egress.addresses(host, 443) == ["1.1.1.1"]
    else:
        with pytest.raises(BlockedAddress):
            await egress.addresses(host, 443)


async def test_loopback_is_refused_at_connect_time() -> None:
    async with serve(never_reached) as web, Egress().client() as client:
        with pytest.raises(BlockedAddress):
            await client.get(web.url)
        with pytest.raises(BlockedAddress):
            await client.get(f"http://localhost:{web.port}")
    assert not web.exchanges


@pytest.mark.parametrize(
    "answers",
    [
        *(["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["::1"], ["::ffff:127.0.0.1"]),
        *(["fe80::1%lo"], ["64:ff9b::7f00:1"], ["169.254.169.254"], ["2002:7f00:1::"]),
    ],
)
async def test_a_name_with_one_bad_address_is_refused(answers: list[str]) -> None:
    async with (
        serve(never_reached) as web,
        Egress(resolve=resolving_to(*answers)).client() as client,
    ):
        with pytest.raises(BlockedAddress) as refused:
            await client.get(f"http://rebind.example:{web.port}")
    assert refused.value.body()["code"] == "VALIDATION_ERROR"
    assert refused.value.status == 422
    assert isinstance(refused.value, CodexError)


async def test_a_name_is_looked_up_once_and_that_address_is_used() -> None:
    lookups = []

    async def rebinding(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"] if len(lookups) == 1 else ["10.0.0.1"]

    async with serve(hello) as web, Egress(LOOPBACK, rebinding).client() as client:
        answer = await client.get(f"http://name.example:{web.port}/x")
    assert answer.text == "hello"
    assert lookups == ["name.example"]
    assert web.exchanges[0].header("host") == f"name.example:{web.port}"


async def test_another_address_is_tried_when_the_first_does_not_answer() -> None:
    egress = Egress(LOOPBACK, resolving_to("127.0.0.99", "127.0.0.1"))
    async with serve(hello) as web, egress.client() as client:
        assert (await client.get(f"http://name.example:{web.port}")).text == "hello"


async def test_what_is_not_ascii_is_encoded_after_the_host() -> None:
    async with serve(hello) as web, Egress(LOOPBACK).client() as client:
        await client.get(web.url + '/ä b?q={"x"}')
    assert web.exchanges[0].head.startswith("GET /%C3%A4%20b?q={%22x%22} HTTP/1.1")


async def test_the_system_resolver_is_asked_by_default() -> None:
    async with serve(hello) as web, Egress((*LOOPBACK, "::1/128")).client() as client:
        assert (await client.get(f"http://localhost:{web.port}")).text == "hello"


async def test_a_name_that_does_not_resolve_is_a_connect_error() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    for resolve in (nowhere, resolving_to()):
        async with Egress(resolve=resolve).client() as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get("http://name.example")


async def test_a_slow_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(host: str, port: int) -> list[str]:
        await anyio.sleep_forever()

    monkeypatch.setattr("kernel.outbound.RESOLVE_S", 0.01)
    async with Egress(resolve=slow).client() as client:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.get("http://name.example")


async def test_a_name_is_looked_up_once_at_a_time() -> None:
    asked, go = 0, anyio.Event()

    async def count(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        await go.wait()
        return ["93.184.215.14"]

    egress = Egress(resolve=count)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(egress.addresses, "a.example", 443)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert asked == 1
    await egress.addresses("a.example", 443)
    assert asked == 2, "nothing is remembered"


async def test_slow_names_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two places one is held by a name that nobody waits for any more; with none left others are given up."""

    async def resolve(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            await anyio.sleep_forever()
        return ["93.184.215.14"]

    monkeypatch.setattr("kernel.outbound.RESOLVE_S", 0.02)
    lookups = Lookups(resolve, places=2)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await lookups.addresses("slow.example", 443)
    assert await lookups.addresses("a.example", 443) == ["93.184.215.14"]
    for host in ("slow2.example", "a.example"):
        with pytest.raises(TimeoutError):
            await lookups.addresses(host, 443)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async def elsewhere(exchange: Exchange) -> None:
        await exchange.answer(status, b"", "location: http://169.254.169.254/latest")

    async with serve(elsewhere) as web, Egress(LOOPBACK).client() as client:
        answer = await client.get(web.url)
        assert answer.status_code == status
        with pytest.raises(BlockedAddress):
            await client.get(web.url, follow_redirects=True)


async def test_the_environment_and_cookies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    async with serve(hello) as web, Egress(LOOPBACK).client() as client:
        await client.get(web.url)
        await client.get(web.url)
    assert [exchange.header("cookie") for exchange in web.exchanges] == [None, None]
    assert web.exchanges[0].header("accept-encoding") == "identity"


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context whose certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "name.example")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2099, 1, 1))
    )
    names = x509.SubjectAlternativeName([x509.DNSName("name.example")])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def test_tls_names_the_host_and_verifies_its_certificate(tmp_path: Path) -> None:
    tls, asked_for = self_signed(tmp_path), []
    tls.sni_callback = lambda _, name, __: asked_for.append(name)
    egress = Egress(LOOPBACK, resolving_to("127.0.0.1"))
    async with serve(never_reached, tls) as web, egress.client() as client:
        with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
            await client.get(f"https://name.example:{web.port}")
    assert asked_for == ["name.example"]


async def test_an_answer_is_read_up_to_the_bound() -> None:
    async with serve(hello) as web, Egress(LOOPBACK).client() as client:
        async with client.stream("GET", web.url) as response:
            body = await read_body(response, 5)
        assert (body.data, body.truncated) == (b"hello", False)
        async with client.stream("GET", web.url) as response:
            body = await read_body(response, 4)
        assert (body.data, body.truncated) == (b"hell", True)


async def test_an_endless_answer_is_cut() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.events()
        while True:
            await exchange.send(bytes(65_536))

    async with (
        serve(endless) as web,
        Egress(LOOPBACK).client() as client,
        client.stream("GET", web.url) as response,
    ):
        body = await read_body(response, 100_000)
    assert len(body.data) == 100_000
    assert body.truncated


async def test_a_compressed_answer_is_refused() -> None:
    async def bomb(exchange: Exchange) -> None:
        await exchange.answer(200, gzip.compress(bytes(10_000_000)), "content-encoding: gzip")

    async with (
        serve(bomb) as web,
        Egress(LOOPBACK).client() as client,
        client.stream("GET", web.url) as response,
    ):
        with pytest.raises(httpx2.DecodingError):
            await read_body(response, 64_000)


async def test_huge_answer_headers_are_refused() -> None:
    async def headers(exchange: Exchange) -> None:
        await exchange.answer(200, b"", "x: " + "a" * 1_000_000)

    async with serve(headers) as web, Egress(LOOPBACK).client() as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(web.url)
