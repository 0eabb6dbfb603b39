"""Git repositories: what a remote has, its folders without its files, and then the files one asks for.

Nothing is ever checked out, so no link is followed and no filter runs. Redirects are off, and git connects to
the address that the guard has judged.
"""

import asyncio
import ipaddress
import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kernel.knowledge.sources.command import CHUNK_BYTES, SMALL_BYTES, GitError, begin, running
from kernel.outbound import BlockedAddress, Egress

OLDEST = (2, 37)
"""The first version that connects to the address it is told."""
REPOSITORY_BYTES = 2 * 2**30
"""What a repository may need on disk: its folders, and the files that have been asked for."""
NETWORK_S = 600.0
LOCAL_S = 60.0

_FILES = (b"100644", b"100755", b"100664")
"""Modes of files; links, folders and submodules have others."""
_QUIET = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
_REASONS = {
    "could not read Username": "The repository does not exist, or it is private and the credential does not open it",
    "Authentication failed": "The repository does not exist, or it is private and the credential does not open it",
    "returned error: 403": "Access to the repository is denied",
    "returned error: 30": "The server redirects; give the address that the repository has now",
    "unable to update url base": "The server redirects; give the address that the repository has now",
    "certificate": "The server's certificate is not valid",
    "Could not resolve": "The repository's host cannot be reached",
    "Failed to connect": "The repository's host cannot be reached",
    "dumb http": "The server does not speak git's protocol",
    "not valid: is this a git": "The server does not speak git's protocol",
}


class NoRepository(GitError):
    pass


class TooLarge(GitError):
    """More came than may be written, or a file is larger than asked for."""


