"""Repositories, on git's own server program behind a small HTTP server."""

import asyncio
import gzip
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kernel.ids import new_id
from kernel.knowledge.contract import DocumentError, Found, SourceError
from kernel.knowledge.sources import Surroundings, github, scratch
from kernel.knowledge.sources import git as program
from kernel.outbound import Egress
from tests.sources import REFUSED, fetched, listed, opened, surroundings
from tests.unit.test_outbound import self_signed
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio

REPOSITORY = "https://github.com/org/repo"
CREDENTIAL = new_id("cred")
WHO = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main")


def git(folder: Path, *args: str, **environment: str) -> str:
    """The program as a user runs it."""
    hermetic = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder)}
    done = subprocess.run(
        ["git", *WHO, *args],
        cwd=folder,
        env=os.environ | hermetic | environment,
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.strip()


class Repo:
    """A repository that is worked on in `work` and served from `served`."""

    def __init__(self, root: Path, name: str = "org/repo.git"):
        self.work, self.served = root / "work", root / "served" / name
        self.work.mkdir()
        self.served.mkdir(parents=True)
        git(self.work, "init", "--quiet")
        git(self.served, "init", "--quiet", "--bare")
        git(self.served, "config", "uploadpack.allowFilter", "true")

    def commit(self, files: dict[str, bytes | None], branch: str = "main") -> None:
        for name, data in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if data is None else path.write_bytes(data)
        git(self.work, "add", "--all")
        git(self.work, "commit", "--quiet", "--allow-empty", "-m", "x")
        git(self.work, "push", "--quiet", "--force", str(self.served), f"HEAD:refs/heads/{branch}")


class GitServer:
    """`git http-backend` for the folders below `root`. authorization: what it wants to see."""

    def __init__(self, root: Path):
        self.root = root
        self.authorization: str | None = None

    async def answer(self, exchange: Exchange) -> None:
        if self.authorization and exchange.header("authorization") != self.authorization:
            await exchange.answer(401, b"", 'www-authenticate: Basic realm="x"')
        else:
            await self._run(exchange)

    async def _run(self, exchange: Exchange) -> None:
        method, target, _ = exchange.head.split("\r\n")[0].split(" ")
        path, _, query = target.partition("?")
        process = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "CONTENT_TYPE": exchange.header("content-type") or "",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_PROTOCOL": exchange.header("git-protocol") or "",
                "HTTP_CONTENT_ENCODING": exchange.header("content-encoding") or "",
                "PATH": os.environ["PATH"],
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": method,
            },
        )
        output, _ = await process.communicate(exchange.body)
        head, _, body = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split(" ")[0])
        await exchange.answer(status, body, *(f"{name}: {value}" for name, value in headers.items()))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = Repo(tmp_path)
    repo.commit(
        {
            "README.md": b"# Hello",
            "docs/guide.md": b"# Guide",
            "docs/deep/er.md": b"deeper",
            "docs/ü b.md": b"name",
            "docs/logo.png": b"\x89PNG",
            "src/app.py": b"print()",
        }
    )
    return repo


@pytest.fixture
async def server(repo: Repo, tmp_path: Path) -> GitServer:
    return GitServer(tmp_path / "served")


@pytest.fixture
async def web(server: GitServer) -> AsyncGenerator[Web]:
    async with serve(server.answer) as web:
        yield web


@pytest.fixture
def around(web: Web) -> Surroundings:
    return hosted(web)


def hosted(web: Web, **settings: Any) -> Surroundings:
    return surroundings(git_hosts={"github.com": web.url}, **{"max_document_mb": 1} | settings)


async def names(around: Surroundings, **fields: Any) -> list[str]:
    return [found.title for found in await _list(around, **fields)]


async def _list(around: Surroundings, **fields: Any) -> list[Found]:
    return await listed(opened(around, **{"type": "github", "location": REPOSITORY} | fields))


def fetches(web: Web) -> int:
    """How often files or folders were asked for; git asks for both in one way."""
    return sum(b"command=fetch" in _plain(exchange) for exchange in web.exchanges)


