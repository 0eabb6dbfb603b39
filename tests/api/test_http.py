"""What any request can get wrong, whatever its route."""

import re
import subprocess
import sys

import httpx2
import orjson
import pytest
from fastapi import FastAPI

from configs.settings import Api, Settings
from tests.api.conftest import HELLO, Client

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
AGENT = {"name": "Greeter", "flow": HELLO}


def problem(answer: httpx2.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["docs_url"] == f"/docs/errors#{error['code']}"
    return answer.status_code, error["code"], error["details"].get("field")


class TestBody:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/x-www-form-urlencoded"}, 415),
            ({"content-type": "application/jsonx"}, 415),
            ({}, 415),
            ({"content-type": "application/json; charset=utf-16"}, 422),
            (JSON | {"content-encoding": "gzip"}, 422),
            ({"content-type": "Application/JSON; Charset=UTF-8"}, 201),
            ({"content-type": 'application/json; charset="utf-8"'}, 201),
        ],
    )
    async def test_its_type(self, owner: Client, headers: dict[str, str], expected: int) -> None:
        raw = orjson.dumps(AGENT)
        answer = await owner("POST", "/v1/agents", content=raw, headers=headers)
        assert answer.status_code == expected, answer.text

    @pytest.mark.parametrize(
        "raw", [b"", b"null", b"[]", b'"x"', b"1", b'{"name":"a","name":"b"}', b"{", b"\xff"]
    )
    async def test_its_form(self, owner: Client, raw: bytes) -> None:
        answer = await owner("POST", "/v1/agents", content=raw, headers=JSON)
        assert problem(answer) == (422, "VALIDATION_ERROR", "body")

    async def test_its_number_of_fields(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/agents", {f"x{n}": 1 for n in range(101)})
        assert problem(answer) == (422, "VALIDATION_ERROR", "body")
        assert len(answer.json()["error"]["details"]["errors"]) == 1

    async def test_its_size(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/agents", content=b" " * 8_000_001, headers=JSON)
        assert problem(answer) == (413, "PAYLOAD_TOO_LARGE", None)

    async def test_its_size_while_reading(self, owner: Client) -> None:
        async def endless():
            while True:
                yield b" " * 1_000_000

        answer = await owner("POST", "/v1/agents", content=endless(), headers=JSON)
        assert problem(answer) == (413, "PAYLOAD_TOO_LARGE", None)

    async def test_fields_nobody_knows(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/agents", AGENT | {"workspace_id": "ws_x", "is_admin": True})
        assert problem(answer) == (422, "VALIDATION_ERROR", "workspace_id")
        fields = [e["field"] for e in answer.json()["error"]["details"]["errors"]]
        assert fields == ["workspace_id", "is_admin"]

    async def test_a_route_without_body_takes_an_empty_one_only(self, owner: Client) -> None:
        path = "/v1/executions/exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S/cancel"
        assert (await owner("POST", path, {})).status_code == 404
        assert problem(await owner("POST", path, {"force": True})) == (422, "VALIDATION_ERROR", "force")

    async def test_the_path_of_a_defect(self, owner: Client) -> None:
        flow = {"nodes": [{"id": "a", "type": "template", "config": {}, "retry": {"max_attempts": "3"}}]}
        answer = await owner("POST", "/v1/agents", AGENT | {"flow": flow})
        assert problem(answer) == (422, "VALIDATION_ERROR", "flow.nodes[0].retry.max_attempts")

    async def test_members_of_unions_are_no_part_of_the_path(self, owner: Client) -> None:
        flow = {"nodes": [{"id": "a", "type": "template", "config": {}, "on_error": {"goto": 5}}]}
        answer = await owner("POST", "/v1/agents", AGENT | {"flow": flow})
        assert all("Goto" not in e["field"] for e in answer.json()["error"]["details"]["errors"])
        assert answer.json()["error"]["details"]["field"].startswith("flow.nodes[0].on_error")

    async def test_input_is_not_echoed(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/agents", {"name": {"secret": "hunter2"}, "flow": "hunter2"})
        assert answer.status_code == 422
        assert "hunter2" not in answer.text


class TestQuery:
    @pytest.mark.parametrize(
        "limit", ["0", "-1", "101", "1.5", "1e2", "0x10", "1_0", " 1", "+1", "١", "", "9" * 23]
    )
    async def test_limits(self, owner: Client, limit: str) -> None:
        answer = await owner("GET", "/v1/agents", params={"limit": limit})
        assert problem(answer) == (422, "VALIDATION_ERROR", "limit")

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("page=0", "page"),
            ("cursor=zzz", "cursor"),
            ("cursor=", "cursor"),
            ("sort=__proto__", "sort"),
            ("limit=1&limit=2", "limit"),
            ("Limit=1", "Limit"),
            ("status=gone", "status"),
            ("search=" + "x" * 257, "search"),
            ("search=%00", "search"),
            ("search=%ff", "query"),
        ],
    )
    async def test_parameters(self, owner: Client, query: str, field: str) -> None:
        assert problem(await owner("GET", f"/v1/agents?{query}")) == (422, "VALIDATION_ERROR", field)

    async def test_a_page_past_the_end_is_empty(self, owner: Client) -> None:
        await owner.agent()
        body = await owner.ok("GET", "/v1/agents?page=99")
        assert body["agents"] == []
        assert body["pagination"] == {"page": 99, "limit": 20, "total": 1, "pages": 1}

    async def test_cursors_page_through_all(self, owner: Client) -> None:
        made = [await owner.agent() for _ in range(5)]
        answer, seen = await owner("GET", "/v1/agents?limit=2"), []
        while True:
            seen += [agent["id"] for agent in answer.json()["agents"]]
            if answer.json()["next_cursor"] is None:
                break
            link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers["link"])
            assert link is not None
            answer = await owner("GET", link[1])
        assert seen == made[::-1]
        assert "link" not in answer.headers


class TestPath:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1/nothing",
            "/v1/agents/",
            "//v1//agents",
            "/v1//agents",
            "/v2/agents",
            "/api/v1/api/v1/agents",
            "/v1/agents/..%2f..%2fetc",
            "/v1/agents/%00",
            "/v1/agents/%ff%fe",
            "/v1/agents/" + "a" * 5000,
            "/v1/executions/exec_1",
        ],
    )
    async def test_unknown_paths(self, owner: Client, path: str) -> None:
        assert problem(await owner("GET", path))[:2] == (404, "NOT_FOUND")

    @pytest.mark.parametrize("method", ["TRACE", "PUT", "OPTIONS", "BREW"])
    async def test_methods_a_route_does_not_take(self, owner: Client, method: str) -> None:
        answer = await owner(method, "/v1/agents/agent_x", headers={"x-http-method-override": "GET"})
        assert problem(answer)[:2] == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, PATCH"

    async def test_both_bases_are_the_same(self, owner: Client) -> None:
        agent = await owner.agent()
        one, other = [await owner("GET", f"{base}/agents/{agent}") for base in ("/v1", "/api/v1")]
        assert one.json() == other.json()

    async def test_head_is_get_without_a_body(self, owner: Client) -> None:
        agent = await owner.agent()
        answer = await owner("HEAD", f"/v1/agents/{agent}")
        assert answer.status_code == 200
        assert answer.content == b""
        assert answer.headers["etag"]


