import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kernel.errors import NodeError, Unavailable
from kernel.nodes.sandbox import Sandbox

pytestmark = pytest.mark.anyio

CONTEXT = {"input": {"list": list(range(1000)), "text": "a" * 500_000, "n": 3}}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(time_cap_s=1.5)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("language", "source", "value"),
    [
        ("template", "{% for i in range(3) %}{{ i }}{% endfor %} {{ input.n }} {{ [1, none, 'é'] }}\n", None),
        ("cel", "input.list.exists(x, x == 999)", True),
        ("jmespath", "length(input.list)", 1000),
        ("schema", {"type": "object"}, []),
    ],
)
async def test_evaluates(sandbox: Sandbox, language: str, source: object, value: object) -> None:
    expected = '012 3 [1,null,"é"]\n' if language == "template" else value
    assert await sandbox.run(language, source, CONTEXT) == expected


async def test_schema_tells_where_and_why(sandbox: Sandbox) -> None:
    schema = {"properties": {"a": {"items": {"type": "string"}}}}
    found = await sandbox.run("schema", schema, {"a": ["x", 1]})
    assert found == [{"path": ["a", 1], "reason": "must be of type string"}]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "integer"}, "must be of type integer"),
        ({"type": ["integer", "null"]}, "must be of type integer or null"),
        ({"pattern": "^a"}, "does not satisfy pattern"),
        ({"enum": ["a"]}, "does not satisfy enum"),
        (False, "is not allowed here"),
    ],
)
async def test_schema_does_not_repeat_the_value(sandbox: Sandbox, schema: Any, reason: str) -> None:
    asked = {"required": ["b"], "properties": {"a": schema}}
    found = await sandbox.run("schema", asked, {"a": "sk-SECRET"})
    assert {one["reason"] for one in found} == {reason, "needs the property 'b'"}


BOMBS = [
    ("template", "{{ [1]*10**8 }}"),
    ("template", "{% for i in range(10**5) %}{% for j in range(10**5) %}x{% endfor %}{% endfor %}"),
    ("template", "{{ 'a'*10**9 }}"),
    ("template", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    ("template", "{{ " + "-" * 60_000 + "1 }}"),
    ("template", "{% for i in range(3000) %}{{ input.text }}{% endfor %}"),
    ("jmespath", "[@,@]|" * 40 + "@"),
    ("jmespath", "join('',[" + ",".join(["input.text"] * 300) + "])"),
    ("jmespath", "(" * 400 + "a" + ")" * 400),
    ("cel", "input.list.map(a, input.list.map(b, input.list.map(c, a + b + c))).size() > 1"),
    ("cel", "[" + "input.text + " * 300 + "''][0].size() > 1 && input.text.matches('(a+)+$')"),
    ("cel", "9223372036854775807 + 1 > 0"),
    (
        "schema",
        {"type": "object", "properties": {"input": {"properties": {"text": {"pattern": "^(a|aa)+b$"}}}}},
    ),
    ("schema", {"$ref": "#"}),
    ("schema", {"$ref": "http://127.0.0.1:8300/schema"}),
]


@pytest.mark.parametrize(("language", "source"), BOMBS)
async def test_a_bomb_ends_within_the_cap_and_the_next_call_works(
    sandbox: Sandbox, language: str, source: object
) -> None:
    await sandbox.run("cel", "true", {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(NodeError):
        await sandbox.run(language, source, CONTEXT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert await sandbox.run("cel", "input.n == 3", CONTEXT) is True


@pytest.mark.parametrize(
    ("language", "source", "words"),
    [
        ("template", "{{ [1]*10**8 }}", "longer than"),
        (
            "template",
            "{% for i in range(10**5) %}{% for j in range(10**5) %}x{% endfor %}{% endfor %}",
            "out of fuel|longer",
        ),
        ("template", "a\n{{ gone.x }}", "line 2: `gone` is undefined"),
        ("template", "{{ debug() }}", "debug is unknown"),
        ("template", "{% include '/etc/passwd' %}", "non-existing template"),
        ("cel", "input.gone", "there is no 'gone'"),
        ("cel", "1 / 0 == 1", "zero"),
        ("jmespath", "join(`1`, input)", "join"),
        ("jmespath", "[@,@]|" * 40 + "@", "memory|longer"),
    ],
)
async def test_failures_have_their_reason(
    sandbox: Sandbox, language: str, source: object, words: str
) -> None:
    with pytest.raises(NodeError, match=words) as caught:
        await sandbox.run(language, source, {"input": {"n": 1}})
    assert not caught.value.can_retry


async def test_more_callers_than_workers_queue(sandbox: Sandbox) -> None:
    calls = [sandbox.run("cel", f"{n} == {n % 7}", {}) for n in range(20)]
    assert await asyncio.gather(*calls) == [n == n % 7 for n in range(20)]
    assert len(sandbox._idle) <= 2


async def test_a_cancelled_call_takes_its_worker_with_it(sandbox: Sandbox) -> None:
    await sandbox.run("cel", "true", {})
    pid = sandbox._idle[0].process.pid
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await sandbox.run("template", "{{ [1]*10**8 }}", {})
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await sandbox.run("cel", "true", {}) is True


async def test_a_worker_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    await sandbox.run("cel", "true", {})
    sandbox._idle[0].process.kill()
    sandbox._idle[0].process.wait()
    assert await sandbox.run("cel", "true", {}) is True


async def test_what_it_reads_is_bounded(sandbox: Sandbox) -> None:
    with pytest.raises(NodeError, match="larger than 16 MB"):
        await sandbox.run("cel", "true", {"input": "a" * 17_000_000})


async def test_a_worker_has_no_environment_and_no_way_to_write() -> None:
    sandbox = Sandbox()
    await sandbox.run("cel", "true", {})
    pid = sandbox._idle[0].process.pid
    names, limits = _confinement(pid)
    sandbox.close()
    assert names == {b"PYTHONPATH", b"LC_ALL"}
    assert limits["Max file size"] == "0"
    assert limits["Max address space"] == str(512 * 2**20)


def _confinement(pid: int) -> tuple[set[bytes], dict[str, str]]:
    """The names in its environment, and its limits."""
    process = Path(f"/proc/{pid}")
    entries = (process / "environ").read_bytes().split(b"\0")
    lines = (process / "limits").read_text().splitlines()[1:]
    names = {entry.partition(b"=")[0] for entry in entries if entry}
    return names, {line[:26].strip(): line[26:].split()[0] for line in lines}


async def test_who_cannot_wait_is_told_so() -> None:
    sandbox = Sandbox(workers=0)
    with pytest.raises(Unavailable) as refused:
        await sandbox.run("cel", "true", {}, patience_s=0.01)
    assert refused.value.details == {"reason": "sandbox_busy"}
