"""The model `scripted`: says what its script says, fails when told to. For tests, demos and load.

Every call is counted under its idempotency key, whoever makes it: so a script's failures are spent once even
if the runner that met them died, and a test can see that no call was made twice. Owns no state itself.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic import ValidationError as SchemaError

from kernel.errors import ProviderError
from kernel.models.completion import estimate
from kernel.models.failure import Kind, failure
from kernel.models.seam import ChatRequest, Finish, TextDelta, Tokens
from kernel.models.sse import Patience

Failure = Literal["429", "500", "hang", "cut", "garbage"]
GivenFailure = Annotated[Failure, BeforeValidator(lambda given: str(given) if given in (429, 500) else given)]
MAX_PIECES = 100_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ScriptedUsage(_Part):
    input: int = Field(ge=0, le=10**9, description="input tokens the call reports")
    output: int = Field(ge=0, le=10**9, description="output tokens the call reports")


class Script(_Part):
    """What one node's calls do. Each field has a default: an empty script echoes the last user message.

    `tokens` says how the reply is streamed: a list is the pieces themselves (and the reply is all of them), a
    number is how many pieces the reply is cut into, or how many are made up when there is no reply. Absent,
    it is streamed word by word. What is reported as output tokens is `usage.output`, else that number, else
    the number of pieces.
    """

    reply: str | None = Field(None, max_length=1_000_000, description="the whole answer")
    tokens: (
        Annotated[int, Field(ge=1, le=MAX_PIECES)]
        | Annotated[list[Annotated[str, Field(max_length=10_000)]], Field(max_length=MAX_PIECES)]
        | None
    ) = Field(None, description="the pieces the answer is streamed in, or how many")
    delay_ms: int = Field(0, ge=0, le=600_000, description="wait before the first piece")
    token_delay_ms: int = Field(0, ge=0, le=60_000, description="wait before each further piece")
    usage: ScriptedUsage | None = Field(None, description="token counts to report")
    fail: list[GivenFailure] = Field(
        default_factory=list, max_length=100, description="what the first calls do instead of answering"
    )

    @model_validator(mode="after")
    def one_answer(self) -> "Script":
        if self.reply is not None and isinstance(self.tokens, list):
            raise ValueError("give the reply either as `reply` or as a list of `tokens`")
        return self

    def pieces(self, echo: str) -> list[str]:
        if isinstance(self.tokens, list):
            return self.tokens
        if isinstance(self.tokens, int):
            made_up = [f"t{n} " for n in range(self.tokens)]
            return made_up if self.reply is None else _cut(self.reply, self.tokens)
        return _words(echo if self.reply is None else self.reply)


class CallCounter(Protocol):
    async def next(self, key: str) -> int:
        """1 for the first call under this key, then 2, …; never the same number twice."""
        ...


class ScriptedModel:
    """A `ChatModel`."""

    def __init__(self, counter: CallCounter, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep):
        self._counter = counter
        self._sleep = sleep

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        script = _script(request.script)
        call = await self._counter.next(request.idempotency_key)
        failing = script.fail[call - 1] if call <= len(script.fail) else None
        if failing == "hang":
            await self._sleep(Patience().first_byte_s)
        if failing not in (None, "cut"):
            raise _FAILURES[failing]()
        pieces, finish = _answer(script, request)
        said = pieces[: len(pieces) // 2] if failing == "cut" else pieces
        await self._pause(script.delay_ms)
        for index, piece in enumerate(said):
            await self._pause(script.token_delay_ms if index else 0)
            yield TextDelta(piece)
        if failing == "cut":
            raise _FAILURES["cut"]()
        yield finish

    async def _pause(self, ms: int) -> None:
        if ms:
            await self._sleep(ms / 1000)


_FAILURES: dict[Failure, Callable[[], ProviderError]] = {
    "429": partial(failure, Kind.LIMITED, "scripted", "Provider 'scripted' answered 429: scripted"),
    "500": partial(failure, Kind.FAULT, "scripted", "Provider 'scripted' answered 500: scripted"),
    "hang": partial(failure, Kind.TIMEOUT, "scripted", "Provider 'scripted' did not answer in time"),
    "cut": partial(failure, Kind.FAULT, "scripted", "Provider 'scripted' broke off its answer"),
    "garbage": partial(
        failure, Kind.MALFORMED, "scripted", "Provider 'scripted' sent something that is no answer"
    ),
}


def _script(raw: dict[str, Any]) -> Script:
    try:
        return Script.model_validate(raw)
    except SchemaError as exc:
        field = ".".join(str(part) for part in exc.errors()[0]["loc"])
        raise failure(Kind.REFUSED, "scripted", f"The script is not valid at '{field}'") from exc


def _answer(script: Script, request: ChatRequest) -> tuple[list[str], Finish]:
    """Like any provider, it never says more than `max_tokens`, a piece being a token."""
    echo = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    pieces = script.pieces(echo)
    counted = script.tokens if isinstance(script.tokens, int) else len(pieces)
    usage = script.usage or ScriptedUsage(input=estimate(request, 0).input, output=counted)
    bound = request.max_tokens
    if bound is None or usage.output <= bound:
        return pieces, Finish("stop", Tokens(usage.input, usage.output))
    return pieces[:bound], Finish("length", Tokens(usage.input, bound))


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def _cut(text: str, count: int) -> list[str]:
    """Nearly equal pieces, none empty."""
    count = min(count, len(text))
    return [text[len(text) * n // count : len(text) * (n + 1) // count] for n in range(count)]
