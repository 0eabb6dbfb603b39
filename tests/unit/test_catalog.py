"""Which models a flow may name, what they lack, what they cost, and which model answers."""

from pathlib import Path

import pytest

from kernel.errors import ProviderError
from kernel.models.catalog import Catalog
from kernel.models.openai import OpenAIChat
from kernel.models.prices import Price, Prices
from kernel.models.scripted import ScriptedModel
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta, Tokens
from kernel.outbound import Egress
from tests.web import Exchange, serve

pytestmark = pytest.mark.anyio

KEY = "sk-CANARY0123456789"


class Silent:
    """Stands where a model that runs here would."""

    async def stream(self, request: ChatRequest):
        yield Finish("stop", Tokens())


def catalog(scripted: bool = True, **credentials: str) -> Catalog:
    return Catalog(Egress(), credentials, {"local": Silent(), "scripted": Silent()}, scripted)


def test_the_reason_of_the_reference_holds_word_for_word() -> None:
    assert catalog().check("gpt-5") == "Model 'gpt-5' is not supported"


@pytest.mark.parametrize(
    "model_id",
    [
        *("gpt-4", "gpt-4-turbo", "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "o3-mini"),
        *("smollm2-135m-instruct", "scripted", "openai:gpt-5", "openai:ft:gpt-4-0613:me", "ollama:qwen3:8b"),
        *("vllm:Qwen/Qwen3-8B", "openrouter:meta-llama/llama-3", "anthropic:claude-x", "mistral:m", "groq:g"),
        *("local:smollm2-135m-instruct", "openai:gpt-4"),
    ],
)
def test_accepts(model_id: str) -> None:
    assert catalog().check(model_id) is None


@pytest.mark.parametrize(
    "model_id",
    [
        *("", ":", "gpt-5", "GPT-4", "gpt-4 ", "openai", "openai:", ":gpt-4", "nowhere:gpt-4", "openai:a b"),
        *("openai:\x00", "openai:" + "a" * 201, "local:gpt-4", "scripted:x", "local:", "openai:gpt-4\n"),
        "__class__",
    ],
)
def test_refuses(model_id: str) -> None:
    assert catalog().check(model_id) == f"Model '{model_id}' is not supported"
    with pytest.raises(ProviderError, match="is not supported") as refused:
        catalog().chat(model_id)
    assert not refused.value.can_retry


@pytest.mark.parametrize(
    "model_id", ["text-embedding-ada-002", "openai:text-embedding-3-small", "wordllama-256"]
)
def test_an_embedding_does_not_chat(model_id: str) -> None:
    assert catalog().check(model_id) == f"Model '{model_id}' is not a chat model"


def test_scripted_is_there_only_when_it_is_offered() -> None:
    assert catalog(scripted=False).check("scripted") == "Model 'scripted' is not supported"
    assert "scripted" not in {model.id for model in catalog(scripted=False).list()}


def test_lists_what_is_ready_and_what_is_missing() -> None:
    models = {model.id: model for model in catalog(openai=KEY).list()}
    assert {"smollm2-135m-instruct", "text-embedding-3-large", "claude-sonnet-4-5"} <= set(models)
    assert "gpt-5" not in models
    assert (models["gpt-4"].ready, models["gpt-4"].missing) == (True, None)
    assert models["gpt-4"].price == {"input": 30.0, "output": 60.0}
    assert models["gpt-4o"].price == {"input": 2.5, "output": 10.0, "cached": 1.25}
    assert models["text-embedding-ada-002"].dimensions == 1536
    claude = models["claude-sonnet-4-5"]
    assert (claude.ready, claude.missing, claude.provider) == (False, "credential 'anthropic'", "anthropic")
    assert models["scripted"].price == {"input": 0.0, "output": 0.0}


def test_an_empty_key_is_none() -> None:
    gpt4 = next(model for model in catalog(openai="").list() if model.id == "gpt-4")
    assert gpt4.missing == "credential 'openai'"


def test_a_model_without_its_credential_says_what_to_store() -> None:
    with pytest.raises(ProviderError) as refused:
        catalog().chat("gpt-4")
    assert str(refused.value) == (
        "Model 'gpt-4' needs the credential 'openai': store it in the vault, "
        """or set CODEXOS_CREDENTIALS='{"openai":"sk-…"}'"""
    )
    assert not refused.value.can_retry


def test_a_model_without_its_package_says_so(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("local: {models: [{name: tiny, package: no-such-package}]}")
    tiny = Catalog(Egress(), {}, {"local": Silent()}, file=file)
    assert tiny.list()[0].missing == "package 'no-such-package'"
    with pytest.raises(ProviderError, match="needs the package 'no-such-package'"):
        tiny.chat("tiny")


def test_a_model_that_does_not_run_in_this_process_says_so() -> None:
    with pytest.raises(ProviderError, match="does not run in this process"):
        Catalog(Egress(), {}, {}, scripted=True).chat("scripted")


def test_two_providers_may_not_list_one_name(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("a: {models: [{name: x}]}\nb: {models: [{name: x}]}")
    with pytest.raises(ValueError, match="'x' is listed by two providers"):
        Catalog(Egress(), {}, {}, file=file)


def test_a_typo_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("a: {base_ulr: x}")
    with pytest.raises(ValueError, match="base_ulr"):
        Catalog(Egress(), {}, {}, file=file)


def test_engines_answer_under_their_own_names() -> None:
    scripted = ScriptedModel(counter=None)
    models = Catalog(Egress(), {}, {"scripted": scripted}, scripted=True)
    assert models.chat("scripted") == (scripted, "scripted")
    assert models.chat("scripted:scripted") == (scripted, "scripted")


async def test_a_provider_is_asked_with_its_key(tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        end = b'{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}'
        await exchange.events(end, b"[DONE]")

    async with serve(answer) as web:
        file = tmp_path / "models.yaml"
        file.write_text(f"acme: {{base_url: '{web.url}/v1/', credential: acme, stream_options: false}}")
        models = Catalog(Egress(("127.0.0.0/8",)), {"acme": KEY}, {}, file=file)
        model, name = models.chat("acme:large:2")
        items = [item async for item in model.stream(ChatRequest(name, (Message("user", "x"),), "k"))]
        assert models.chat("acme:other")[0] is model, "one breaker for all of a provider's models"
        await models.aclose()
    assert isinstance(model, OpenAIChat)
    assert items[0] == TextDelta("hi")
    assert web.exchanges[0].head.startswith("POST /v1/chat/completions ")
    assert web.exchanges[0].header("authorization") == f"Bearer {KEY}"
    assert web.exchanges[0].json["model"] == "large:2"
    assert KEY not in repr(vars(model))


@pytest.mark.parametrize(
    ("model_id", "tokens", "cost"),
    [
        ("gpt-4", Tokens(1000, 100), 0.036),
        ("openai:gpt-4-0613", Tokens(1000, 100), 0.036),
        ("gpt-4o", Tokens(1000, 0, cached=400), 0.002),
        ("text-embedding-ada-002", Tokens(1_000_000, 0), 0.1),
        ("claude-sonnet-4-5", Tokens(1000, 100), 0.0045),
        ("anthropic:claude-sonnet-4-5-20250929", Tokens(1000, 100), 0.0045),
        ("claude-sonnet-4-5", Tokens(200_001, 0), None),
        ("smollm2-135m-instruct", Tokens(10**6, 10**6), 0.0),
        ("scripted", Tokens(10**6, 10**6), 0.0),
        ("openrouter:some/model", Tokens(1, 1), None),
        ("openai:no-such-model", Tokens(1, 1), None),
        ("vllm:mine", Tokens(1, 1), None),
        ("gpt-5", Tokens(1, 1), None),
    ],
)
def test_costs(model_id: str, tokens: Tokens, cost: float | None) -> None:
    assert catalog().cost(model_id, tokens) == (cost if cost is None else pytest.approx(cost))


def test_the_longest_beginning_wins() -> None:
    prices = Prices({"p": [Price(names=("a*",), input=1), Price(names=("a-b*", "a"), input=2)]})
    assert [prices.of("p", name).input for name in ("a", "a-", "a-b", "a-bc")] == [2, 1, 2, 2]
    assert prices.of("p", "b") is None
    assert prices.of("q", "a") is None


def test_the_price_table_is_the_one_of_genai_prices() -> None:
    genai = pytest.importorskip("genai_prices")
    usage = genai.Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=200)
    for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3-mini"):
        theirs = genai.calc_price(usage, name, provider_id="openai").total_price
        assert catalog().cost(name, Tokens(1000, 100, 200)) == pytest.approx(float(theirs))