def _plain(exchange: Exchange) -> bytes:
    return gzip.decompress(exchange.body) if exchange.header("content-encoding") == "gzip" else exchange.body


async def test_lists_the_files_of_the_branch_that_the_repository_shows(around: Surroundings) -> None:
    found = await _list(around, metadata={"a": 1}, source_type="documentation")
    assert [one.title for one in found] == [
        "README.md",
        "docs/deep/er.md",
        "docs/guide.md",
        "docs/ü b.md",
        "src/app.py",
    ]
    assert found[3].location == "https://github.com/org/repo/blob/main/docs/%C3%BC%20b.md"
    assert {(one.source_type, str(one.metadata)) for one in found} == {("documentation", "{'a': 1}")}


async def test_fetches(around: Surroundings) -> None:
    source = opened(around, type="github", location=REPOSITORY)
    found = await listed(source)
    data = [await fetched(source, one) for one in found]
    assert [one.data for one in data] == [b"# Hello", b"deeper", b"# Guide", b"name", b"print()"]
    assert [one.name for one in data] == ["README.md", "er.md", "guide.md", "ü b.md", "app.py"]
    assert [one.version for one in data] == [one.version for one in found]


async def test_the_list_needs_no_files(around: Surroundings, repo: Repo, web: Web) -> None:
    repo.commit({"large.txt": os.urandom(900_000)})
    source = opened(around, type="github", location=REPOSITORY)
    await listed(source)
    git_folder = source._source._started._folder  # type: ignore[attr-defined]
    assert sum(file.stat().st_size for file in git_folder.rglob("*") if file.is_file()) < 100_000


async def test_files_come_in_batches_that_grow(around: Surroundings, repo: Repo, web: Web) -> None:
    repo.commit({f"many/{at:03}.md": str(at).encode() for at in range(200)})
    source = opened(around, type="github", location=REPOSITORY, paths=["many"])
    found = await listed(source)
    before = fetches(web)
    assert [(await fetched(source, one)).data for one in found] == [str(at).encode() for at in range(200)]
    assert fetches(web) - before == 8  # 1 + 2 + … + 128

    few = opened(around, type="github", location=REPOSITORY, paths=["many"])
    await listed(few)
    before = fetches(web)
    assert [(await fetched(few, found[at])).data for at in (150, 7, 8)] == [b"150", b"7", b"8"]
    assert fetches(web) - before == 3


async def test_another_machine_fetches_what_this_one_listed(around: Surroundings, repo: Repo) -> None:
    found = await _list(around)
    repo.commit({"README.md": b"# Later"})
    elsewhere = opened(around, type="github", location=REPOSITORY)
    assert (await fetched(elsewhere, found[0])).data == b"# Hello"
    both = await asyncio.gather(*(fetched(elsewhere, one) for one in found[1:3]))
    assert [one.data for one in both] == [b"deeper", b"# Guide"]


async def test_a_server_that_cannot_leave_out_files(around: Surroundings, repo: Repo, web: Web) -> None:
    git(repo.served, "config", "uploadpack.allowFilter", "false")
    source = opened(around, type="github", location=REPOSITORY)
    found = await listed(source)
    before = fetches(web)
    assert (await fetched(source, found[0])).data == b"# Hello"
    assert fetches(web) == before
    assert (await fetched(opened(around, type="github", location=REPOSITORY), found[2])).data == b"# Guide"


async def test_only_what_changed_has_another_version(around: Surroundings, repo: Repo) -> None:
    before = {one.location: one.version for one in await _list(around)}
    repo.commit({"README.md": b"# Changed", "docs/new.md": b"new", "src/app.py": None})
    after = {one.location: one.version for one in await _list(around)}
    changed = {place.rpartition("main/")[2] for place in after if before.get(place) != after[place]}
    assert changed == {"README.md", "docs/new.md"}
    assert [place.rpartition("/")[2] for place in before.keys() - after.keys()] == ["app.py"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"paths": ["docs/"]}, ["docs/deep/er.md", "docs/guide.md", "docs/ü b.md"]),
        ({"paths": ["docs/deep", "README.md"]}, ["README.md", "docs/deep/er.md"]),
        ({"include": ["*.md"], "exclude": ["docs/deep/"]}, ["README.md", "docs/guide.md", "docs/ü b.md"]),
        ({"paths": ["src"], "include": ["**/*.py"]}, ["src/app.py"]),
    ],
)
async def test_paths_and_rules(around: Surroundings, rules: dict[str, Any], expected: list[str]) -> None:
    assert await names(around, **rules) == expected


