"""Where a client finds its server and its key."""

import json
from pathlib import Path

import pytest

from codexos import Client, CodexOSError
from codexos._connection import DEFAULT_URL, Connection, connection

HERE = "http://127.0.0.1:8123/v1"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and no settings."""
    for name in ("CODEXOS_BASE_URL", "CODEXOS_API_KEY", "CODEXOS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(folder: Path, base_url: str = HERE, api_key: str | None = "stored") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "connection.json").write_text(json.dumps({"base_url": base_url, "api_key": api_key}))


def test_arguments_win(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(elsewhere / ".codexos")
    monkeypatch.setenv("CODEXOS_BASE_URL", "http://two.test/v1")
    monkeypatch.setenv("CODEXOS_API_KEY", "two")
    assert connection("https://one.test/v1/", "one") == Connection("https://one.test/v1", "one")


def test_then_the_environment(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(elsewhere / ".codexos")
    monkeypatch.setenv("CODEXOS_BASE_URL", "http://two.test/v1")
    monkeypatch.setenv("CODEXOS_API_KEY", "two")
    assert connection(None, None) == Connection("http://two.test/v1", "two")


def test_then_the_platform_of_this_folder(elsewhere: Path) -> None:
    store(elsewhere / ".codexos")
    assert connection(None, None) == Connection(HERE, "stored")


def test_or_that_of_the_home(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(elsewhere / ".codexos", api_key="other")
    store(elsewhere / "home")
    monkeypatch.setenv("CODEXOS_HOME", str(elsewhere / "home"))
    assert connection(None, None) == Connection(HERE, "stored")


def test_else_the_default() -> None:
    assert connection(None, "one") == Connection(DEFAULT_URL, "one")


def test_a_stored_key_goes_to_its_own_server_only(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(elsewhere / ".codexos")
    assert connection(HERE + "/", None) == Connection(HERE, "stored")
    with pytest.raises(CodexOSError, match="No API key"):
        connection("https://evil.test/v1", None)
    monkeypatch.setenv("CODEXOS_BASE_URL", "https://evil.test/v1")
    with pytest.raises(CodexOSError, match="No API key"):
        connection(None, None)


def test_no_key_anywhere(elsewhere: Path) -> None:
    store(elsewhere / ".codexos", api_key=None)
    with pytest.raises(CodexOSError, match="CODEXOS_API_KEY"):
        Client()


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_file_that_cannot_be_read(elsewhere: Path, text: str) -> None:
    store(elsewhere / ".codexos")
    (elsewhere / ".codexos" / "connection.json").write_text(text, encoding="latin-1")
    with pytest.raises(CodexOSError, match=r"connection\.json"):
        Client()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://[::1", "x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(CodexOSError, match="base_url"):
        Client(api_key="k", base_url=url)


def test_the_key_is_not_shown() -> None:
    with Client(api_key="cxk_secret") as client:
        assert "secret" not in repr(client) + repr(connection(None, "cxk_secret"))
