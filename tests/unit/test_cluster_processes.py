import os
import signal
import subprocess
import sys
from collections.abc import Generator

import pytest

from cluster.processes import (
    Process,
    alive,
    death,
    facts,
    gone,
    in_session,
    pss_mb,
    remember,
    since_epoch_ms,
    stop,
    title,
)
from kernel.clock import SystemClock

pytestmark = pytest.mark.anyio

WAIT = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
]


@pytest.fixture
def child() -> Generator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(WAIT, start_new_session=True) as child:
        yield child
        child.kill()


def of(child: "subprocess.Popen[bytes]") -> Process:
    process = remember(child.pid)
    assert process
    return process


async def test_a_process_is_known_by_pid_and_start_time(child: "subprocess.Popen[bytes]") -> None:
    process = of(child)
    assert alive(process)
    assert not alive(process.model_copy(update={"started": process.started - 1}))


async def test_a_process_that_took_over_a_pid_is_left_alone(child: "subprocess.Popen[bytes]") -> None:
    await stop([Process(pid=child.pid, started=1)], grace=1)
    assert child.poll() is None


async def test_stopping_waits_for_the_end(child: "subprocess.Popen[bytes]") -> None:
    await stop([of(child)], grace=5)
    assert child.wait() == -signal.SIGTERM


@pytest.fixture
def stubborn() -> Generator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        yield child
        child.kill()


async def test_what_does_not_end_when_asked_is_killed(stubborn: "subprocess.Popen[bytes]") -> None:
    await stop([of(stubborn)], grace=0.1)
    assert stubborn.wait() == -signal.SIGKILL


async def test_death_of_a_process_that_ended_before_is_told_at_once(child: "subprocess.Popen[bytes]") -> None:
    process = of(child)
    child.kill()
    child.wait()
    await death(process)
    assert await gone([process], within=0.1)


async def test_a_living_process_is_not_gone(child: "subprocess.Popen[bytes]") -> None:
    assert not await gone([of(child)], within=0.05)


async def test_a_session_is_found_by_its_leader(child: "subprocess.Popen[bytes]") -> None:
    assert [member.process for member in in_session(of(child))] == [of(child)]
    assert in_session(Process(pid=child.pid, started=1)) == []


async def test_facts_of_this_process() -> None:
    own = facts(os.getpid())
    assert own
    assert own.parent == os.getppid()
    assert own.session == os.getsid(0)
    assert "python" in title(os.getpid())
    assert (pss_mb(os.getpid()) or 1) > 0
    assert 0 < SystemClock().now_ms() - since_epoch_ms(own.process) < 24 * 3_600_000


async def test_facts_of_no_process() -> None:
    assert facts(2**22 + 1) is None
    assert title(2**22 + 1) == ""
    assert pss_mb(2**22 + 1) is None
