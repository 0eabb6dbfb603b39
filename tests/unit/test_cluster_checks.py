from pathlib import Path

import pytest

from cluster import checks
from cluster.failure import Refused
from cluster.layout import Home
from configs.settings import Settings


def test_a_taken_port_names_itself_and_the_setting() -> None:
    finding = checks.port(8000, free=lambda _: False)
    assert finding.problem == "port 8000 is in use by another program"
    assert "CODEXOS_PORT=8001" in finding.remedy


def test_a_free_port_is_no_problem() -> None:
    assert checks.port(8000, free=lambda _: True).problem is None


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_mb", lambda: 2_999)
    assert checks.memory().problem == "only 2999 MB of memory are available, 3000 are needed"


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "MIN_DISK_MB", 10**12)
    assert "MB of disk are free" in (checks.disk(tmp_path / "not" / "yet").problem or "")


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PYTHON", (3, 99))
    assert "is not 3.11" in (checks.python().problem or "")


def test_the_first_problem_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "available_mb", lambda: 10)
    with pytest.raises(Refused, match="memory are available"):
        checks.demand(checks.preflight(Home(tmp_path), Settings()))


def test_a_running_platform_is_not_measured_against_itself(tmp_path: Path) -> None:
    names = [finding.name for finding in checks.preflight(Home(tmp_path), Settings(), running=True)]
    assert names == ["python", "disk"]