async def test_a_path_is_no_beginning_of_a_name(around: Surroundings) -> None:
    with pytest.raises(SourceError, match="no file"):
        await names(around, paths=["doc"])


async def test_a_branch(around: Surroundings, repo: Repo) -> None:
    repo.commit({"README.md": b"# Next", "next.md": b"x"}, branch="release/2.x")
    source = opened(around, type="github", location=REPOSITORY, branch="release/2.x")
    found = await listed(source)
    assert found[0].location == "https://github.com/org/repo/blob/release/2.x/README.md"
    assert (await fetched(source, found[0])).data == b"# Next"
    assert "next.md" not in await names(around)
    with pytest.raises(SourceError, match="no branch 'gone'"):
        await names(around, branch="gone")


async def test_a_repository_that_is_empty_or_none(around: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "served/org/empty.git").mkdir()
    git(tmp_path / "served/org/empty.git", "init", "--quiet", "--bare")
    with pytest.raises(SourceError, match="empty"):
        await names(around, location="https://github.com/org/empty")
    with pytest.raises(SourceError, match="does not exist"):
        await names(around, location="https://github.com/org/none")


async def test_a_server_that_knows_it_without_the_suffix(around: Surroundings, repo: Repo) -> None:
    repo.served.rename(repo.served.with_name("plain"))
    source = opened(around, type="github", location="https://github.com/org/plain")
    found = await listed(source)
    assert (await fetched(source, found[0])).data == b"# Hello"


@pytest.mark.parametrize(
    ("credential", "sent"),
    [
        ({"token": "ghp_x"}, "x-access-token:ghp_x"),
        ({"value": "ghp_x"}, "x-access-token:ghp_x"),
        ({"username": "me", "password": "pä:ss\r\nx-evil: 1"}, "me:pä:ss\r\nx-evil: 1"),
    ],
)
async def test_a_private_repository(
    server: GitServer, web: Web, credential: dict[str, str], sent: str
) -> None:
    server.authorization = "Basic " + b64encode(sent.encode()).decode()
    around = hosted(web)
    with pytest.raises(SourceError, match="private"):
        await names(around)

    around = surroundings(git_hosts={"github.com": web.url}, credentials={CREDENTIAL: credential})
    source = opened(around, type="github", location=REPOSITORY, credential_id=CREDENTIAL)
    found = await listed(source)
    assert (await fetched(source, found[0])).data == b"# Hello"
    folder = source._source._started._folder  # type: ignore[attr-defined]
    secret = server.authorization.removeprefix("Basic ").encode()
    assert all(secret not in file.read_bytes() for file in folder.rglob("*") if file.is_file())

    server.authorization = "Basic other"
    with pytest.raises(SourceError, match="credential does not open it"):
        await listed(opened(around, type="github", location=REPOSITORY, credential_id=CREDENTIAL))


async def test_a_credential_that_is_gone_or_of_another_kind(web: Web) -> None:
    with pytest.raises(SourceError, match=CREDENTIAL):
        await names(hosted(web), credential_id=CREDENTIAL)
    with pytest.raises(SourceError, match="'token'"):
        await names(hosted(web, credentials={CREDENTIAL: {"a": "b"}}), credential_id=CREDENTIAL)


async def test_links_submodules_and_hooks_are_not_followed(
    around: Surroundings, repo: Repo, tmp_path: Path
) -> None:
    (tmp_path / "secret.md").write_text("secret")
    (repo.work / "link.md").symlink_to(tmp_path / "secret.md")
    (repo.work / "folder").symlink_to("/etc")
    commit = git(repo.work, "rev-parse", "HEAD")
    git(repo.work, "update-index", "--add", "--cacheinfo", f"160000,{commit},module")
    (repo.work / ".gitmodules").write_text('[submodule "m"]\n\tpath = module\n\turl = file:///etc\n')
    (repo.work / ".gitattributes").write_text("*.md filter=lfs\n")
    git(repo.work, "add", "link.md", "folder", ".gitmodules", ".gitattributes")
    git(repo.work, "commit", "--quiet", "-m", "links")
    git(repo.work, "push", "--quiet", str(repo.served), "HEAD:refs/heads/main")
    found = await names(around)
    assert {"link.md", "folder", "module"} & {name.split("/")[0] for name in found} == set()
    assert "README.md" in found


