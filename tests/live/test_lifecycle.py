"""What an operator does with the command line, and what goes wrong then."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform import ROOT, Platform, until

pytestmark = pytest.mark.timeout(240)


def of_home(home: Path) -> list[int]:
    """Pids of processes whose environment or command line names this home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home).encode() in text:
                found.append(int(entry.name))
    return found


def test_up_again_changes_nothing(platform: Platform) -> None:
    before = lasting(platform)
    told = platform.up()
    assert "already running" in told
    assert platform.connection["base_url"] in told
    assert lasting(platform) == before


def lasting(platform: Platform) -> set[tuple[str, int]]:
    """Processes that neither load nor idleness changes; the pool of runners grows and shrinks by itself."""
    roles = {"keeper", "valkey", "milvus", "ray-head", "raylet", "haproxy", "api-replica", "supervisor"}
    return {(one.role, one.pid) for one in platform.processes() if one.role in roles}


def test_what_it_writes_is_private(platform: Platform) -> None:
    assert (platform.home / "connection.json").stat().st_mode & 0o777 == 0o600
    assert platform.connection["base_url"].endswith("/v1")
    for secret in (platform.home / "secrets").iterdir():
        assert secret.stat().st_mode & 0o077 == 0


def test_doctor_finds_nothing_wrong_with_a_running_platform(platform: Platform) -> None:
    done = platform.command("doctor")
    assert "✗" not in done.stdout


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    other = Platform(tmp_path / "home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        done = other.command("up", check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert str(other.port) in told
    assert "CODEXOS_PORT" in told
    assert "Traceback" not in told
    assert of_home(other.home) == []


def test_a_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    other = Platform(tmp_path / "home", CODEXOS_RUNNER__CAPACITY="many")
    done = other.command("up", check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert "capacity" in told.lower()
    assert "Traceback" not in told


def test_interrupted_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    other = Platform(tmp_path / "home")
    command = [sys.executable, "-m", "cluster", "up"]
    where = {"cwd": ROOT, "env": other.environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **where) as starting:  # type: ignore[call-overload]
        for line in starting.stdout:
            if "store" in line:
                break
        starting.send_signal(signal.SIGINT)
        starting.stdout.read()
        assert starting.wait(60) == 130
    until(lambda: of_home(other.home) == [], 10, "all of it gone")


def test_down_without_a_platform_is_no_error(tmp_path: Path) -> None:
    assert "not running" in Platform(tmp_path / "home").down()
