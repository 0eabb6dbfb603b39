"""Whatever form a secret takes, a mark stands in its place; what is no secret stays as it is."""

import base64
import html
import json
import re
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.redaction import MARK, Redactor, Speech

SECRET = "p@ss/wörd😀+\"%&<'>\n2"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nAbCdEfGh\n-----END PRIVATE KEY-----\n"


def knowing(*values: Any) -> Redactor:
    redactor = Redactor()
    for value in values:
        redactor.learn(value)
    return redactor


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        quote(SECRET),
        re.sub("%..", lambda found: found[0].lower(), quote(SECRET, safe="")),
        html.escape(SECRET),
        html.escape(SECRET, quote=False),
        html.escape(SECRET).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
        json.dumps(SECRET).replace("/", "\\/"),
        json.dumps(SECRET, ensure_ascii=False).replace("/", "\\/"),
        quote(SECRET, safe=""),
        json.dumps(SECRET),
        orjson.dumps({"a": SECRET}).decode(),
        SECRET.encode().hex(),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"u2:{SECRET}:".encode()).decode(),
        base64.b64encode(f"abc:{SECRET}?x".encode()).decode(),
    ],
)
def test_usual_forms(shown: str) -> None:
    told = knowing(SECRET).text(f"before {shown} after")
    assert MARK in told
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert SECRET not in told


def test_any_json_and_its_keys() -> None:
    redactor = knowing({"user": "someone", "password": "hunter2-hunter2", "port": 543})
    told = redactor.value({"hunter2-hunter2": ["x hunter2-hunter2", 543, None], "a": {"b": "someone"}})
    assert told == {MARK: [f"x {MARK}", 543, None], "a": {"b": MARK}}


def test_numbers() -> None:
    redactor = knowing({"pin": 90210, "rate": 12.375, "flag": True, "few": 123, "text": "77001"})
    for told in (90210, 90210.0, 12.375, 77001):
        assert redactor.value([told]) == [MARK]
    for other in (90211, 123, True, 902100, 0.5, None):
        assert redactor.value([other]) == [other]
    assert redactor.text("pin 90210, rate 12.375") == f"pin {MARK}, rate {MARK}"


def test_nothing_known_changes_nothing() -> None:
    value = {"a": ["b", 1]}
    assert Redactor().value(value) is value
    assert Redactor().text("abc") == "abc"
    assert not knowing("abc"), "three letters stand everywhere by chance"


def test_a_line_of_a_key_is_secret_too() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nAbCdEfGhIjKlMnOpQrStUvWxYz012345\n-----END"
    assert "AbCdEfGhIjKlMnOp" not in knowing(key).text("said AbCdEfGhIjKlMnOpQrStUvWxYz012345 only")


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.integers(1, 40), max_size=30))
def test_pieces_never_say_it(before: str, after: str, cuts: list[int]) -> None:
    secret = "sk-canary-0123456789"
    text, said, at = before + secret + after, "", 0
    speech = Speech(knowing(secret))
    for cut in cuts:
        said += speech.say(text[at : at + cut])
        assert secret not in said
        at += cut
    said += speech.say(text[at:]) + speech.rest()
    assert said == (before + secret + after).replace(secret, MARK)


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ({"user": "admin", "password": "admin123secret"}, '{"user":"admin","password":"admin123secret"}'),
        (PEM, f"The key is {PEM}."),
        ({"a": 1234, "b": 123456}, "1234, 123456 and 12345"),
    ],
)
def test_a_longer_one_that_begins_alike(secret: Any, text: str) -> None:
    speech = Speech(knowing(secret))
    said = "".join(map(speech.say, text)) + speech.rest()
    assert said == knowing(secret).text(text)
    for left in ("123secret", "AbCdEfGh", "56"):
        assert left not in said


few = st.text("ab/", max_size=8)


@given(st.lists(few, max_size=5), st.text("ab/", max_size=60), st.lists(st.integers(1, 9), max_size=40))
def test_however_it_is_cut_it_is_said_alike(secrets: list[str], text: str, cuts: list[int]) -> None:
    redactor, said, at = knowing(*secrets), "", 0
    speech = Speech(redactor)
    for cut in cuts:
        said += speech.say(text[at : at + cut])
        at += cut
    assert said + speech.say(text[at:]) + speech.rest() == redactor.text(text)


def test_pieces_do_not_wait_without_need() -> None:
    speech = Speech(knowing("sk-canary"))
    assert speech.say("hello ") == "hello "
    assert speech.say("world s") == "world "
    assert speech.say("o") == "so"
    assert speech.say("sk-can") == ""
    assert speech.rest() == "sk-can"
