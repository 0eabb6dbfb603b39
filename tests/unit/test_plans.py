"""Plans as their file says, also while it changes."""

import os
from pathlib import Path

import pytest

from kernel.clock import ManualClock
from kernel.metering.plans import FILE, LOOK_EVERY_MS, Plans, load_plans

FREE = "free: {requests_per_hour: 1000, burst: 50, concurrent: 10}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "plans.yaml"
    file.write_text(FREE)
    return file


def rewrite(file: Path, text: str, clock: ManualClock) -> None:
    """As an editor saves it, a while later."""
    newer = file.stat().st_mtime + 10
    file.write_text(text)
    os.utime(file, (newer, newer))
    clock.advance(LOOK_EVERY_MS)


def test_a_change_counts_within_a_second(file: Path, clock: ManualClock) -> None:
    plans = Plans(file, clock)
    assert plans.of("free").concurrent == 10
    rewrite(file, FREE.replace("concurrent: 10", "concurrent: 3") + "gold: {}\n", clock)
    assert plans.of("free").concurrent == 3
    assert plans.of("gold").limit is None
    assert LOOK_EVERY_MS < 1000


@pytest.mark.parametrize("text", ["free: {burst: 1}\n", "gold: {}\n", "free: [", "free: {rate: 1}\n"])
def test_a_file_that_is_wrong_changes_nothing(file: Path, clock: ManualClock, text: str) -> None:
    plans = Plans(file, clock)
    rewrite(file, text, clock)
    assert plans.of("free").burst == 50


def test_a_plan_that_is_gone_counts_as_the_basic_one(clock: ManualClock) -> None:
    assert Plans(FILE, clock).of("gone") == load_plans()["free"]


def test_overrides_take_the_place_of_the_plans_limits(clock: ManualClock) -> None:
    own = Plans(FILE, clock).of("free", '{"concurrent":null,"burst":70}')
    assert (own.concurrent, own.burst, own.requests_per_hour) == (None, 70, 1000)


def test_overrides_that_no_longer_fit_leave_the_plan_as_it_is(clock: ManualClock) -> None:
    assert Plans(FILE, clock).of("enterprise", '{"burst":70}') == load_plans()["enterprise"]
