"""The models a flow may name: `configs/models.yaml`, joined with what this installation has.

Owns the way from an id to the model that answers. Providers with a `base_url` are reached over HTTP; `local`
and `scripted` run here and are handed in as `engines`, by whoever has them.
"""

import asyncio
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx2
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from configs.settings import CONFIGS
from kernel.clock import Clock, SystemClock
from kernel.models.breaker import Breaker
from kernel.models.completion import MaxTokensField
from kernel.models.failure import Kind, failure
from kernel.models.openai import TIMEOUT, Endpoint, OpenAIChat, Pace
from kernel.models.prices import FILE as PRICES
from kernel.models.prices import FREE, Price, Prices
from kernel.models.seam import ChatModel, ModelInfo, Tokens
from kernel.outbound import Egress

if TYPE_CHECKING:
    from kernel.models.cached import Shelf
    from kernel.models.embedding import Embedder

FILE = CONFIGS / "models.yaml"

_HOW_TO_STORE = """store it in the vault, or set CODEXOS_CREDENTIALS='{{"{}":"sk-…"}}'"""
_NAME = re.compile(r"[!-~]{1,200}")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListedModel(_Entry):
    name: str
    kind: Literal["chat", "embedding", "rerank"] = "chat"
    context_length: int | None = Field(None, ge=1)
    dimensions: int | None = Field(None, ge=1)
    package: str | None = None

    @model_validator(mode="after")
    def check_dimensions(self) -> Self:
        if self.kind == "embedding" and self.dimensions is None:
            raise ValueError("an embedding model needs its dimensions")
        return self

    @property
    def width(self) -> int:
        """Dimensions of an embedding model."""
        return self.dimensions or 0


