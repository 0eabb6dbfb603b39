import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from cluster.failure import Refused
from cluster.layout import Connection, Home


@pytest.fixture
def home(tmp_path: Path) -> Generator[Home]:
    home = Home(tmp_path / "home")
    yield home
    if home.sockets.exists():
        home.sockets.rmdir()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_and_connection_are_their_owners_alone(home: Home) -> None:
    home.prepare()
    home.write_connection(Connection(base_url="http://h/v1", api_key="k", dashboard_url="http://h/"))
    assert {mode(path) for path in (home.ray_token, home.store_password, home.connection)} == {0o600}
    assert mode(home.ray_token.parent) == mode(home.sockets) == 0o700


def test_preparing_again_keeps_the_secrets(home: Home) -> None:
    home.prepare()
    before = home.ray_token.read_text(), home.store_password.read_text()
    home.prepare()
    assert (home.ray_token.read_text(), home.store_password.read_text()) == before
    assert before[0] != before[1]


def test_a_connection_is_read_as_written(home: Home) -> None:
    home.prepare()
    assert home.read_connection() is None
    connection = Connection(base_url="http://h/v1", api_key=None, dashboard_url="http://h/")
    home.write_connection(connection)
    assert home.read_connection() == connection


def test_two_homes_never_share_sockets(tmp_path: Path) -> None:
    assert Home(tmp_path / "a").sockets != Home(tmp_path / "b").sockets


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be written"):
        Home(tmp_path / "file" / "home").prepare()


def test_sockets_stay_short_however_deep_the_home(tmp_path: Path) -> None:
    assert len(str(Home(tmp_path / ("deep/" * 40)).sockets)) <= 21


def test_a_sockets_folder_planted_by_another_is_refused(home: Home, tmp_path: Path) -> None:
    home.sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(Refused, match="belongs to somebody else"):
            home.prepare()
    finally:
        home.sockets.unlink()
