import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from kernel.errors import NodeError, ProviderError, RateLimitError
from kernel.models.scripted import ScriptedModel
from kernel.models.seam import ChatModel, ChatRequest, Finish, ModelInfo, TextDelta, Tokens
from kernel.nodes.contract import ModelUse
from kernel.nodes.llm import LlmConfig, LlmNode
from kernel.nodes.sandbox import Sandbox
from tests.calls import Calls, RecordedCall

pytestmark = pytest.mark.anyio


class Recorder:
    """Passes requests on to the scripted model and keeps them."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self._model = ScriptedModel(Calls())

    def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        self.requests.append(request)
        return self._model.stream(request)


class Models:
    """Knows `scripted`, at a dollar for a million tokens."""

    def __init__(self, model: ChatModel):
        self._model = model

    def list(self) -> list[ModelInfo]:
        return [ModelInfo("scripted", "scripted", "scripted", "chat")]

    def check(self, model_id: str) -> str | None:
        return None if model_id in ("scripted", "gpt-4") else f"Model '{model_id}' is not supported"

    def credential(self, model_id: str) -> str | None:
        return None

    def chat(self, model_id: str, key: str | None = None) -> tuple[ChatModel, str]:
        if reason := self.check(model_id):
            raise ProviderError(reason)
        return self._model, model_id

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        return (tokens.input + tokens.output) / 1e6 if model_id == "scripted" else None


MODELS = Models(Recorder())
IDLE = LlmNode(MODELS, Sandbox())


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def node(recorder: Recorder) -> AsyncIterator[LlmNode]:
    sandbox = Sandbox()
    yield LlmNode(Models(recorder), sandbox)
    sandbox.close()


def config(**fields: Any) -> LlmConfig:
    return LlmConfig.model_validate({"model": "scripted", "prompt": "Say {{ input.word }}"} | fields)


def script(reply: str, **more: Any) -> dict[str, Any]:
    return {"reply": reply, "usage": {"input": 10, "output": 5}, **more}


async def test_streams_and_bills(node: LlmNode, recorder: Recorder) -> None:
    call = RecordedCall({"word": "hi"}, idempotency_key="key")
    outcome = await node.run(config(script=script("Well, hi there"), system="Be {{ input.word }}"), call)
    assert outcome.output == "Well, hi there" == "".join(call.tokens)
    assert len(call.tokens) > 1
    assert call.uses == [ModelUse("scripted", Tokens(10, 5), 15e-6)]
    (request,) = recorder.requests
    assert [(m.role, m.content) for m in request.messages] == [("system", "Be hi"), ("user", "Say hi")]
    assert request.idempotency_key == "key"
    assert request.max_tokens == 4096


async def test_a_prompt_without_placeholders_gets_the_input_as_json(
    node: LlmNode, recorder: Recorder
) -> None:
    await node.run(config(prompt="Review this"), RecordedCall({"code_snippet": "a + b"}))
    await node.run(config(prompt="Review this"), RecordedCall("text"))
    await node.run(config(prompt="Review this"), RecordedCall(None))
    assert [request.messages[0].content for request in recorder.requests] == [
        'Review this\n\n{"code_snippet":"a + b"}',
        'Review this\n\n"text"',
        "Review this",
    ]


async def test_what_the_input_says_is_not_read_again(node: LlmNode, recorder: Recorder) -> None:
    await node.run(config(), RecordedCall({"word": "{{ nodes.a.output }}"}))
    assert recorder.requests[0].messages[0].content == "Say {{ nodes.a.output }}"


@pytest.mark.parametrize(
    ("wanted", "left", "sent"), [(100, None, 100), (100, 30, 30), (None, 30, 30), (10, 30, 10)]
)
async def test_the_smaller_bound_counts(
    node: LlmNode, recorder: Recorder, wanted: int | None, left: int | None, sent: int
) -> None:
    await node.run(config(max_tokens=wanted), RecordedCall({"word": "x"}, tokens_left=left))
    assert recorder.requests[0].max_tokens == sent


async def test_no_tokens_or_budget_left_means_no_call(node: LlmNode, recorder: Recorder) -> None:
    with pytest.raises(RateLimitError):
        await node.run(config(), RecordedCall({"word": "x"}, tokens_left=0))
    call = RecordedCall({"word": "x"}, budget_usd=0.001)
    with pytest.raises(RateLimitError):
        await node.run(config(max_tokens=1000), call)
    assert recorder.requests == []
    await node.run(config(max_tokens=900), RecordedCall({"word": "x"}, budget_usd=0.001))


async def test_the_worst_case_covers_what_is_used(node: LlmNode) -> None:
    call = RecordedCall({"word": "many words " * 200})
    await node.run(config(max_tokens=50), call)
    (worst,) = call.worst_costs
    assert worst is not None
    assert call.uses[0].cost is not None
    assert worst >= call.uses[0].cost


async def test_an_answer_cut_short_is_logged(node: LlmNode) -> None:
    call = RecordedCall({"word": "x"})
    await node.run(config(max_tokens=2, script={"reply": "a b c d"}), call)
    assert call.logs == [("warning", "The model ended early: length")]


SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


async def test_a_structured_answer_is_parsed(node: LlmNode) -> None:
    outcome = await node.run(
        config(response_schema=SCHEMA, script=script('{"score": 4}')), RecordedCall({"word": ""})
    )
    assert outcome.output == {"score": 4}


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("no json", "is no JSON"),
        ('{"score": "4"}', r"does not fit.*\$\.score"),
        ("{}", "does not fit"),
        ("NaN", "JSON"),
    ],
)
async def test_a_structured_answer_must_fit(node: LlmNode, reply: str, words: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        await node.run(config(response_schema=SCHEMA, script=script(reply)), RecordedCall({"word": ""}))
    assert caught.value.can_retry


@pytest.mark.parametrize("failing", ["429", "500", "cut", "garbage"])
async def test_failures_of_the_provider_come_through_and_pass(node: LlmNode, failing: str) -> None:
    failing_config = config(script=script("fine now", fail=[failing]))
    with pytest.raises(ProviderError):
        await node.run(failing_config, RecordedCall({"word": ""}))
    assert (await node.run(failing_config, RecordedCall({"word": ""}))).output == "fine now"


class Unfinished:
    """Ends without a word of why, and notes whether it was closed."""

    def __init__(self, hang: bool):
        self._hang = hang
        self.closed = asyncio.Event()
        self.begun = asyncio.Event()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        try:
            yield TextDelta("half")
            self.begun.set()
            if self._hang:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


HALF = ModelUse("scripted", Tokens(1, 1), 2e-6)
"""The estimate of the prompt "Say " and the answer "half"."""


async def test_a_stream_without_an_end_is_an_error() -> None:
    call = RecordedCall({"word": ""})
    with pytest.raises(ProviderError, match="broke off") as caught:
        await LlmNode(Models(Unfinished(False)), Sandbox()).run(config(), call)
    assert caught.value.can_retry
    assert call.uses == [HALF]


@pytest.mark.parametrize(
    ("failing", "billed"), [("429", []), ("500", []), ("hang", [4]), ("cut", [5]), ("garbage", [4])]
)
async def test_only_what_the_provider_refused_is_free(failing: str, billed: list[int]) -> None:
    async def no_time(_: float) -> None: ...

    call = RecordedCall({"word": "many words"})
    model = ScriptedModel(Calls(), no_time)
    with pytest.raises(ProviderError):
        await LlmNode(Models(model), Sandbox()).run(config(script=script("one two", fail=[failing])), call)
    assert [use.tokens.input + use.tokens.output for use in call.uses] == billed


async def test_cancelling_closes_the_stream() -> None:
    model = Unfinished(True)
    call = RecordedCall({"word": ""})
    running = asyncio.create_task(LlmNode(Models(model), Sandbox()).run(config(), call))
    await model.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert model.closed.is_set()
    assert call.uses == [HALF]


async def test_what_is_missing_is_an_error(node: LlmNode, recorder: Recorder) -> None:
    with pytest.raises(NodeError, match=r"input\.word"):
        await node.run(config(), RecordedCall({}))
    with pytest.raises(ProviderError, match="not supported"):
        await node.run(config(model="gpt-9"), RecordedCall({"word": ""}))
    with pytest.raises(NodeError, match="https://"):
        await node.run(config(images=["file:///etc/passwd"]), RecordedCall({"word": ""}))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"model": "gpt-5"}, "model", "Model 'gpt-5' is not supported"),
        ({"prompt": "{{config}}"}, "prompt", "unknown variable 'config'"),
        ({"system": "{{7*7}}"}, "system", "not a plain path"),
        ({"prompt": "{{ secrets.KEY }}"}, "prompt", "must not be told a secret"),
        ({"response_schema": {"type": "objekt"}}, "response_schema.type", "not valid in JSON Schema"),
        (
            {"response_schema": {"properties": {"a": {"minimum": "1"}}}},
            "response_schema.properties.a.minimum",
            "not valid",
        ),
        ({"response_schema": {"enum": ["x" * 70_000]}}, "response_schema", "larger than 64 KB"),
        ({"response_schema": {"pattern": "a{99999999999}"}}, "response_schema", "regular expression"),
        ({"response_schema": {"allOf": [{}], "$ref": "#/allOf/x"}}, "response_schema", "leads to no schema"),
        ({"images": ["https://x/y.png", "http://x/y.png"]}, "images[1]", "https://"),
        ({"script": {"reply": 1}}, "script.reply", "string"),
        ({"script": {"replies": "x"}}, "script.replies", "Extra"),
        ({"script": {"fail": ["boom"]}}, "script.fail[0]", "Input should be"),
        ({"model": "gpt-4", "script": {}}, "script", "only the model 'scripted'"),
    ],
)
def test_refuses_at_write_time(fields: dict[str, Any], field: str, words: str) -> None:
    found = IDLE.check(config(**fields), MODELS)
    assert [problem.field for problem in found] == [field]
    assert words in found[0].reason


def test_sound_configs() -> None:
    for fields in (
        {},
        {"model": "{{ input.model }}"},
        {"response_schema": SCHEMA},
        {"images": ["{{ input.image }}", "data:image/png;base64,AA=="]},
        {"script": {"reply": "x", "delay_ms": 5}},
        {"prompt": "{% for %} is text here, and }} too"},
    ):
        assert IDLE.check(config(**fields), MODELS) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"model": ""},
        {"temperature": 3},
        {"temperature": float("nan")},
        {"temperature": True},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"max_tokens": "10"},
        {"images": ["https://x"] * 17},
        {"response_schema": []},
        {"stream": True},
    ],
)
def test_config_is_strict(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**fields)


def test_references() -> None:
    found = IDLE.references(
        config(system="{{ nodes.a.output }}", prompt="{{ nodes.b.output }} {{ input.x }}")
    )
    assert [(one.field, one.path.text) for one in found] == [
        ("system", "nodes.a.output"),
        ("prompt", "nodes.b.output"),
        ("prompt", "input.x"),
    ]
