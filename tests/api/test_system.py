"""Health, pages, and what a flow can be made of."""

import re

import pytest
from fastapi import FastAPI

from actors.runner import Runner
from kernel import errors
from kernel.errors import CodexError
from tests.api.conftest import Client

pytestmark = pytest.mark.anyio


async def test_health_asks_nobody(anonymous: Client, app: FastAPI) -> None:
    app.state.kernel = None
    assert await anonymous.ok("GET", "/healthz") == {"status": "ok"}
    answer = await anonymous("GET", "/readyz")
    assert (answer.status_code, answer.json()["error"]["details"]["reason"]) == (503, "starting")
    assert (await anonymous("GET", "/v1/me")).status_code == 503


async def test_not_ready_without_a_runner(anonymous: Client) -> None:
    answer = await anonymous("GET", "/readyz")
    assert (answer.status_code, answer.json()["error"]["details"]["reason"]) == (503, "no_runner")
    assert answer.headers["retry-after"] == "1"


async def test_ready_with_one(owner: Client, anonymous: Client, runner: Runner) -> None:
    await owner.ended()
    assert await anonymous.ok("GET", "/readyz") == {"status": "ok"}


async def test_pages_need_nothing_from_elsewhere(anonymous: Client) -> None:
    for path in ("/", "/docs", "/docs/errors"):
        page = await anonymous("GET", path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script" not in page.text
        for link in re.findall(r'(?:href|src)="([^"#]+)', page.text):
            assert link == "/readyz" or (await anonymous("GET", link)).is_success, link


async def test_every_error_is_explained(anonymous: Client) -> None:
    page = (await anonymous("GET", "/docs/errors")).text
    known = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CodexError)
    ]
    assert len(known) > 10
    for kind in known:
        assert f'id="{kind.code}"' in page


class TestCatalog:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("GET", "/v1/node-types")).status_code == 401
        assert (await anonymous("GET", "/v1/models")).status_code == 401

    async def test_node_types_carry_schema_and_a_sound_example(self, owner: Client) -> None:
        types = (await owner.ok("GET", "/v1/node-types"))["node_types"]
        assert {"llm", "template", "condition", "http", "transform"} <= {row["name"] for row in types}
        for row in types:
            assert row["schema"]["type"] == "object"
            assert row["example"]

    async def test_models(self, owner: Client) -> None:
        models = (await owner.ok("GET", "/v1/models"))["models"]
        assert {"scripted", "smollm2-135m-instruct"} <= {model["id"] for model in models}
        assert all(set(model) >= {"id", "provider", "kind", "ready"} for model in models)
