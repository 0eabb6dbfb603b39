"""What models cost: the table `models` of `configs/prices.yaml`, and the command that writes it.

The prices are those of the package genai-prices. It is not imported at run time: it takes 19 MB and 0.4 s in
every process that prices a call. `python -m kernel.models.prices` writes the table anew.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from textwrap import indent
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from configs.settings import CONFIGS
from kernel.clock import SystemClock
from kernel.models.seam import Tokens

FILE = CONFIGS / "prices.yaml"
PROVIDERS = ("openai", "anthropic", "mistral", "groq")
HEAD = """\
# Of genai-prices {version}, written by `python -m kernel.models.prices`: do not edit below this line. USD per
# million tokens. A name that ends in * stands for all that begin so; above `up_to` input tokens another price
# applies, which is not known here.
models:
"""


class Price(BaseModel):
    """USD per million tokens of the models `names`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1)
    input: float = Field(ge=0)
    output: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0)
    up_to: int | None = Field(None, ge=1)

    def cost(self, tokens: Tokens) -> float | None:
        """USD; None when the call is larger than this price goes."""
        if self.up_to is not None and tokens.input > self.up_to:
            return None
        cached = self.input if self.cached is None else self.cached
        fresh = tokens.input - tokens.cached
        return (fresh * self.input + tokens.cached * cached + tokens.output * self.output) / 1_000_000

    def shown(self) -> dict[str, float]:
        rates = {"input": self.input, "output": self.output, "cached": self.cached}
        return {name: rate for name, rate in rates.items() if rate is not None}


FREE = Price(names=("*",), input=0.0)


class Prices:
    """Prices by provider and name: the exact name first, then the longest that ends in `*`."""

    def __init__(self, table: Mapping[str, list[Price]]):
        self._exact: dict[tuple[str, str], Price] = {}
        self._prefixes: dict[str, list[tuple[str, Price]]] = {}
        for provider, prices in table.items():
            for price in prices:
                self._add(provider, price)

    def _add(self, provider: str, price: Price) -> None:
        for name in price.names:
            if name.endswith("*"):
                self._prefixes.setdefault(provider, []).append((name[:-1], price))
            else:
                self._exact[provider, name] = price

    @classmethod
    def load(cls, file: Path = FILE) -> Self:
        table = yaml.load(file.read_bytes(), yaml.CSafeLoader)["models"]
        return cls(TypeAdapter(dict[str, list[Price]]).validate_python(table))

    def of(self, provider: str, name: str) -> Price | None:
        if exact := self._exact.get((provider, name)):
            return exact
        fitting = [
            (prefix, price) for prefix, price in self._prefixes.get(provider, ()) if name.startswith(prefix)
        ]
        return max(fitting, key=lambda fit: len(fit[0]))[1] if fitting else None


def write(file: Path = FILE) -> None:
    """Takes the prices of today from the installed genai-prices; what stands before them in the file stays."""
    own, _, _ = file.read_text().partition("# Of genai-prices")
    head = HEAD.format(version=version("genai-prices"))
    table = {provider: list(rows) for provider, rows in _known()}
    models = yaml.dump(table, default_flow_style=None, sort_keys=False, width=1000)
    file.write_text(own + head + indent(models, "  "))


def _known() -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    from genai_prices.data_snapshot import get_snapshot

    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
    for provider in get_snapshot().providers:
        if provider.id in PROVIDERS:
            yield provider.id, filter(None, (_row(model, now) for model in provider.models))


def _row(model: Any, now: datetime) -> dict[str, Any] | None:
    prices = model.get_prices(now)
    if prices.input_mtok is None:
        return None
    names = dict.fromkeys((model.id, *_names(model.match)))
    rates = {"input": prices.input_mtok, "output": prices.output_mtok, "cached": prices.cache_read_mtok}
    tiers = [rate.tiers[0].start for rate in rates.values() if hasattr(rate, "tiers")]
    base = {name: float(getattr(rate, "base", rate)) for name, rate in rates.items() if rate is not None}
    return {"names": list(names)} | base | ({"up_to": min(tiers)} if tiers else {})


def _names(match: Any) -> Iterator[str]:
    """The names a clause stands for, as far as a whole name or its beginning says it."""
    for clause in getattr(match, "or_", (match,)):
        if hasattr(clause, "equals"):
            yield clause.equals
        elif hasattr(clause, "starts_with"):
            yield clause.starts_with + "*"


if __name__ == "__main__":
    write()
