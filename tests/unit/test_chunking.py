"""What every way of cutting keeps: all text, in order, within its size, at the place it says."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.knowledge import chunking
from kernel.knowledge.chunking import cut
from kernel.knowledge.contract import DocumentError, Part
from kernel.models.wordllama import token_ends

TEXTS = st.text(st.sampled_from("abcé語😀 \t\n.!?#。"), max_size=400)
SIZES = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@st.composite
def documents(draw: st.DrawFn) -> list[Part]:
    """Parts that follow each other, as parsers make them."""
    parts, offset = [], 0
    for text in draw(st.lists(TEXTS, max_size=5)):
        heading = draw(st.sampled_from([None, "A", "B"]))
        parts.append(Part(text + "\n", offset, draw(st.sampled_from([None, 1, 2])), heading))
        offset += len(text) + 1
    return parts


@given(documents(), SIZES)
def test_nothing_is_lost_and_nothing_too_long(parts: list[Part], sizes: tuple[int, int]) -> None:
    size, overlap = sizes
    text = "".join(part.text for part in parts)
    chunks = cut(parts, size, overlap)
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
    end = 0
    for chunk in chunks:
        stop = chunk.offset + len(chunk.text)
        assert text[chunk.offset : stop] == chunk.text == chunk.text.strip()
        assert 0 < len(chunk.text) <= size
        assert text[end : chunk.offset].strip() == ""
        assert end - chunk.offset <= overlap
        assert stop > end
        end = stop
    assert text[end:].strip() == ""


@given(documents(), SIZES)
def test_chunks_tell_where_they_begin(parts: list[Part], sizes: tuple[int, int]) -> None:
    for chunk in cut(parts, *sizes):
        part = max((part for part in parts if part.offset <= chunk.offset), key=lambda part: part.offset)
        assert (chunk.page, chunk.heading) == (part.page, part.heading)


@given(documents(), SIZES)
def test_nothing_is_repeated_where_a_section_begins(parts: list[Part], sizes: tuple[int, int]) -> None:
    starts = {part.offset for part in parts if part.heading is not None}
    for before, after in pairwise(cut(parts, *sizes)):
        stop = before.offset + len(before.text)
        assert stop not in starts or after.offset >= stop


@given(
    documents(), st.integers(8, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))
)
def test_tokens_keep_to_their_number_too(parts: list[Part], sizes: tuple[int, int]) -> None:
    text = "".join(part.text for part in parts)
    chunks = cut(parts, *sizes, "tokens")
    assert all(len(token_ends(chunk.text)) <= sizes[0] for chunk in chunks)
    assert all(text[chunk.offset :].startswith(chunk.text) for chunk in chunks)
    assert {n for chunk in chunks for n in range(chunk.offset, chunk.offset + len(chunk.text))} >= {
        n for n, character in enumerate(text) if not character.isspace()
    }


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two three\n\nfour. five\nsix seven", "one two three"),
        ("one two three\nfour. five six seven", "one two three"),
        ("one two three. Four five six seven", "one two three."),
        ("one two three four five six seven", "one two three four"),
        ("onetwothreefourfivesixseven", "onetwothreefourfives"),
        ("一二三四五六七八九十。一二三四五六七八九十一二三", "一二三四五六七八九十。"),
    ],
)
def test_breaks_where_a_reader_would(text: str, first: str) -> None:
    assert cut([Part(text)], 20, 0)[0].text == first


def test_the_overlap_begins_at_a_word() -> None:
    chunks = cut([Part("alpha beta gamma delta epsilon zeta eta theta")], 25, 8)
    assert [chunk.text for chunk in chunks] == [
        "alpha beta gamma delta",
        "delta epsilon zeta eta",
        "zeta eta theta",
    ]


def test_sections_stay_whole_and_small_ones_together() -> None:
    parts = [Part("# T\n\n", 0, None, "T"), Part("## A\n" + "a " * 25, 5, None, "A")]
    parts += [Part("## B\n" + "b " * 40, 60, None, "B"), Part("## C\nend", 145, None, "C")]
    chunks = cut(parts, 100, 20)
    assert [(chunk.offset, chunk.heading) for chunk in chunks] == [(0, "T"), (60, "B")]
    assert chunks[0].text.startswith("# T\n\n## A\na a")
    assert chunks[1].text.endswith("## C\nend")


def test_pages_overlap_but_sections_do_not() -> None:
    pages = [Part("page one has words enough", 0, 1), Part("page two has words enough", 27, 2)]
    assert [(c.page, c.text) for c in cut(pages, 40, 12)][1] == (
        1,
        "words enough\n\npage two has words enough",
    )


def test_no_parts_no_chunks() -> None:
    assert cut([], 10, 2) == cut([Part(" \n ")], 10, 2) == []


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10_000_000,
        "\n" * 1_000_000,
        "ab " * 1_000_000,
        " " * 1_000_000 + "x",
        "語" * 2_000_000,
        "a\n" * 1_000_000,
    ],
    ids=["line", "blank lines", "words", "blanks", "no spaces", "lines"],
)
def test_takes_linear_time(text: str) -> None:
    began = time.monotonic()
    chunks = cut([Part(text)], 1000, 200)
    assert time.monotonic() - began < 5
    assert sum(len(chunk.text) for chunk in chunks) <= 1.5 * len(text)


def test_many_headings_take_linear_time() -> None:
    parts = [Part("# x\n", 4 * n, None, "x") for n in range(300_000)]
    began = time.monotonic()
    assert len(cut(parts, 1000, 200)) == 1200
    assert time.monotonic() - began < 5


def test_too_many_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "MAX_CHUNKS", 1000)
    with pytest.raises(DocumentError, match="more than 1,000 chunks"):
        cut([Part("a" * 5000)], 100, 99)
