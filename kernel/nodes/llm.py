"""The node type `llm`: one chat completion, streamed as it comes.

The prompt is a template of its own kind of care: it may read input and nodes but no secret, for what a model
was told it can repeat; and one without placeholders gets the input appended as JSON, so that a bare
instruction already works on what the execution was given.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field

from kernel.agents.flow import Part
from kernel.agents.json_schema import json_schema_problems
from kernel.agents.references import Reference
from kernel.agents.schema import schema_problems
from kernel.agents.templating import BadTemplate, Context, Template, join
from kernel.errors import NodeError, Problem, ProviderError
from kernel.models.completion import estimate
from kernel.models.failure import UNBILLED
from kernel.models.scripted import Script
from kernel.models.seam import ChatRequest, Finish, Message, Models, TextDelta, Tokens
from kernel.nodes.contract import Call, ModelUse, Outcome
from kernel.nodes.sandbox import Sandbox

SCRIPTED = "scripted"
DEFAULT_MAX_TOKENS = 4096
"""Output tokens of a call that names no bound: without one, no budget could be kept."""
IMAGE_TOKENS = 2_000
IMAGE_SCHEMES = ("https://", "data:image/")

Prompt = Annotated[str, Field(max_length=1_000_000)]


class LlmConfig(Part):
    model: str = Field(min_length=1, max_length=256, description="an id of GET /models, or provider:model")
    prompt: Prompt = Field(description="without placeholders, the input is appended as JSON")
    system: Prompt | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description=f"output tokens; {DEFAULT_MAX_TOKENS} when absent"
    )
    response_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema 2020-12 of the answer, which then is parsed"
    )
    images: list[str] = Field(default_factory=list, max_length=16, description="https:// or data:image/ URLs")
    credential_id: str | None = Field(
        None, max_length=64, description="the key to call the provider with; by default the workspace's own"
    )
    script: dict[str, Any] | None = Field(None, description="what the model `scripted` does")

    @cached_property
    def templates(self) -> tuple[Template | None, Template]:
        """Of system and prompt. Raises BadTemplate."""
        system = None if self.system is None else Template.parse(self.system)
        return system, Template.parse(self.prompt)


class LlmNode:
    name = "llm"
    title = "Asks a language model once."
    config = LlmConfig
    example: ClassVar[dict[str, Any]] = {
        "model": "gpt-4",
        "prompt": "Review this {{ input.language }} code:\n{{ input.code_snippet }}",
        "max_tokens": 1000,
    }
    source_fields = frozenset({"prompt", "system", "response_schema"})
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, models: Models, sandbox: Sandbox):
        self._models = models
        self._sandbox = sandbox

    def check(self, config: LlmConfig, models: Models) -> list[Problem]:
        problems = [*_text_problems("prompt", config.prompt), *_text_problems("system", config.system or "")]
        if "{{" not in config.model and (reason := models.check(config.model)):
            problems.insert(0, Problem("model", reason))
        if config.response_schema is not None:
            problems += json_schema_problems(config.response_schema, "response_schema")
        problems += _image_problems(config.images)
        return problems + _script_problems(config)

    def branches(self, config: LlmConfig) -> None:
        return None

    def references(self, config: LlmConfig) -> list[Reference]:
        fields = zip(("system", "prompt"), config.templates, strict=True)
        return [Reference(field, path) for field, text in fields if text for path in text.references()]

    async def run(self, config: LlmConfig, call: Call) -> Outcome:
        """Output: the text, or what `response_schema` made of it. Raises ProviderError, RateLimitError.

        A call that is cut off is billed too, by an estimate: only what a provider refused costs nothing.
        """
        if problems := _image_problems(config.images):
            raise NodeError(problems[0].reason, {"field": f"config.{problems[0].field}"})
        model, name = self._models.chat(config.model, await self._key(config, call))
        request = _request(name, config, call)
        call.admit_cost(self._models.cost(config.model, _worst_case(request)))
        answer = _Answer()
        try:
            await _collect(model.stream(request), answer, call)
        except ProviderError as error:
            if not answer.parts and error.details.get("kind") in UNBILLED:
                answer.is_billed = False
            raise
        finally:
            if answer.is_billed:
                tokens = answer.tokens or estimate(request, len(answer.text.encode()))
                call.used(ModelUse(config.model, tokens, self._models.cost(config.model, tokens)))
        return Outcome(await self._output(config, answer.text))

    async def _key(self, config: LlmConfig, call: Call) -> str | None:
        """The workspace's; None leaves it to the installation's own."""
        provider = self._models.credential(config.model)
        if provider is None and config.credential_id is None:
            return None
        return await call.provider_key(provider or "", config.credential_id)

    async def _output(self, config: LlmConfig, text: str) -> Any:
        if config.response_schema is None:
            return text
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ProviderError("The model's answer is no JSON", None, None, True) from None
        if found := await self._sandbox.run("schema", config.response_schema, value):
            at = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found[0]["path"])
            reason = f"The model's answer does not fit response_schema: ${at}: {found[0]['reason']}"
            raise ProviderError(reason, None, None, True)
        return value


@dataclass(slots=True)
class _Answer:
    """As far as it has come. tokens: None until the model has told them."""

    parts: list[str] = field(default_factory=list)
    tokens: Tokens | None = None
    is_billed: bool = True

    @property
    def text(self) -> str:
        return "".join(self.parts)


async def _collect(stream: Any, answer: _Answer, call: Call) -> None:
    async with aclosing(stream) as items:
        async for item in items:
            match item:
                case TextDelta(text):
                    answer.parts.append(text)
                    call.token(text)
                case Finish(reason, tokens):
                    if reason != "stop":
                        call.log("warning", f"The model ended early: {reason}")
                    answer.tokens = tokens
                    return
    raise ProviderError("The model's answer broke off", None, None, True)


def _request(name: str, config: LlmConfig, call: Call) -> ChatRequest:
    messages = tuple(_messages(config, call.context))
    return ChatRequest(
        model=name,
        messages=messages,
        idempotency_key=call.idempotency_key,
        temperature=config.temperature,
        max_tokens=_least(
            config.max_tokens or DEFAULT_MAX_TOKENS, call.output_tokens_left(_most_input(messages))
        ),
        response_schema=config.response_schema,
        script=config.script or {},
    )


def _least(wanted: int, left: int | None) -> int:
    return wanted if left is None else min(wanted, left)


def _messages(config: LlmConfig, context: Context) -> list[Message]:
    system, prompt = config.templates
    text = prompt.text(context)
    if not prompt.references() and context["input"] is not None:
        text += f"\n\n{orjson.dumps(context['input']).decode()}"
    asked = Message("user", text, tuple(config.images))
    return [asked] if system is None else [Message("system", system.text(context)), asked]


def _worst_case(request: ChatRequest) -> Tokens:
    return Tokens(_most_input(request.messages), request.max_tokens or DEFAULT_MAX_TOKENS)


def _most_input(messages: Sequence[Message]) -> int:
    """Tokens: one is rarely less than two bytes."""
    size = sum(len(message.content.encode()) for message in messages)
    images = sum(len(message.images) for message in messages)
    return size // 2 + 64 + images * IMAGE_TOKENS


def _text_problems(field: str, text: str) -> list[Problem]:
    try:
        paths = Template.parse(text).references()
    except BadTemplate as exc:
        return [Problem(field, reason) for reason in exc.reasons]
    return [Problem(field, "a model must not be told a secret") for path in paths if path.root == "secrets"]


def _image_problems(images: list[str]) -> list[Problem]:
    return [
        Problem(f"images[{index}]", "must begin with https:// or data:image/")
        for index, image in enumerate(images)
        if not image.startswith((*IMAGE_SCHEMES, "{{"))
    ]


def _script_problems(config: LlmConfig) -> list[Problem]:
    if config.script is None:
        return []
    if config.model != SCRIPTED:
        return [Problem("script", "only the model 'scripted' has a script")]
    return [Problem(join("script", one.field), one.reason) for one in schema_problems(Script, config.script)]
