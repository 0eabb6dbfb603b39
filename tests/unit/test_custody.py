"""Key-encryption keys from a file, the environment and a KMS: each seals and opens, and says when it cannot."""

import asyncio
import base64
import os
import secrets
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from configs.settings import Vault as Settings
from kernel.errors import InternalError, Unavailable
from kernel.sealing import Custody, Damaged, Envelope, Sealed, Wrapped, decrypt, encrypt
from kernel.vault.custody import FileKeys, GivenKeys, Ring, custody, prepare
from kernel.vault.transit import TransitKeys

pytestmark = pytest.mark.anyio

KEYS = [base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2)]


class Empty(web.HTTPOk):
    """An answer without what was asked for."""

    def __init__(self) -> None:
        super().__init__(text='{"data": {}}')


class Kms:
    """A KMS with the Transit API: keys by version, data bound to what it is asked with."""

    def __init__(self) -> None:
        self.keys = {1: secrets.token_bytes(32)}
        self.token = "s.token"
        self.broken = 0
        """The status of answers without what was asked for."""

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/transit/keys/codexos", self.describe),
                web.post("/v1/transit/encrypt/codexos", self.encrypt),
                web.post("/v1/transit/decrypt/codexos", self.decrypt),
            ]
        )
        return app

    async def describe(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"data": {"latest_version": max(self.keys)}})

    async def encrypt(self, request: web.Request) -> web.Response:
        self._check(request)
        body = await request.json()
        version = max(self.keys)
        plain, bound = (base64.b64decode(body[name]) for name in ("plaintext", "associated_data"))
        sealed = base64.b64encode(encrypt(self.keys[version], plain, bound)).decode()
        return web.json_response({"data": {"ciphertext": f"vault:v{version}:{sealed}"}})

    async def decrypt(self, request: web.Request) -> web.Response:
        self._check(request)
        body = await request.json()
        _, version, sealed = body["ciphertext"].split(":")
        bound = base64.b64decode(body["associated_data"])
        try:
            plain = decrypt(self.keys[int(version[1:])], base64.b64decode(sealed), bound)
        except Damaged:
            raise web.HTTPBadRequest from None
        return web.json_response({"data": {"plaintext": base64.b64encode(plain).decode()}})

    def _check(self, request: web.Request) -> None:
        if request.headers.get("x-vault-token") != self.token:
            raise web.HTTPForbidden
        if self.broken == 400:
            raise web.HTTPBadRequest
        if self.broken:
            raise Empty