async def test_a_file_of_git_lfs_says_so(around: Surroundings, repo: Repo) -> None:
    repo.commit({"big.md": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"})
    source = opened(around, type="github", location=REPOSITORY, paths=["big.md"])
    (found,) = await listed(source)
    with pytest.raises(DocumentError, match="Git LFS"):
        await source.fetch(found)


async def test_a_huge_file_fails_alone(
    around: Surroundings, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the one that is sent whole and found too large, and the one that is cut off on its way."""
    monkeypatch.setattr(github, "BATCH_BYTES", 3_000_000)
    repo.commit({"a.md": b"a", "b.txt": b"b" * 1_000_001, "c.txt": os.urandom(4_000_000), "d.md": b"d"})
    source = opened(around, type="github", location=REPOSITORY, include=["/*"], exclude=["README.md"])
    a, b, c, d = await listed(source)
    for huge in (b, c):
        assert (await fetched(source, a)).data == b"a"
        with pytest.raises(DocumentError, match="larger than 1 MB"):
            await source.fetch(huge)
        assert (await fetched(source, d)).data == b"d"


async def test_a_repository_that_is_too_large(
    around: Surroundings, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repo.served, "config", "uploadpack.allowFilter", "false")
    repo.commit({"large.txt": os.urandom(900_000)})
    monkeypatch.setattr(program, "REPOSITORY_BYTES", 100_000)
    with pytest.raises(SourceError, match="too large"):
        await names(around)


async def test_a_tree_that_holds_itself_many_times(web: Web, repo: Repo) -> None:
    """Ten folders of ten folders of …: ten million files in a few hundred bytes."""
    blob = git(repo.work, "rev-parse", "HEAD:README.md")
    tree = _tree(repo, [f"100644 blob {blob}\t{at}.md" for at in range(10)])
    for _ in range(6):
        tree = _tree(repo, [f"040000 tree {tree}\t{at}" for at in range(10)])
    commit = git(repo.work, "commit-tree", "-m", "bomb", tree)
    git(repo.work, "push", "--quiet", "--force", str(repo.served), f"{commit}:refs/heads/main")
    with pytest.raises(SourceError, match="more than 1000 files"):
        await names(hosted(web, max_documents=1000))


def _tree(repo: Repo, lines: list[str]) -> str:
    done = subprocess.run(
        ["git", "mktree"], cwd=repo.work, input="\n".join(lines), capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


async def test_a_slow_server(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(exchange: Exchange) -> None:
        await exchange.closed.wait()

    monkeypatch.setattr(program, "NETWORK_S", 0.3)
    async with serve(never) as web:
        with pytest.raises(SourceError, match=r"within 0\.3 s"):
            await names(hosted(web))
        assert web.exchanges[0].closed.is_set() or await web.exchanges[0].closed.wait()


@pytest.mark.parametrize(
    "answer", [b"<html>", b"001e# service=git-upload-pack\n0000ffff", b"", b"0000" * 1000, b"\x00" * 100_000]
)
async def test_a_server_that_is_none_of_git(repo: Repo, answer: bytes) -> None:
    async def other(exchange: Exchange) -> None:
        await exchange.answer(200, answer, "content-type: application/x-git-upload-pack-advertisement")

    async with serve(other) as web:
        with pytest.raises(SourceError):
            await names(hosted(web))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("asked", ["info/refs?service=git-upload-pack", "git-upload-pack"])
async def test_redirects_are_not_followed(server: GitServer, repo: Repo, status: int, asked: str) -> None:
    """Neither of the first question nor of the one that has an answer."""

    async def elsewhere(exchange: Exchange) -> None:
        await server.answer(exchange)

    async def moving(exchange: Exchange) -> None:
        if f"/{asked} " in exchange.head:
            await exchange.answer(status, b"", f"location: {other.url}/org/repo.git/{asked}")
        else:
            await server.answer(exchange)

    async with serve(elsewhere) as other, serve(moving) as web:
        with pytest.raises(SourceError, match="redirects"):
            await names(hosted(web))
        assert other.exchanges == []


async def test_git_connects_to_the_address_that_was_judged(server: GitServer, web: Web) -> None:
    """A name that would resolve to nothing here leads where the guard has said."""
    asked = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    hosts = {"github.com": f"http://git.example.com:{web.port}"}
    around = surroundings(Egress(("127.0.0.0/8",), resolve), git_hosts=hosts)
    source = opened(around, type="github", location=REPOSITORY)
    found = await listed(source)
    assert (await fetched(source, found[0])).data == b"# Hello"
    assert set(asked) == {"git.example.com"}


async def test_a_certificate_that_nobody_vouches_for(server: GitServer, tmp_path: Path) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with serve(server.answer, self_signed(tmp_path)) as web:
        hosts = {"github.com": f"https://name.example:{web.port}"}
        with pytest.raises(SourceError, match="certificate is not valid"):
            await names(surroundings(Egress(("127.0.0.0/8",), resolve), git_hosts=hosts))
        assert web.exchanges == []


@pytest.mark.parametrize("url", REFUSED)
async def test_no_address_that_is_not_ours_to_reach(url: str) -> None:
    """Where an operator's setting leads is judged as well."""
    with pytest.raises(SourceError):
        await names(surroundings(Egress(), git_hosts={"github.com": url}))


async def test_a_name_that_changes_its_mind(web: Web) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def resolve(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    hosts = {"github.com": f"http://git.example.com:{web.port}"}
    with pytest.raises(SourceError, match="may not be reached"):
        await names(surroundings(Egress(("127.0.0.0/8",), resolve), git_hosts=hosts))
    assert fetches(web) == 0


async def test_the_folder_goes_with_the_source(around: Surroundings) -> None:
    source = opened(around, type="github", location=REPOSITORY)
    await listed(source)
    folder = source._source._started._folder  # type: ignore[attr-defined]
    assert folder.is_dir()
    del source
    assert not folder.exists()


async def test_what_a_killed_process_has_left_is_swept(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    makes = "import os; from kernel.knowledge.sources.scratch import made_for; x = type('X', (), {})()\n"
    makes += "print(made_for(x), flush=True); os.kill(os.getpid(), 9)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    killed = await anyio.run_process([sys.executable, "-c", makes], env=environment, check=False)
    left, fresh = Path(killed.stdout.decode().strip()), tmp_path / "codexos-git-fresh"
    (left / "pack").write_bytes(b"x")
    fresh.mkdir()
    source = opened(around, type="github", location=REPOSITORY)
    await listed(source)
    used = source._source._started._folder  # type: ignore[attr-defined]
    for folder in (left, used):
        os.utime(folder, (0, 0))
    scratch.sweep()
    assert [folder.exists() for folder in (left, fresh, used)] == [False, True, True]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_a_program_that_ends_before_it_is_told_anything(
    anyio_backend: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the event loop that actors have, to which this is an error."""
    real = program.running

    @asynccontextmanager
    async def late(*args: Any) -> AsyncGenerator[Any]:
        async with real(*args) as command:
            await command.process.wait()
            while not command.stdin.is_closing():  # noqa: ASYNC110  # the loop tells nobody
                await asyncio.sleep(0)
            yield command

    monkeypatch.setattr(program, "running", late)
    await program.Git(tmp_path, Egress()).begin()
    assert (tmp_path / "HEAD").exists()


async def test_giving_up_ends_the_program(around: Surroundings) -> None:
    async with AsyncExitStack():
        source = opened(around, type="github", location=REPOSITORY)
        listing = source.list()
        assert (await anext(listing)).title == "README.md"
        await listing.aclose()  # type: ignore[attr-defined]
        assert (await listed(source))[0].title == "README.md"
