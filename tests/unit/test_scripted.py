"""The scripted model says what its script says and fails when told to."""

import asyncio

import pytest
from pydantic import ValidationError

from kernel.errors import ProviderError
from kernel.models.scripted import Script, ScriptedModel
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta, Tokens
from tests.calls import Calls

pytestmark = pytest.mark.anyio


class Sleeper:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def request(script: dict[str, object] | None = None, text: str = "Hello there, you", **more: object):
    messages = (Message("system", "Be brief"), Message("user", text), Message("assistant", "earlier"))
    return ChatRequest("scripted", messages, "exec_1:llm1", script=script or {}, **more)


async def said(script: dict[str, object], **more: object) -> tuple[list[str], Finish]:
    *deltas, finish = [item async for item in ScriptedModel(Calls()).stream(request(script, **more))]
    assert isinstance(finish, Finish)
    return [delta.text for delta in deltas], finish


async def test_echoes_the_last_user_message_word_by_word() -> None:
    pieces, finish = await said({})
    assert pieces == ["Hello", " there,", " you"]
    assert finish == Finish("stop", Tokens(input=8, output=3))
    assert await said({}) == (pieces, finish)


@pytest.mark.parametrize("text", ["", " ", " a  b\n", "one", "\n\n", "tail  "])
async def test_words_lose_no_character(text: str) -> None:
    assert "".join((await said({"reply": text}))[0]) == text


async def test_without_a_user_message_it_says_nothing() -> None:
    empty = ChatRequest("scripted", (), "k")
    assert [item async for item in ScriptedModel(Calls()).stream(empty)] == [Finish("stop", Tokens(0, 0))]


@pytest.mark.parametrize(
    ("script", "pieces", "output"),
    [
        ({"tokens": ["a", "b ", "c"]}, ["a", "b ", "c"], 3),
        ({"tokens": 3}, ["t0 ", "t1 ", "t2 "], 3),
        ({"reply": "abcdefg", "tokens": 3}, ["ab", "cd", "efg"], 3),
        ({"reply": "ab", "tokens": 500}, ["a", "b"], 500),
        ({"reply": "", "tokens": 2}, [], 2),
        ({"reply": "a b", "usage": {"input": 7, "output": 9}}, ["a", " b"], 9),
    ],
)
async def test_streams_as_the_script_says(script: dict[str, object], pieces: list[str], output: int) -> None:
    text, finish = await said(script)
    assert text == pieces
    assert finish.reason == "stop"
    assert finish.tokens.output == output


async def test_keeps_to_max_tokens() -> None:
    pieces, finish = await said({"tokens": 10}, max_tokens=4)
    assert (len(pieces), finish.reason, finish.tokens.output) == (4, "length", 4)
    pieces, finish = await said({"reply": "a b", "usage": {"input": 1, "output": 90}}, max_tokens=50)
    assert (pieces, finish) == (["a", " b"], Finish("length", Tokens(1, 50)))


async def test_waits_as_the_script_says() -> None:
    sleeper = Sleeper()
    script = {"tokens": 3, "delay_ms": 1000, "token_delay_ms": 20}
    items = [item async for item in ScriptedModel(Calls(), sleeper).stream(request(script))]
    assert len(items) == 4
    assert sleeper.slept == [1.0, 0.02, 0.02]


async def test_the_first_calls_fail_in_order() -> None:
    calls, sleeper = Calls(), Sleeper()
    script = {"reply": "a b c d", "fail": ["429", "500", "hang", "cut", "garbage"]}
    seen = []
    for _ in range(5):
        items = []
        try:
            async for item in ScriptedModel(calls, sleeper).stream(request(script)):
                items.append(item)  # noqa: PERF401 (a comprehension loses what came before the failure)
        except ProviderError as exc:
            seen.append((exc.details["kind"], exc.can_retry, items))
    said = [TextDelta("a"), TextDelta(" b")]
    assert seen == [
        ("limited", True, []),
        ("fault", True, []),
        ("timeout", True, []),
        ("fault", True, said),
        ("malformed", False, []),
    ]
    assert sleeper.slept == [60.0]
    *_, finish = [item async for item in ScriptedModel(calls).stream(request(script))]
    assert isinstance(finish, Finish)
    assert calls.seen == {"exec_1:llm1": 6}


async def test_a_hanging_call_can_be_cancelled() -> None:
    calls = Calls()
    script = {"fail": ["hang"]}

    async def call() -> None:
        async for _ in ScriptedModel(calls).stream(request(script)):
            raise AssertionError("a hanging call said something")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(), 0.01)
    assert calls.seen == {"exec_1:llm1": 1}


@pytest.mark.parametrize(
    "script",
    [
        *({"repl": "x"}, {"reply": 1}, {"tokens": 0}, {"tokens": True}, {"tokens": 1.5}, {"tokens": [1]}),
        *({"delay_ms": -1}, {"delay_ms": 600_001}, {"token_delay_ms": "5"}, {"usage": {"input": 1}}),
        *(
            {"usage": {"input": -1, "output": 0}},
            {"fail": "429"},
            {"fail": ["explode"]},
            {"fail": [[429]]},
            {"fail": ["500"] * 101},
        ),
        *({"reply": "a", "tokens": ["a"]}, {"tokens": 100_001}),
    ],
)
async def test_a_bad_script_is_refused(script: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Script.model_validate(script)
    calls = Calls()
    with pytest.raises(ProviderError, match="script is not valid") as refused:
        await anext(ScriptedModel(calls).stream(request(script)))
    assert not refused.value.can_retry
    assert not calls.seen


def test_numbers_name_failures_too() -> None:
    assert Script.model_validate({"fail": [429, 500]}).fail == ["429", "500"]
