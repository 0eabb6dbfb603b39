"""The seam every chat model sits behind, whatever runs it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str
    images: tuple[str, ...] = ()
    """`https://` or `data:` URLs."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One completion. `model` is the provider's own name; `idempotency_key` is the same for each try."""

    model: str
    messages: tuple[Message, ...]
    idempotency_key: str
    temperature: float | None = None
    max_tokens: int | None = None
    response_schema: dict[str, Any] | None = None
    script: dict[str, Any] = field(default_factory=dict)
    """Only the model `scripted` reads it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts. `cached` is the part of `input` that the provider had seen before."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.output + other.output, self.cached + other.cached)


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Always the last item of a stream that ended well."""

    reason: Literal["stop", "length", "content_filter", "other"]
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One row of `GET /models`. `id` is what a flow writes; price is USD per million tokens."""

    id: str
    provider: str
    name: str
    kind: Literal["chat", "embedding", "rerank"]
    context_length: int | None = None
    dimensions: int | None = None
    ready: bool = True
    missing: str | None = None
    price: dict[str, float] | None = None


class ChatModel(Protocol):
    def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        """Yields deltas, then one `Finish`.

        Closing the generator or cancelling its task stops the call at the provider.
        Raises `ProviderError` (`retryable` and `retry_after` say whether and when to try again).
        """
        ...


class Models(Protocol):
    """What the platform knows of models; `kernel.models.catalog.Catalog` is the one there is."""

    def list(self) -> list[ModelInfo]: ...

    def check(self, model_id: str) -> str | None:
        """None when a flow may name it, else the reason: `Model 'gpt-5' is not supported`."""
        ...

    def credential(self, model_id: str) -> str | None:
        """What the key of its provider is called, None when it needs none or is not known."""
        ...

    def chat(self, model_id: str, key: str | None = None) -> tuple[ChatModel, str]:
        """The model and its name at the provider. key: instead of the installation's own.

        Raises `ProviderError` naming the credential it lacks.
        """
        ...

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        """USD, None when the price is unknown."""
        ...
