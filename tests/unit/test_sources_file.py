"""Files of buckets, on an S3 server that is real but for its disks."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from kernel.ids import new_id
from kernel.knowledge.contract import DocumentError, SourceError
from kernel.knowledge.sources import Surroundings, file
from kernel.knowledge.sources.file import Bucket
from kernel.outbound import Egress
from tests.sources import LOOPBACK, entry, fetched, listed, opened, surroundings
from tests.web import Exchange, serve

pytestmark = pytest.mark.anyio

KEYS = {"access_key_id": "key", "secret_access_key": "secret"}
CREDENTIAL = new_id("cred")
FILES = {
    "docs/guide.md": b"# Guide",
    "docs/deep/er/report.pdf": b"%PDF-",
    "docs/.hidden/x.md": b"no",
    "docs/.env": b"no",
    "docs/logo.png": b"no",
    "docs-2024-01.txt": b"January",
    "docs-2024-02.txt": b"February",
    "a b/ü.txt": b"name",
    "large.txt": b"x" * 1_000_001,
    "empty.txt": b"",
}


@pytest.fixture(scope="module")
def endpoint() -> Generator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx2.post(
        f"http://{host}:{port}/moto-api/reset", trust_env=False
    )  # all servers of a process share their buckets
    try:
        files = fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            scheme="http",
            endpoint_override=f"{host}:{port}",
            allow_bucket_creation=True,
        )
        files.create_dir("bucket")
        files.create_dir("vacant")
        for name, data in FILES.items():
            _write(files, name, data)
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _write(files: fs.S3FileSystem, name: str, data: bytes) -> None:
    with files.open_output_stream(f"bucket/{name}") as out:
        out.write(data)


@pytest.fixture
def around(endpoint: str) -> Surroundings:
    return surroundings(credentials={CREDENTIAL: KEYS}, s3_endpoint=endpoint, max_document_mb=1)


async def places(around: Surroundings, location: str) -> list[str]:
    source = opened(around, type="file", location=location, credential_id=CREDENTIAL)
    return [found.location for found in await listed(source)]


async def test_an_object(around: Surroundings) -> None:
    source = opened(
        around, type="file", location="s3://bucket/docs/guide.md", credential_id=CREDENTIAL, metadata={"a": 1}
    )
    (found,) = await listed(source)
    assert (found.location, found.title, found.size) == ("s3://bucket/docs/guide.md", "guide.md", 7)
    assert (found.source_type, found.metadata) == ("file", {"a": 1})
    data = await fetched(source, found)
    assert (data.data, data.name, data.version) == (b"# Guide", "guide.md", found.version)


@pytest.mark.parametrize(
    ("location", "names"),
    [
        ("s3://bucket/docs/", ["docs/guide.md", "docs/deep/er/report.pdf"]),
        ("s3://bucket/docs", ["docs/guide.md", "docs/deep/er/report.pdf"]),
        ("s3://bucket/docs-2024-", ["docs-2024-01.txt", "docs-2024-02.txt"]),
        ("s3://bucket/a b/ü.txt", ["a b/ü.txt"]),
    ],
)
async def test_a_prefix(around: Surroundings, location: str, names: list[str]) -> None:
    assert await places(around, location) == [f"s3://bucket/{name}" for name in names]


async def test_a_whole_bucket(around: Surroundings) -> None:
    everything = {f"s3://bucket/{name}" for name, data in FILES.items() if data != b"no"}
    assert set(await places(around, "s3://bucket")) == everything
    assert set(await places(around, "s3://bucket/")) == everything


async def test_the_version_changes_with_the_object(around: Surroundings, endpoint: str) -> None:
    files = await Bucket(_entry("s3://bucket/changing.md"), around)._files()
    _write(files, "changing.md", b"one")
    (before,) = await listed(
        opened(around, type="file", location="s3://bucket/changing.md", credential_id=CREDENTIAL)
    )
    (same,) = await listed(
        opened(around, type="file", location="s3://bucket/changing.md", credential_id=CREDENTIAL)
    )
    _write(files, "changing.md", b"three")
    (after,) = await listed(
        opened(around, type="file", location="s3://bucket/changing.md", credential_id=CREDENTIAL)
    )
    assert before.version == same.version != after.version


async def test_without_a_credential_the_machine_s_keys_are_the_operator_s_to_lend(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Mapping[str, Any]] = []

    def opened_with(
        bucket: str, region: str | None, keys: Mapping[str, Any], place: Mapping[str, str]
    ) -> Any:
        given.append(keys)
        return open_(bucket, region, keys, place)

    open_ = file._open
    monkeypatch.setattr(file, "_open", opened_with)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    location = "s3://bucket/docs/guide.md"
    lent = around.settings.model_copy(update={"s3_environment": True})
    for settings in (around.settings, lent):
        (found,) = await listed(opened(replace(around, settings=settings), type="file", location=location))
        assert found.location == location
    assert given == [{"anonymous": True}, {}]


async def test_another_machine_fetches_what_this_one_listed(around: Surroundings) -> None:
    fields = {"type": "file", "location": "s3://bucket/docs/", "credential_id": CREDENTIAL}
    found, *_ = await listed(opened(around, **fields))
    assert (await fetched(opened(around, **fields), found)).data == b"# Guide"


async def test_one_file_fails_alone(around: Surroundings) -> None:
    fields = {"type": "file", "location": "s3://bucket/large.txt", "credential_id": CREDENTIAL}
    source = opened(around, **fields)
    (large,) = await listed(source)
    for found in (large, replace(large, size=None)):
        with pytest.raises(DocumentError, match="larger than 1 MB"):
            await source.fetch(found)
    with pytest.raises(DocumentError, match="does not exist"):
        await source.fetch(replace(large, location="s3://bucket/gone.txt", size=1))


async def test_too_many_files(endpoint: str) -> None:
    few = surroundings(credentials={CREDENTIAL: KEYS}, s3_endpoint=endpoint, max_documents=1)
    with pytest.raises(SourceError, match="more than 1 documents"):
        await places(few, "s3://bucket/docs/")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://no-such-bucket/x.md", "bucket does not exist"),
        ("s3://no-such-bucket/", "bucket does not exist"),
        ("s3://bucket/gone.md", "no file at s3://bucket/gone.md"),
        ("s3://bucket/gone/", "no file at"),
        ("s3://vacant", "no file at"),
    ],
)
async def test_what_is_not_there(around: Surroundings, location: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        await places(around, location)


@pytest.mark.parametrize(
    ("credential", "words"),
    [
        ({}, "access_key_id"),
        ({"access_key_id": "key"}, "secret_access_key"),
        (KEYS | {"region": "evil.example/#"}, "region"),
    ],
)
async def test_credentials_of_another_kind(endpoint: str, credential: dict[str, str], words: str) -> None:
    around = surroundings(credentials={CREDENTIAL: credential}, s3_endpoint=endpoint)
    with pytest.raises(SourceError, match=words):
        await places(around, "s3://bucket/docs/")


async def test_a_credential_that_is_gone(endpoint: str) -> None:
    with pytest.raises(SourceError, match=CREDENTIAL):
        await places(surroundings(s3_endpoint=endpoint), "s3://bucket/docs/")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation", "denied"),
        ("AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2", "credential is not accepted"),
        ("AWS Error NETWORK_CONNECTION during HeadObject", "cannot be reached"),
        ("/srv/secret/driver.cc:12 exploded", "did not answer as it should"),
    ],
)
async def test_the_words_of_the_driver_are_not_ours(around: Surroundings, said: str, words: str) -> None:
    class Broken:
        def get_file_info(self, _what: Any) -> None:
            raise OSError(said)

    source = Bucket(_entry("s3://bucket/x.md"), around)
    source._opened = Broken()
    with pytest.raises(SourceError, match=words) as failed:
        await listed(source)
    assert said not in str(failed.value)


async def test_an_object_store_that_may_not_be_reached(endpoint: str) -> None:
    async def private(_host: str, _port: int) -> list[str]:
        return ["10.0.0.1"]

    for egress, place in (
        (Egress(), endpoint),
        (LOOPBACK, "http://169.254.169.254"),
        (Egress(resolve=private), "https://s3.example.com"),
    ):
        around = surroundings(egress, credentials={CREDENTIAL: KEYS}, s3_endpoint=place)
        with pytest.raises(SourceError, match="may not be reached"):
            await places(around, "s3://bucket/docs/")


async def test_an_object_store_that_is_down() -> None:
    around = surroundings(credentials={CREDENTIAL: KEYS}, s3_endpoint="http://127.0.0.1:1")
    with pytest.raises(SourceError, match="cannot be reached"):
        await places(around, "s3://bucket/docs/")


def _entry(location: str) -> Any:
    return entry(type="file", location=location, credential_id=CREDENTIAL)


async def test_no_credential_leads_to_another_object_store(around: Surroundings) -> None:
    async def elsewhere(exchange: Exchange) -> None:
        await exchange.answer(200, b"secret")

    async with serve(elsewhere) as other:
        names = ("endpoint", "endpoint_url", "endpoint_override", "proxy_options", "scheme")
        named = KEYS | dict.fromkeys(names, other.url)
        told = surroundings(credentials={CREDENTIAL: named}, s3_endpoint=around.settings.s3_endpoint)
        assert await places(told, "s3://bucket/docs/guide.md") == ["s3://bucket/docs/guide.md"]
        assert other.exchanges == []
