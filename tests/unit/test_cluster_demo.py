import pytest

from cluster.demo import WIDTH, Wrapped


def written(capsys: pytest.CaptureFixture[str], *pieces: str) -> list[str]:
    writer = Wrapped()
    for piece in pieces:
        writer.write(piece)
    writer.close()
    return capsys.readouterr().out.splitlines()


def test_words_that_arrive_in_pieces_are_joined(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(capsys, "It do", "es not ", "check") == ["    It does not check"]


def test_long_text_is_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    lines = written(capsys, "word " * 100)
    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH + 4
    assert sum(line.count("word") for line in lines) == 100


def test_lines_and_their_indentation_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(capsys, "a {\n", "  b;\n", "}\n\n") == ["    a {", "      b;", "    }"]
