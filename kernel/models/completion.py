"""The wire shapes of OpenAI's chat completions: what is sent, and what counts as a chunk of an answer."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.models.seam import ChatRequest, Message, Tokens

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Details(_Part):
    cached_tokens: int | None = Field(None, ge=0)


class Usage(_Part):
    prompt_tokens: int = Field(ge=0, le=10**9)
    completion_tokens: int = Field(0, ge=0, le=10**9)
    prompt_tokens_details: _Details | None = None

    def tokens(self) -> Tokens:
        cached = (self.prompt_tokens_details or _Details()).cached_tokens or 0
        return Tokens(self.prompt_tokens, self.completion_tokens, min(cached, self.prompt_tokens))


class _Delta(_Part):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Part):
    index: Literal[0] = 0
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class Chunk(_Part):
    """One event of a stream. One choice was asked for, so a second one or another index is nonsense."""

    choices: tuple[_Choice, ...] = Field((), max_length=1)
    usage: Usage | None = None
    error: Any = None

    @property
    def text(self) -> str:
        return "".join(choice.delta.content or choice.delta.refusal or "" for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        return next((choice.finish_reason for choice in self.choices), None)


def payload(request: ChatRequest, max_tokens_field: MaxTokensField, stream_options: bool) -> dict[str, Any]:
    """The body of a streamed request; what the caller left open is left out."""
    optional = {
        "temperature": request.temperature,
        max_tokens_field: request.max_tokens,
        "response_format": _response_format(request.response_schema),
        "stream_options": {"include_usage": True} if stream_options else None,
    }
    return {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "stream": True,
    } | {name: value for name, value in optional.items() if value is not None}


def _response_format(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """Not `strict`: that takes a subset of JSON Schema only, and the answer is validated here anyway."""
    return schema and {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    images = [{"type": "image_url", "image_url": {"url": url}} for url in message.images]
    return {"role": message.role, "content": [{"type": "text", "text": message.content}, *images]}


def estimate(request: ChatRequest, output_bytes: int) -> Tokens:
    """Counts at four bytes of UTF-8 a token, rounded up, for a provider that sends none."""
    input_bytes = sum(len(message.content.encode()) for message in request.messages)
    return Tokens(-(-input_bytes // 4), -(-output_bytes // 4))