class TestHeaders:
    async def test_a_sane_request_id_is_kept(self, owner: Client) -> None:
        answer = await owner("GET", "/v1/me", headers={"x-request-id": "trace-1.2_3"})
        assert answer.headers["x-request-id"] == "trace-1.2_3"

    @pytest.mark.parametrize("name", ["<b>x</b>", "a" * 129, "a b", ""])
    async def test_another_is_replaced(self, owner: Client, name: str) -> None:
        answer = await owner("GET", "/v1/nothing", headers={"x-request-id": name})
        assert re.fullmatch(r"req_[0-9A-Z]{26}", answer.headers["x-request-id"])
        assert problem(answer)[0] == 404

    async def test_no_origin_is_granted_anything(self, owner: Client) -> None:
        for origin in ("https://evil.test", "null"):
            answer = await owner(
                "GET", "/v1/me", headers={"origin": origin, "accept": "application/xml", "range": "bytes=0-1"}
            )
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_a_read_is_not_sent_twice(self, owner: Client) -> None:
        agent = await owner.agent()
        for path in (f"/v1/agents/{agent}", "/v1/agents", "/v1/me", "/v1/models"):
            tag = (await owner("GET", path)).headers["etag"]
            answer = await owner("GET", path, headers={"if-none-match": f'W/"other", {tag}'})
            assert answer.status_code == 304
            assert answer.content == b""
            assert answer.headers["etag"] == tag

    async def test_what_nobody_foresaw_is_an_internal_error(self, owner: Client, app: FastAPI) -> None:
        app.state.kernel = None.__class__  # a kernel without any part
        answer = await owner("GET", "/readyz")
        assert problem(answer)[:2] == (500, "INTERNAL_ERROR")
        assert "Traceback" not in answer.text


class TestConfiguredOrigins:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"api": Api(cors_origins=("https://app.test",))})

    async def test_they_may_call_and_read_errors(self, owner: Client, anonymous: Client) -> None:
        preflight = {
            "access-control-request-method": "PATCH",
            "access-control-request-headers": "authorization",
        }
        answer = await anonymous(
            "OPTIONS", "/v1/agents/x", headers={"origin": "https://app.test"} | preflight
        )
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://app.test",
        )
        for client, status in ((owner, 200), (anonymous, 401)):
            answer = await client("GET", "/v1/me", headers={"origin": "https://app.test"})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
                status,
                "https://app.test",
            )

    async def test_others_still_may_not(self, owner: Client) -> None:
        answer = await owner("GET", "/v1/me", headers={"origin": "https://evil.test"})
        assert "access-control-allow-origin" not in answer.headers


def test_log_lines_are_json_with_the_request() -> None:
    code = (
        "import structlog; from kernel.logs import REQUEST_ID, configure; configure('INFO');"
        "REQUEST_ID.set('req_1'); log = structlog.get_logger(); log.info('hello', n=1); log.debug('unseen')"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr.splitlines()
    line = orjson.loads(lines[0])
    assert (line["event"], line["n"], line["level"], line["request_id"]) == ("hello", 1, "info", "req_1")
    assert len(lines) == 1
