"""What a process logs: lines of JSON, without the values of variables."""

import subprocess
import sys

import orjson
import pytest

BROKEN = """
import structlog

def work(password):
    hidden = password * 2
    raise ValueError("it broke")

try:
    work("CANARY-" + str(6 * 7))
except ValueError:
    structlog.get_logger().exception("failed")
"""
HOSTING = """
import asyncio
from configs.settings import Settings
from actors import hosting

class Kernel:
    def opened(settings):
        return Kernel()

    async def __aenter__(self):
        return self

hosting.Kernel = Kernel
asyncio.run(hosting.opened_kernel(Settings()))
"""


def lines(code: str) -> list[bytes]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr.splitlines()


@pytest.mark.parametrize("begin", ["from kernel.logs import configure; configure('INFO')", HOSTING])
def test_an_exception_shows_no_value(begin: str) -> None:
    (line,) = lines(begin + BROKEN)
    told = orjson.loads(line)
    assert (told["event"], told["level"]) == ("failed", "error")
    assert "it broke" in told["exception"]
    assert b"CANARY-42" not in line
