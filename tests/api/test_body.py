"""Bodies that two parsers could read differently are refused, and fast."""

import threading
import time

import orjson
import pytest

from kernel.errors import ValidationError
from serve_apps import body
from serve_apps.body import parse

REFUSED = {
    b"": "Is not valid JSON",
    b"NaN": "Is not valid JSON",
    b"-Infinity": "Is not valid JSON",
    b'{"a": 1e999}': "Is not valid JSON",
    b'{"a": "\\ud800"}': "Is not valid JSON",
    b'\xef\xbb\xbf{"a": 1}': "Is not valid JSON",
    '{"a": 1}'.encode("utf-16"): "Is not valid JSON",
    b'{"a": "\xff"}': "Is not valid JSON",
    b'{"a": 1,}': "Is not valid JSON",
    b'{"a": 01}': "Is not valid JSON",
    b'{"a": 1} x': "Is not valid JSON",
    b'{"a":1,"a":2}': "Repeats a key",
    b'{"a":1,"a" :2}': "Repeats a key",
    b'{"a":"x:y","a":2}': "Repeats a key",
    b'{"\\u0061":1,"a":2}': "Repeats a key",
    b'[[{"b":{"a":1,"a":1}}]]': "Repeats a key",
    b'{"a": 9223372036854775808}': "beyond 64 bits",
    b'{"a": -9223372036854775809}': "beyond 64 bits",
    b'{"a": 123456789012345678901234567890}': "beyond 64 bits",
    b'{"a": "\\u0000"}': "NUL",
    b'{"\\u0000": 1}': "NUL",
    b'{"a": "\\\\\\u0000"}': "NUL",
    b"[" * 33 + b"]" * 33: "nested more than 32",
    b'{"a":' * 300 + b"1" + b"}" * 300: "nested more than 32",
    b"[" * 100_000: "Is not valid JSON",
}

ACCEPTED = [
    b'{"a": "\\\\u0000"}',
    b"[" * 32 + b"]" * 32,
    b'{"a": [9223372036854775807, -9223372036854775808]}',
    b'{"a": {"a": "http://x"}, "b": "12345678901234567890123456789"}',
    b'{"a": 1.12345678901234567890123}',
    '{"ключ": "😀 \u202e"}'.encode(),
]


@pytest.mark.parametrize("raw", REFUSED, ids=range(len(REFUSED)))
def test_refuses(raw: bytes) -> None:
    with pytest.raises(ValidationError) as refused:
        parse(raw)
    assert REFUSED[raw] in refused.value.details["reason"]
    assert refused.value.details["field"] == "body"


@pytest.mark.parametrize("raw", ACCEPTED, ids=range(len(ACCEPTED)))
def test_reads_what_json_allows(raw: bytes) -> None:
    assert parse(raw) == orjson.loads(raw)


@pytest.mark.anyio
async def test_a_large_body_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    here, seen = threading.get_ident(), []
    monkeypatch.setattr(body, "parse", lambda raw: seen.append(threading.get_ident()))
    await body.parsed(b" " * body.LARGE)
    await body.parsed(b" " * (body.LARGE + 1))
    assert [thread == here for thread in seen] == [True, False]


def test_an_ordinary_body_costs_next_to_nothing() -> None:
    raw = orjson.dumps(
        {"input": {"code": "function add(a, b)", "x": "y" * 100}, "options": {"timeout": 30_000}}
    )
    began = time.perf_counter()
    for _ in range(2_000):
        parse(raw)
    assert (time.perf_counter() - began) / 2_000 < 200e-6