@dataclass(frozen=True, slots=True)
class Remote:
    """authorization: the value of the header, None without."""

    url: str
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    branch: str
    commit: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a commit. path: as git keeps it, nearly always UTF-8."""

    sha: str
    path: bytes


class Git:
    """Commands in one bare repository in `folder`. All raise GitError."""

    def __init__(self, folder: Path, egress: Egress):
        self._folder = folder
        self._egress = egress

    async def begin(self) -> None:
        found = re.search(r"(\d+)\.(\d+)", (await self._run("--version", within_s=LOCAL_S)).decode())
        if found is None or (int(found[1]), int(found[2])) < OLDEST:
            raise GitError("The git program of this machine is too old")
        await self._run("init", "--quiet", "--bare", "--template=", within_s=LOCAL_S)

    async def head(self, remote: Remote, branch: str | None) -> Head:
        """The branch, by default the one that the remote shows first, and its newest commit."""
        wanted = f"refs/heads/{branch}" if branch else "HEAD"
        said = await self._run(
            *("ls-remote", "--symref", "origin", "HEAD", wanted), remote=remote, within_s=NETWORK_S
        )
        lines = [line.partition("\t") for line in said.decode(errors="replace").splitlines()]
        commit = next(
            (left for left, _, name in lines if name == wanted and not left.startswith("ref:")), None
        )
        if commit is None:
            raise GitError(
                f"The repository has no branch '{branch}'" if branch else "The repository is empty"
            )
        default = next(
            (left for left, _, name in lines if left.startswith("ref: ") and name == "HEAD"), "HEAD"
        )
        return Head(branch or default.removeprefix("ref: refs/heads/"), commit)

    async def fetch_folders(self, remote: Remote, commit: str) -> None:
        """The commit without its history, and without its files where the server can leave them out."""
        await self._fetch(remote, "--depth=1", "origin", commit, written=REPOSITORY_BYTES)

    async def fetch_files(self, remote: Remote, shas: Sequence[str], most: int) -> None:
        """Raises TooLarge when they have more than so many bytes as they are sent."""
        if sum(pack.stat().st_size for pack in self._folder.glob("objects/pack/*")) > REPOSITORY_BYTES:
            raise GitError("The repository is too large")
        await self._fetch(remote, "--stdin", "origin", stdin="\n".join(shas).encode(), written=most)

    async def _fetch(self, remote: Remote, *args: str, written: int, stdin: bytes = b"") -> None:
        options = (*_QUIET, "--filter=blob:none", *args)
        try:
            await self._run(
                "fetch", *options, remote=remote, stdin=stdin, within_s=NETWORK_S, written=written
            )
        except GitError:
            if self._drop_broken() >= written:
                raise TooLarge("The repository is too large") from None
            raise

    def _drop_broken(self) -> int:
        """Removes what a fetch that failed has left, and says how many bytes the largest of it has."""
        largest = 0
        for file in self._folder.glob("objects/pack/tmp_*"):
            largest = max(largest, file.stat().st_size)
            file.unlink()
        return largest

    async def files(self, commit: str) -> AsyncGenerator[Blob]:
        """All of the commit, in the order of their paths."""
        async with running(self._folder, ("ls-tree", "-r", "-z", "--full-tree", commit), {}) as command:
            rest = b""
            while chunk := await command.stdout.read(CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\0")
                for line in lines:
                    if blob := _blob(line):
                        yield blob
                if len(rest) > SMALL_BYTES:
                    raise GitError("The repository is broken")
            if await command.process.wait():
                raise GitError("The repository is broken")

    async def file(self, sha: str, most: int) -> bytes | None:
        """None when it has not been fetched. Raises TooLarge when it has more than `most` bytes."""
        async with running(self._folder, ("cat-file", "--batch"), {}) as command:
            command.say(f"{sha}\n".encode())
            try:
                async with asyncio.timeout(LOCAL_S):
                    _, _, *size = (await command.stdout.readline()).split()
                    if not size:
                        return None
                    if int(size[0]) > most:
                        raise TooLarge("The file is too large")
                    return await command.stdout.readexactly(int(size[0]))
            except (ValueError, TimeoutError, asyncio.IncompleteReadError):
                raise GitError("The file cannot be read") from None

    async def _run(
        self,
        *args: str,
        within_s: float,
        remote: Remote | None = None,
        stdin: bytes = b"",
        written: int = SMALL_BYTES,
    ) -> bytes:
        """What the command says, at most SAID_BYTES. written: bytes that one file may get."""
        config = await self._network(remote) if remote else {}
        try:
            async with asyncio.timeout(within_s), running(self._folder, args, config, written) as command:
                command.say(stdin)
                command.stdin.close()
                output, said = await asyncio.gather(begin(command.stdout), begin(command.stderr))
                if await command.process.wait():
                    raise _failure(said.decode(errors="replace"))
                return output
        except TimeoutError:
            raise GitError(f"The repository could not be read within {within_s:g} s") from None

    async def _network(self, remote: Remote) -> dict[str, str]:
        """The settings that lead to the remote and nowhere else."""
        parts = urlsplit(remote.url)
        scheme, host = parts.scheme, parts.hostname or ""
        port = parts.port or (443 if scheme == "https" else 80)
        config = {
            "http.curloptResolve": await self._pin(remote.url, host, port),
            f"protocol.{scheme}.allow": "always",
            "remote.origin.partialclonefilter": "blob:none",
            "remote.origin.promisor": "true",
            "remote.origin.url": remote.url,
        }
        if remote.authorization:
            config["http.extraHeader"] = f"Authorization: {remote.authorization}"
        return config

    async def _pin(self, url: str, host: str, port: int) -> str:
        """The addresses that the name has now, judged, so that git does not ask once more."""
        if problem := self._egress.check_url(url):
            raise GitError(f"The repository's host may not be reached: {problem}")
        try:
            addresses = await self._egress.addresses(host, port)
        except BlockedAddress as error:
            raise GitError(f"The repository's host may not be reached: {error}") from None
        except (OSError, TimeoutError):
            raise GitError("The repository's host cannot be reached") from None
        return f"{host}:{port}:" + ",".join(addresses) if not _is_address(host) else ""


def basic(username: str, password: str) -> str:
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _blob(line: bytes) -> Blob | None:
    """Of `<mode> <type> <sha>\\t<path>`; None for what is no file."""
    facts, _, path = line.partition(b"\t")
    mode, _, rest = facts.partition(b" ")
    return Blob(rest.rpartition(b" ")[2].decode(), path) if mode in _FILES else None


def _failure(said: str) -> GitError:
    """From what git says to what the caller is told."""
    if "not found" in said or "returned error: 404" in said:
        return NoRepository("The repository does not exist")
    reason = next((words for sign, words in _REASONS.items() if sign in said), None)
    return GitError(reason or "The repository cannot be read")