@pytest.fixture
async def kms(tmp_path: Path) -> AsyncGenerator[tuple[Kms, TransitKeys]]:
    kms = Kms()
    runner = web.AppRunner(kms.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (tmp_path / "token").write_text(kms.token + "\n")
    port = runner.addresses[0][1]
    keys = TransitKeys(f"http://127.0.0.1:{port}/", "codexos", tmp_path / "token")
    yield kms, keys
    await keys.aclose()
    await runner.cleanup()


@pytest.fixture(params=["file", "environment", "kms"])
def keys(request: pytest.FixtureRequest, tmp_path: Path, kms: tuple[Kms, TransitKeys]) -> Custody:
    made: dict[str, Custody] = {
        "file": FileKeys(tmp_path / "secrets" / "kek.json").make(),
        "environment": GivenKeys(",".join(KEYS)),
        "kms": kms[1],
    }
    return made[request.param]


async def test_each_seals_and_opens_what_is_bound_alike(keys: Custody) -> None:
    envelope = Envelope(keys)
    sealed = await envelope.seal(b"value", "ws_1", "cred_1")
    assert Sealed.decode(sealed).wrapped.kek == await keys.current()
    assert await envelope.open(sealed, "ws_1", "cred_1") == b"value"
    with pytest.raises(Damaged):
        await envelope.open(sealed, "ws_2", "cred_1")


class TestFile:
    async def test_it_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "secrets" / "kek.json"
        made = await asyncio.gather(*(asyncio.to_thread(FileKeys(path).make) for _ in range(8)))
        assert len({await keys.current() for keys in made}) == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert os.listdir(path.parent) == ["kek.json"]

    async def test_a_new_key_reaches_who_has_read_the_old_one(self, tmp_path: Path) -> None:
        here, there = (FileKeys(tmp_path / "kek.json").make() for _ in range(2))
        sealed = await Envelope(here).seal(b"value", "x")
        there.change(Ring.with_new)
        assert await here.current() == await there.current() != Sealed.decode(sealed).wrapped.kek
        assert await Envelope(here).open(sealed, "x") == b"value"
        moved = await Envelope(here).rewrap(sealed, "x")
        assert moved is not None
        there.change(lambda ring: ring.without({Sealed.decode(sealed).wrapped.kek}))
        assert await Envelope(here).open(moved, "x") == b"value"
        with pytest.raises(Damaged):
            await Envelope(here).open(sealed, "x")

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"current": "a", "keys": {"a": "AA=="}}'])
    async def test_a_damaged_file_says_which(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "kek.json"
        path.write_text(text)
        with pytest.raises(InternalError, match=r"kek\.json is missing or damaged"):
            await FileKeys(path).current()

    async def test_keys_that_are_made_at_once_are_all_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "kek.json"
        first = await FileKeys(path).make().current()
        made = await asyncio.gather(
            *(asyncio.to_thread(FileKeys(path).change, Ring.with_new) for _ in range(8))
        )
        assert set(FileKeys(path).ring().keys) == {first, *(ring.current for ring in made)}
        assert len(FileKeys(path).ring().keys) == 9

    async def test_no_new_key_in_place_of_one_that_is_lost(self, tmp_path: Path) -> None:
        keys, count = FileKeys(tmp_path / "kek.json"), 1

        async def sealed() -> int:
            return count

        with pytest.raises(InternalError, match=r"kek\.json is missing, and 1 values are sealed: restore it"):
            await prepare(keys, sealed)
        with pytest.raises(InternalError, match="restore it"):
            await keys.current()
        assert not keys.path.exists()
        count = 0
        await prepare(keys, sealed)
        name, count = await keys.current(), 1
        await prepare(keys, sealed)
        assert await keys.current() == name


class TestEnvironment:
    async def test_the_first_is_current_and_the_others_still_open(self) -> None:
        sealed = await Envelope(GivenKeys(KEYS[1])).seal(b"value", "x")
        both = Envelope(GivenKeys(f"{KEYS[0]}, {KEYS[1]}"))
        assert await both.open(sealed, "x") == b"value"
        moved = await both.rewrap(sealed, "x")
        assert moved is not None
        assert await Envelope(GivenKeys(KEYS[0])).open(moved, "x") == b"value"

    @pytest.mark.parametrize("text", ["short", "AAAA", KEYS[0][:-4], "ü" * 44])
    def test_what_is_no_key_is_refused_without_being_shown(self, text: str) -> None:
        with pytest.raises(InternalError) as refused:
            GivenKeys(text)
        assert text not in str(refused.value)


class TestKms:
    async def test_a_rotated_key_wraps_anew(self, kms: tuple[Kms, TransitKeys]) -> None:
        server, keys = kms
        sealed = await Envelope(keys).seal(b"value", "x")
        server.keys[2] = secrets.token_bytes(32)
        moved = await Envelope(keys).rewrap(sealed, "x")
        assert moved is not None
        del server.keys[1]
        assert Sealed.decode(moved).wrapped.kek == await keys.current() == "codexos:v2"
        assert await Envelope(keys).open(moved, "x") == b"value"

    async def test_a_kms_that_refuses_or_is_away(self, kms: tuple[Kms, TransitKeys], tmp_path: Path) -> None:
        server, keys = kms
        server.token = "another"
        with pytest.raises(Unavailable, match="The KMS answered 403"):
            await Envelope(keys).seal(b"value", "x")
        server.token, server.broken = "s.token", 400
        with pytest.raises(Unavailable, match="The KMS answered 400"):
            await Envelope(keys).seal(b"value", "x")
        server.broken = 200
        for ask in (Envelope(keys).seal(b"value", "x"), keys.current(), keys.unwrap(Wrapped("a", b"b"), b"")):
            with pytest.raises(Unavailable, match="what is no answer"):
                await ask
        with pytest.raises(Unavailable, match="cannot be asked"):
            await TransitKeys("http://127.0.0.1:1", "codexos", tmp_path / "token").current()


def test_the_settings_choose(tmp_path: Path) -> None:
    assert isinstance(custody(Settings(), tmp_path), FileKeys)
    assert isinstance(custody(Settings(kek=KEYS[0]), tmp_path), GivenKeys)
    assert isinstance(custody(Settings(kms_url="http://kms:8200"), tmp_path), TransitKeys)
    assert len(Ring.made().with_new().keys) == 2
