from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from kernel.errors import NodeError, NodeTimeout, ProviderError
from kernel.nodes.http import HttpConfig, HttpNode
from kernel.outbound import Egress
from tests.calls import MODELS, RecordedCall
from tests.web import Exchange, serve

pytestmark = pytest.mark.anyio

NODE = HttpNode(Egress(allow=("127.0.0.0/8",)))


def config(**fields: Any) -> HttpConfig:
    return HttpConfig.model_validate({"url": "https://example.com/"} | fields)


def answering(status: int = 200, body: bytes = b"", *headers: str) -> Callable[[Exchange], Awaitable[None]]:
    return lambda exchange: exchange.answer(status, body, *headers)


async def test_sends_json_and_parses_the_answer() -> None:
    async with serve(answering(201, b'{"id": 7}', "content-type: application/json", "x-a: b")) as web:
        sent = config(method="POST", url=f"{web.url}/t?q=1", headers={"X-Key": "k"}, body={"a": [1, "é"]})
        outcome = await NODE.run(sent, RecordedCall(idempotency_key="once"))
    assert outcome.output["status"] == 201
    assert outcome.output["body"] == {"id": 7}
    assert outcome.output["headers"]["x-a"] == "b"
    (exchange,) = web.exchanges
    assert exchange.head.startswith("POST /t?q=1 HTTP/1.1")
    assert exchange.json == {"a": [1, "é"]}
    assert exchange.header("x-key") == "k"
    assert exchange.header("content-type") == "application/json"
    assert exchange.header("idempotency-key") == "once"


async def test_text_goes_and_comes_as_it_is() -> None:
    async with serve(answering(200, "naïve".encode(), "content-type: text/plain")) as web:
        outcome = await NODE.run(config(method="PUT", url=web.url, body="raw"), RecordedCall())
    assert outcome.output["body"] == "naïve"
    assert web.exchanges[0].body == b"raw"


async def test_a_get_has_no_body_and_no_idempotency_key() -> None:
    async with serve(answering(200, b"not json", "content-type: application/json")) as web:
        outcome = await NODE.run(config(url=web.url), RecordedCall())
    assert outcome.output["body"] == "not json"
    assert web.exchanges[0].header("idempotency-key") is None
    assert web.exchanges[0].body == b""


@pytest.mark.parametrize(
    ("status", "headers", "can_retry", "retry_after"),
    [
        (429, ("retry-after: 2",), True, 2),
        (429, ("retry-after: 1000000000",), True, None),
        (429, ("retry-after: 999999999",), True, 60),
        (429, ("retry-after: -1",), True, None),
        (503, (), True, None),
        (500, (), True, None),
        (404, (), False, None),
        (302, ("location: http://169.254.169.254/",), False, None),
    ],
)
async def test_statuses_not_expected(
    status: int, headers: tuple[str, ...], can_retry: bool, retry_after: float | None
) -> None:
    async with serve(answering(status, b"secret page", *headers)) as web:
        with pytest.raises(ProviderError, match=f"status {status}, not 2xx") as caught:
            await NODE.run(config(url=web.url), RecordedCall())
    assert (caught.value.can_retry, caught.value.retry_after) == (can_retry, retry_after)
    assert caught.value.details == {"status": status}


@pytest.mark.parametrize("expect", ["4xx", [200, 404]])
async def test_statuses_that_are_expected(expect: Any) -> None:
    async with serve(answering(404)) as web:
        outcome = await NODE.run(config(url=web.url, expect=expect), RecordedCall())
    assert outcome.output["status"] == 404


async def test_a_silent_host_is_a_timeout() -> None:
    async def silence(exchange: Exchange) -> None:
        await exchange.closed.wait()

    async with serve(silence) as web:
        with pytest.raises(NodeTimeout) as caught:
            await NODE.run(config(url=web.url, timeout_ms=50), RecordedCall())
    assert caught.value.can_retry


async def test_a_broken_connection_can_be_retried() -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    async with serve(reset) as web:
        with pytest.raises(ProviderError, match="connection broke") as caught:
            await NODE.run(config(url=web.url), RecordedCall())
    assert caught.value.can_retry
    with pytest.raises(ProviderError, match="could not be reached") as caught:
        await NODE.run(config(url=web.url), RecordedCall())
    assert caught.value.can_retry


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [(b"x" * (2**20 + 1), (), "larger than 1 MB"), (b"\x1f\x8b", ("content-encoding: gzip",), "Decoding")],
)
async def test_answers_too_large_or_compressed(body: bytes, headers: tuple[str, ...], words: str) -> None:
    async with serve(answering(200, body, *headers)) as web:
        with pytest.raises(ProviderError, match=words) as caught:
            await NODE.run(config(url=web.url), RecordedCall())
    assert not caught.value.can_retry


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8301/", "http://10.0.0.1/", "http://x y/", "file:///etc/passwd"]
)
async def test_what_may_not_be_reached_is_not(url: str) -> None:
    with pytest.raises(NodeError) as caught:
        await HttpNode(Egress()).run(config(url=url), RecordedCall())
    assert not caught.value.can_retry


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://example.com/a", False),
        ("https://example.com/{{ input.id }}?q={{ input.q }}", False),
        ("{{ input.url }}", False),
        ("https://{{ input.host }}/", False),
        ("https://example.com{{ input.path }}", False),
        ("http://127.0.0.1/{{ input.id }}", True),
        ("http://169.254.169.254/latest?x={{ input.id }}", True),
        ("http://user:pass@example.com/{{ input.id }}", True),
        ("ftp://example.com/{{ input.id }}", True),
        ("http://2130706433/", True),
        ("//example.com/", True),
    ],
)
def test_the_literal_part_of_a_url_is_checked_at_write_time(url: str, refused: bool) -> None:
    found = HttpNode(Egress()).check(config(url=url), MODELS)
    assert [problem.field for problem in found] == (["url"] if refused else [])


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"Host": "x"}},
        {"headers": {"transfer-encoding": "chunked"}},
        {"headers": {"Content-Length": "0"}},
        {"headers": {"CONNECTION": "close"}},
        {"headers": {"a b": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"a\r\nb": "x"}},
        {"headers": {"a": "x\r\nHost: y"}},
        {"headers": {"a": "x\n"}},
        {"headers": {"a": "\x00"}},
        {"headers": {"a": "é"}},
        {"headers": {"a": 1}},
        {"headers": {f"h{i}": "x" for i in range(65)}},
        {"headers": []},
        {"method": "CONNECT"},
        {"method": "get"},
        {"timeout_ms": 0},
        {"timeout_ms": 120_001},
        {"timeout_ms": 1.5},
        {"timeout_ms": True},
        {"expect": []},
        {"expect": "200"},
        {"expect": [99]},
        {"expect": ["200"]},
        {"url": ""},
        {"url": "https://example.com/" + "a" * 2048},
        {"verify": False},
    ],
)
def test_config_is_strict(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**fields)


def test_the_example_is_sound() -> None:
    assert HttpNode(Egress()).check(config(**orjson.loads(orjson.dumps(HttpNode.example))), MODELS) == []
