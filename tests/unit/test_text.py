import time

import pytest

from kernel.text import clean_name, clean_text


@pytest.mark.parametrize(
    "name",
    ["Code Review Assistant", "مساعد المراجعة", "🤖", "👩🏽‍💻 at work", "❤️‍🔥", "a\u0301".upper(), "x" * 128],
)
def test_a_name_that_shows_is_kept(name: str) -> None:
    assert clean_name(clean_name(name)) == clean_name(name)


def test_twins_become_one() -> None:
    assert clean_name("Cafe\u0301") == clean_name("Caf\u00e9") == "Caf\u00e9"


@pytest.mark.parametrize("name", ["", "   ", "\u3000", "x" * 129])
def test_blank_and_long_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must"):
        clean_name(name)


@pytest.mark.parametrize(
    "hidden",
    [
        "\x00",
        "\n",
        "\x7f",
        "\u0085",
        "\u061c",
        "\u200b",
        "\u200c",
        "\u200d",
        "\u200e",
        "\u202e",
        "\u2028",
        "\u2066",
        "\ufeff",
        "\ud800",
    ],
)
def test_what_does_not_show_is_refused_and_named(hidden: str) -> None:
    with pytest.raises(ValueError, match=f"U\\+{ord(hidden):04X}"):
        clean_name(f"a{hidden}b")


def test_a_joiner_at_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"U\+200D"):
        clean_name("🤖\u200d")


@pytest.mark.parametrize("marks", [100, 250, 100_000])
def test_marks_are_not_sorted_by_the_thousand(marks: int) -> None:
    began = time.perf_counter()
    for clean in (clean_name, lambda text: clean_text(text, 4096)):
        with pytest.raises(ValueError, match=r"at most|more than 30 marks"):
            clean("a" + "\u0315" * marks + "\u0300" * marks)
    assert time.perf_counter() - began < 0.1


def test_running_text_may_have_lines_but_no_controls() -> None:
    assert clean_text("one\n\ttwo\u200f", 20) == "one\n\ttwo\u200f"
    with pytest.raises(ValueError, match=r"U\+0000"):
        clean_text("one\x00two", 20)
    with pytest.raises(ValueError, match="at most 5"):
        clean_text("123456", 5)
