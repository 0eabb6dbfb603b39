import os
import socket
from pathlib import Path

import pytest

from cluster.checks import Finding
from cluster.doctor import is_loopback, numbers, open_ports, show, sync_ms


def test_ports_that_others_can_reach_are_found() -> None:
    with socket.socket() as everywhere, socket.socket() as here:
        everywhere.bind(("", 0))
        here.bind(("127.0.0.1", 0))
        everywhere.listen()
        here.listen()
        found = open_ports([os.getpid()])
        assert everywhere.getsockname()[1] in found
        assert here.getsockname()[1] not in found


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("0100007F", True),
        ("00000000", False),
        ("0" * 32, False),
        ("00000000000000000000000001000000", True),
        ("0000000000000000FFFF00000100007F", True),
    ],
)
def test_loopback_in_the_words_of_proc(address: str, loopback: bool) -> None:
    assert is_loopback(address) == loopback


def test_versions_are_compared_by_number() -> None:
    assert numbers("9.1.2.post2") == (9, 1, 2)
    assert numbers("2.60.0") > (2, 54)


def test_a_sync_takes_some_time_and_leaves_nothing(tmp_path: Path) -> None:
    assert sync_ms(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_only_problems_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([Finding("disk", "fine"), Finding("ports", "open", remedy="close them")])
    assert not show([Finding("disk", "full", "the disk is full", "free some")])
    shown = capsys.readouterr().out
    assert "✓ disk" in shown
    assert "! ports" in shown
    assert "✗ disk" in shown
