"""The OpenAI-compatible provider against a real server that misbehaves as scripted."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import orjson
import pytest

from kernel.clock import ManualClock
from kernel.errors import ProviderError
from kernel.models.breaker import Breaker
from kernel.models.openai import Endpoint, OpenAIChat, Pace
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta, Tokens
from kernel.models.sse import EventReader, Patience, TooLarge
from kernel.outbound import Egress
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio

KEY = "sk-CANARY0123456789"
REQUEST = ChatRequest("m-1", (Message("user", "Hi there"),), "exec_1:llm1")


def delta(text: str | None = None, finish: str | None = None, **more: object) -> bytes:
    return orjson.dumps(
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]} | more
    )


USAGE = orjson.dumps(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
)
WHOLE = (delta("Hel"), delta("lo"), delta(None, "stop"), USAGE, b"[DONE]")


class Rig:
    """The model under test with a clock that stands still and a sleep that only writes down."""

    def __init__(self, patience: Patience = Patience()):
        self.clock = ManualClock()
        self.slept: list[float] = []
        self.breaker = Breaker(self.clock)
        self.pace = Pace(self.clock, patience, self.sleep, jitter=lambda: 0.0)
        self.client = Egress(("127.0.0.0/8",)).client(httpx2.Timeout(5.0))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def model(self, web: Web, **dialect: object) -> OpenAIChat:
        endpoint = Endpoint("acme", web.url + "/v1", KEY, **dialect)
        return OpenAIChat(endpoint, self.client, self.breaker, self.pace)

    async def said(self, web: Web, request: ChatRequest = REQUEST) -> list[TextDelta | Finish]:
        return [item async for item in self.model(web).stream(request)]

    async def failed(self, web: Web) -> tuple[ProviderError, list[TextDelta | Finish]]:
        items: list[TextDelta | Finish] = []
        try:
            async for item in self.model(web).stream(REQUEST):
                items.append(item)  # noqa: PERF401 (a comprehension loses what came before the failure)
        except ProviderError as exc:
            return exc, items
        raise AssertionError("it did not fail")


@pytest.fixture
async def rig():
    rig = Rig()
    yield rig
    await rig.client.aclose()


def sending(*data: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.events(*data)

    return answer


def refusing(status: int, body: bytes = b"", *headers: str, times: int = 100):
    """Answers `status` so many times, then a whole answer."""

    async def answer(exchange: Exchange) -> None:
        nonlocal times
        times -= 1
        if times >= 0:
            await exchange.answer(status, body, *headers)
        else:
            await exchange.events(*WHOLE)

    return answer


async def test_streams_text_and_counts_tokens(rig: Rig) -> None:
    async with serve(sending(*WHOLE)) as web:
        items = await rig.said(web)
    assert items == [TextDelta("Hel"), TextDelta("lo"), Finish("stop", Tokens(9, 2, 4))]


async def test_sends_what_the_api_expects(rig: Rig) -> None:
    request = ChatRequest(
        "m-1",
        (Message("system", "Be brief"), Message("user", "What is it?", ("data:image/png;base64,AA",))),
        "exec_1:llm1",
        temperature=0.5,
        max_tokens=7,
        response_schema={"type": "object"},
    )
    async with serve(sending(*WHOLE)) as web:
        await rig.said(web, request)
    exchange = web.exchanges[0]
    assert exchange.head.startswith("POST /v1/chat/completions HTTP/1.1")
    assert exchange.header("idempotency-key") == "exec_1:llm1"
    assert exchange.header("authorization") == f"Bearer {KEY}"
    assert exchange.json == {
        "model": "m-1",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}},
        },
        "messages": [
            {"role": "system", "content": "Be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                ],
            },
        ],
    }


async def test_speaks_dialects(rig: Rig) -> None:
    async with serve(sending(*WHOLE)) as web:
        model = rig.model(web, max_tokens_field="max_completion_tokens", stream_options=False)
        request = ChatRequest("m-1", (Message("user", "Hi"),), "k", max_tokens=3)
        assert [item async for item in model.stream(request)]
    assert web.exchanges[0].json == {
        "model": "m-1",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 3,
    }


@pytest.mark.parametrize(
    ("given", "reason"), [("length", "length"), ("content_filter", "content_filter"), ("tool_calls", "other")]
)
async def test_tells_why_it_ended(rig: Rig, given: str, reason: str) -> None:
    async with serve(sending(delta("x", given), USAGE, b"[DONE]")) as web:
        assert (await rig.said(web))[-1] == Finish(reason, Tokens(9, 2, 4))


async def test_estimates_tokens_when_none_are_sent(rig: Rig) -> None:
    async with serve(sending(delta("twelve bytes"), delta(None, "stop"), b"[DONE]")) as web:
        assert (await rig.said(web))[-1] == Finish("stop", Tokens(2, 3))


async def test_takes_any_cut_of_the_bytes(rig: Rig) -> None:
    text = "zażółć 🦆"
    stream = b"\xef\xbb\xbf: hello\r\nevent: x\r\ndata: " + delta(text) + b"\r\n\r\n"
    stream += b"data:" + delta(None, "stop") + b"\n\ndata: [DONE]\n\n"

    async def one_byte_at_a_time(exchange: Exchange) -> None:
        await exchange.events()
        for byte in stream:
            await exchange.send(bytes([byte]))

    async with serve(one_byte_at_a_time) as web:
        assert (await rig.said(web))[0] == TextDelta(text)


BROKEN = {
    "cut in an event": (delta("a"), b'{"choices":[{"index":0,"del'),
    "no [DONE]": (delta("a"), delta(None, "stop"), USAGE),
    "no reason": (delta("a"), b"[DONE]"),
    "garbage": (delta("a"), b"%%%"),
    "not an object": (delta("a"), b"[1,2]"),
    "invalid UTF-8": (delta("a"), b'{"choices":[{"index":0,"delta":{"content":"\xff"}}]}'),
    "lone surrogate": (delta("a"), rb'{"choices":[{"index":0,"delta":{"content":"\ud800"}}]}'),
    "byte order mark in an event": (delta("a"), b"\xef\xbb\xbf" + delta("b")),
    "two choices": (delta("a"), b'{"choices":[{"index":0,"delta":{}},{"index":0,"delta":{}}]}'),
    "another index": (delta("a"), b'{"choices":[{"index":1,"delta":{"content":"x"}}]}'),
    "NaN tokens": (delta("a"), b'{"choices":[],"usage":{"prompt_tokens":NaN,"completion_tokens":1}}'),
    "negative tokens": (delta("a"), b'{"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":1}}'),
    "absurd tokens": (delta("a"), b'{"choices":[],"usage":{"prompt_tokens":1e30,"completion_tokens":1}}'),
    "text tokens": (delta("a"), b'{"choices":[],"usage":{"prompt_tokens":"7","completion_tokens":1}}'),
    "content is a number": (delta("a"), b'{"choices":[{"index":0,"delta":{"content":7}}]}'),
    "nested too deep": (delta("a"), b'{"error":' + b"[" * 5000),
    "an error event": (delta("a"), b'{"error":{"message":"overloaded"}}'),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_never_finished(rig: Rig, data: tuple[bytes, ...]) -> None:
    async with serve(sending(*data)) as web:
        error, items = await rig.failed(web)
    assert items == [TextDelta("a")]
    assert error.details["provider"] == "acme"
    assert len(web.exchanges) == 1, "what was partly said is not asked again"


async def test_an_event_without_its_end_is_cut(rig: Rig) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.events(delta("a"))
        await exchange.send(b"data: [DONE]")

    async with serve(cut) as web:
        error, _ = await rig.failed(web)
    assert error.details["kind"] == "fault"
    assert error.can_retry


async def test_html_with_status_200_is_refused(rig: Rig) -> None:
    async def html(exchange: Exchange) -> None:
        await exchange.answer(200, b"<html>sign in</html>", "content-type: text/html")

    async with serve(html) as web:
        error, items = await rig.failed(web)
    assert (items, error.details["kind"], error.can_retry) == ([], "malformed", False)


async def test_an_endless_line_is_cut_off(rig: Rig) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.events()
        while True:
            await exchange.send(b"x" * 65_536)

    async with serve(endless) as web:
        error, _ = await rig.failed(web)
    assert error.details["kind"] == "malformed"


def test_the_bound_counts_all_bytes() -> None:
    reader = EventReader(max_bytes=20)
    assert reader.feed(b"data: a\n\n") == [b"a"]
    assert reader.feed(b"data: b\ndata: c\n\n"[:11]) == []
    with pytest.raises(TooLarge):
        reader.feed(b"x")


@pytest.mark.parametrize("status", [500, 502, 503, 529, 429])
async def test_tries_again_while_nothing_was_said(rig: Rig, status: int) -> None:
    async with serve(refusing(status, times=4)) as web:
        items = await rig.said(web)
    assert items[-1] == Finish("stop", Tokens(9, 2, 4))
    assert rig.slept == [0.25, 0.5, 1.0, 2.0]
    assert {exchange.header("idempotency-key") for exchange in web.exchanges} == {"exec_1:llm1"}


async def test_gives_up_after_five_attempts(rig: Rig) -> None:
    async with serve(refusing(429, b'{"error":{"message":"slow down"}}', "retry-after: 2")) as web:
        error, items = await rig.failed(web)
    assert (len(web.exchanges), items) == (5, [])
    assert (error.can_retry, error.retry_after) == (True, 2.0)
    assert str(error) == "Provider 'acme' answered 429: slow down"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("2", 2.0), ("0", 0.0), ("1000000000", 60.0), ("-5", 0.0), ("inf", 60.0), ("1.5", 1.5)),
        *(("nan", 0.25), ("soon", 0.25), ("", 0.25)),
        *(("Fri, 15 Jan 2027 08:00:10 GMT", 10.0), ("Fri, 15 Jan 2000 08:00:10 GMT", 0.0)),
    ],
)
async def test_waits_as_long_as_it_is_asked(rig: Rig, header: str, seconds: float) -> None:
    async with serve(refusing(429, b"", f"retry-after: {header}", times=1)) as web:
        await rig.said(web)
    assert rig.slept == [seconds]


async def test_a_reset_connection_is_tried_again(rig: Rig) -> None:
    async def reset_once(exchange: Exchange) -> None:
        if len(web.exchanges) == 1:
            exchange.reset()
        elif len(web.exchanges) == 2:
            await exchange.events()
        else:
            await exchange.events(*WHOLE)

    async with serve(reset_once) as web:
        assert (await rig.said(web))[-1] == Finish("stop", Tokens(9, 2, 4))
    assert len(web.exchanges) == 3


async def test_a_refusal_is_final_and_keeps_the_key_secret(rig: Rig) -> None:
    words = f"Incorrect key {KEY} or sk-CAN***6789, Bearer abc.def\n<b>x</b> " + "long " * 200
    body = orjson.dumps({"error": {"message": words}})
    async with serve(refusing(401, body)) as web:
        error, _ = await rig.failed(web)
    assert (len(web.exchanges), error.can_retry) == (1, False)
    assert str(error).startswith(
        "Provider 'acme' answered 401: Incorrect key [redacted] or [redacted], [redact"
    )
    assert "CANARY" not in repr(error) + str(error.body())
    assert len(str(error)) < 350


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error":7}', b"\xff" * 70_000, b'{"error":{"code":1}}']
)
async def test_a_refusal_without_words_still_has_its_status(rig: Rig, body: bytes) -> None:
    async with serve(refusing(400, body)) as web:
        error, _ = await rig.failed(web)
    assert str(error) == "Provider 'acme' answered 400"


async def test_a_redirect_is_a_refusal(rig: Rig) -> None:
    async with serve(refusing(307, b"", "location: http://169.254.169.254/")) as web:
        error, _ = await rig.failed(web)
    assert (error.details["kind"], len(web.exchanges)) == ("refused", 1)


async def test_an_address_that_is_not_allowed_is_a_refusal() -> None:
    rig = Rig()
    rig.client = Egress().client()
    async with rig.client, serve(sending(*WHOLE)) as web:
        error, _ = await rig.failed(web)
    assert "CODEXOS_EGRESS_ALLOW" in str(error)
    assert (error.can_retry, web.exchanges) == (False, [])


async def silent(exchange: Exchange) -> None:
    await exchange.closed.wait()


async def silent_after_headers(exchange: Exchange) -> None:
    await exchange.events()
    await exchange.closed.wait()


async def silent_after_a_word(exchange: Exchange) -> None:
    await exchange.events(delta("a"))
    await exchange.closed.wait()


@pytest.mark.parametrize(
    ("answer", "patience"),
    [
        (silent, Patience(first_byte_s=0.5)),
        (silent_after_headers, Patience(first_byte_s=0.5)),
        (silent_after_a_word, Patience(idle_s=0.5)),
    ],
)
async def test_silence_is_given_up(answer: Callable[[Exchange], Awaitable[None]], patience: Patience) -> None:
    rig = Rig(patience)
    async with rig.client, serve(answer) as web:
        error, _ = await rig.failed(web)
        await asyncio.wait_for(web.exchanges[0].closed.wait(), 10)
    assert (error.details["kind"], error.can_retry, rig.slept) == ("timeout", True, [])


async def test_cancelling_hangs_up_at_once(rig: Rig) -> None:
    async with serve(silent_after_a_word) as web:
        started = asyncio.Event()

        async def listen() -> None:
            async for _ in rig.model(web).stream(REQUEST):
                started.set()

        task = asyncio.create_task(listen())
        await started.wait()
        task.cancel()
        await asyncio.wait_for(web.exchanges[0].closed.wait(), 10)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_the_stream_hangs_up_at_once(rig: Rig) -> None:
    async with serve(silent_after_a_word) as web:
        stream = rig.model(web).stream(REQUEST)
        assert await anext(stream) == TextDelta("a")
        await stream.aclose()
        await asyncio.wait_for(web.exchanges[0].closed.wait(), 10)
    assert rig.slept == []


async def test_the_breaker_opens_and_a_probe_closes_it(rig: Rig) -> None:
    async with serve(refusing(500, times=6)) as web:
        await rig.failed(web)
        error, _ = await rig.failed(web)
        assert (error.details["kind"], error.can_retry, error.retry_after) == ("open", True, 10.0)
        assert len(web.exchanges) == 5
        rig.clock.advance(10_000)
        error, _ = await rig.failed(web)
        assert len(web.exchanges) == 6, "the probe failed and the breaker stays open"
        rig.clock.advance(10_000)
        assert (await rig.said(web))[-1] == Finish("stop", Tokens(9, 2, 4))
        assert (await rig.said(web))[-1] == Finish("stop", Tokens(9, 2, 4))


def test_a_probe_that_never_comes_back_does_not_keep_the_breaker_open() -> None:
    clock = ManualClock()
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.failed()
    clock.advance(10_000)
    assert breaker.wait_s() == 0.0
    assert breaker.wait_s() == 10.0
    clock.advance(10_000)
    assert breaker.wait_s() == 0.0


def test_failures_far_apart_do_not_open_the_breaker() -> None:
    clock = ManualClock()
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.failed()
        clock.advance(8_000)
    assert breaker.wait_s() == 0.0