class Provider(_Entry):
    base_url: str | None = None
    credential: str | None = None
    max_tokens_field: MaxTokensField = "max_tokens"
    stream_options: bool = True
    models: tuple[ListedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class _Lack:
    """What an installation would need for a model, and how it gets it."""

    name: str
    remedy: str


class Catalog:
    """The one implementation of `Models`.

    credentials: provider keys by name. engines: the models that run here, by provider, in a process that has
    them. scripted: whether the model `scripted` is offered.
    """

    def __init__(
        self,
        egress: Egress,
        credentials: Mapping[str, str],
        engines: Mapping[str, ChatModel],
        scripted: bool = False,
        clock: Clock = SystemClock(),
        file: Path = FILE,
        prices: Path = PRICES,
    ):
        self._egress = egress
        self._credentials = credentials
        self._engines = engines
        self._clock = clock
        self._prices_file = prices
        self._providers = {name: one for name, one in _read(file).items() if scripted or name != "scripted"}
        self._listed = _by_name(self._providers)
        self._remote: dict[str, OpenAIChat] = {}
        self._embedders: dict[str, Embedder] = {}
        self._breakers: dict[str, Breaker] = {}
        self._client: httpx2.AsyncClient | None = None

    def list(self, keys: Container[str] = ()) -> list[ModelInfo]:
        """keys: what the keys are called that a workspace has of its own."""
        return [self._info(provider, model, keys) for provider, model in self._listed.values()]

    @property
    def credentials(self) -> frozenset[str]:
        """What the keys of all providers are called."""
        return frozenset(one.credential for one in self._providers.values() if one.credential)

    def credential(self, model_id: str) -> str | None:
        found = self._find(model_id)
        return self._providers[found[0]].credential if found else None

    def check(self, model_id: str) -> str | None:
        return self._unfit(model_id, "chat", "a chat model")

    def check_embedding(self, model_id: str) -> str | None:
        """None when a collection may name it, else the reason."""
        return self._unfit(model_id, "embedding", "an embedding model")

    def check_rerank(self, model_id: str) -> str | None:
        """None when a search may name it, else the reason."""
        return self._unfit(model_id, "rerank", "a rerank model")

    def _unfit(self, model_id: str, kind: str, called: str) -> str | None:
        found = self._find(model_id)
        if found is None:
            return f"Model '{model_id}' is not supported"
        return None if found[1].kind == kind else f"Model '{model_id}' is not {called}"

    def chat(self, model_id: str, key: str | None = None) -> tuple[ChatModel, str]:
        provider, model = self._ready(model_id, key)
        return self._engines.get(provider) or self._over_http(provider, key), model.name

    def embedder(self, model_id: str, shelf: "Shelf | None" = None, key: str | None = None) -> "Embedder":
        """shelf: where vectors are kept that a provider was paid for; what runs here is quicker than any shelf.
        key: instead of the installation's own.

        Raises ProviderError for a model that embeds nothing, or naming the credential or package it lacks.
        """
        if problem := self.check_embedding(model_id):
            raise failure(Kind.REFUSED, "catalog", problem)
        provider, model = self._ready(model_id, key)
        name = f"{provider}:{model.name}"
        if key is None and name not in self._embedders:
            self._embedders[name] = self._new_embedder(provider, model)
        embedder = self._embedders[name] if key is None else self._new_embedder(provider, model, key)
        runs_here = self._providers[provider].base_url is None
        return embedder if runs_here or shelf is None else _over(shelf, embedder, name)

    def dimension(self, model_id: str) -> int:
        """Of an embedding model. Raises ProviderError for another one."""
        if problem := self.check_embedding(model_id):
            raise failure(Kind.REFUSED, "catalog", problem)
        found = self._find(model_id)
        return found[1].width if found else 0

    async def rerank(self, model_id: str, query: str, texts: Sequence[str]) -> Sequence[float]:
        """How well each text fits the query, 1 at most. Raises ProviderError naming the package it lacks."""
        self._ready(model_id)
        from kernel.models.rerank import rerank

        return await asyncio.to_thread(rerank, query, texts)

    @property
    def default_embedding(self) -> str:
        """The id of the first embedding model of the file."""
        return self._first("embedding")

    @property
    def default_rerank(self) -> str:
        """The id of the first rerank model of the file."""
        return self._first("rerank")

    def _first(self, kind: str) -> str:
        return next(name for name, (_, model) in self._listed.items() if model.kind == kind)

    def _ready(self, model_id: str, key: str | None = None) -> tuple[str, ListedModel]:
        found = self._find(model_id)
        if found is None:
            raise failure(Kind.REFUSED, "catalog", f"Model '{model_id}' is not supported")
        provider, model = found
        keys = (self._providers[provider].credential,) if key else ()
        if lack := self._lack(provider, model, keys):
            raise failure(Kind.REFUSED, provider, f"Model '{model_id}' needs the {lack.name}: {lack.remedy}")
        return provider, model

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        found = self._find(model_id)
        price = found and self._price(*found)
        return price.cost(tokens) if price else None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _find(self, model_id: str) -> tuple[str, ListedModel] | None:
        """The provider and the model of an id: a listed name, or `provider:model`."""
        if model_id in self._listed:
            return self._listed[model_id]
        provider, _, name = model_id.partition(":")
        if provider not in self._providers or not _NAME.fullmatch(name):
            return None
        known = {model.name: model for model in self._providers[provider].models}
        if self._providers[provider].base_url:
            return provider, known.get(name) or ListedModel(name=name)
        return (provider, known[name]) if name in known else None

    def _info(self, provider: str, model: ListedModel, keys: Container[str]) -> ModelInfo:
        lack, price = self._lack(provider, model, keys), self._price(provider, model)
        return ModelInfo(
            id=model.name,
            provider=provider,
            name=model.name,
            kind=model.kind,
            context_length=model.context_length,
            dimensions=model.dimensions,
            ready=lack is None,
            missing=lack.name if lack else None,
            price=price.shown() if price else None,
        )

    def _lack(self, provider: str, model: ListedModel, keys: Container[Any]) -> _Lack | None:
        credential = self._providers[provider].credential
        if credential and credential not in keys and not self._credentials.get(credential):
            return _Lack(f"credential '{credential}'", _HOW_TO_STORE.format(credential))
        if model.package and not _is_installed(model.package):
            return _Lack(f"package '{model.package}'", "install it where the platform runs")
        return None

    def _price(self, provider: str, model: ListedModel) -> Price | None:
        runs_here = self._providers[provider].base_url is None
        return FREE if runs_here else self._prices.of(provider, model.name)

    @cached_property
    def _prices(self) -> Prices:
        return Prices.load(self._prices_file)

    def _over_http(self, provider: str, key: str | None) -> OpenAIChat:
        if key is not None:
            return OpenAIChat(*self._way(provider, key))
        if provider not in self._remote:
            self._remote[provider] = OpenAIChat(*self._way(provider))
        return self._remote[provider]

    def _new_embedder(self, provider: str, model: ListedModel, key: str | None = None) -> "Embedder":
        """Imports numpy, which takes 16 MB and 0.1 s in processes that embed nothing."""
        from kernel.models.embedding import LocalEmbedder, OpenAIEmbedder, TransformerEmbedder

        if provider == "local":
            return LocalEmbedder()
        if provider == "transformers":
            return TransformerEmbedder(model.name, model.width)
        return OpenAIEmbedder(*self._way(provider, key), model.name, model.width)

    def _way(
        self, provider: str, key: str | None = None
    ) -> tuple[Endpoint, httpx2.AsyncClient, Breaker, Pace]:
        """To a provider; all calls to it share one breaker."""
        endpoint = self._endpoint(provider, key)
        self._client = self._client or self._egress.client(TIMEOUT)
        breaker = self._breakers.setdefault(provider, Breaker(self._clock))
        return endpoint, self._client, breaker, Pace(self._clock)

    def _endpoint(self, name: str, key: str | None) -> Endpoint:
        provider = self._providers[name]
        if provider.base_url is None:
            raise failure(Kind.REFUSED, name, f"Provider '{name}' does not run in this process")
        if key is None and provider.credential:
            key = self._credentials.get(provider.credential)
        return Endpoint(name, provider.base_url, key, provider.max_tokens_field, provider.stream_options)


def _over(shelf: "Shelf", embedder: "Embedder", name: str) -> "Embedder":
    from kernel.models.cached import CachedEmbedder

    return CachedEmbedder(embedder, name, shelf)


def _read(file: Path) -> dict[str, Provider]:
    raw = yaml.load(file.read_bytes(), yaml.CSafeLoader)
    return TypeAdapter(dict[str, Provider]).validate_python(raw)


def _by_name(providers: Mapping[str, Provider]) -> dict[str, tuple[str, ListedModel]]:
    """Raises ValueError when two providers list the same name: it could mean either."""
    listed: dict[str, tuple[str, ListedModel]] = {}
    for provider, entry in providers.items():
        for model in entry.models:
            if listed.setdefault(model.name, (provider, model)) != (provider, model):
                raise ValueError(f"Model '{model.name}' is listed by two providers")
    return listed


def _is_installed(package: str) -> bool:
    return next(iter(metadata.distributions(name=package)), None) is not None
