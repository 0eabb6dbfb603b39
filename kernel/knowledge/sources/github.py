"""The files of a branch of a git repository, of GitHub or of any other server that speaks git's protocol.

The list needs the folders only: a file's `version` is the name git has for its content, so what is unchanged
is never sent. Files come in batches that grow as long as they are asked for in the order of the list.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from urllib.parse import quote, urlsplit

from kernel.knowledge.contract import DocumentError, Fetched, Found, SourceError
from kernel.knowledge.sources.command import GitError
from kernel.knowledge.sources.formats import readable_name
from kernel.knowledge.sources.git import Blob, Git, Head, NoRepository, Remote, TooLarge, basic
from kernel.knowledge.sources.globs import Globs
from kernel.knowledge.sources.scratch import made_for
from kernel.knowledge.sources.shapes import GithubSource
from kernel.knowledge.sources.surroundings import Surroundings
from kernel.outbound import Egress

USERNAME = "x-access-token"
"""Goes with a token that has no user name; servers look at the token only."""
PATH_BYTES = 512
"""Files with longer paths are left out."""
SHA_BYTES = 20
MAX_AHEAD = 1_024
"""Files in one batch."""
BATCH_BYTES = 128 * 2**20
"""Of one batch as it is sent."""
OVERHEAD_BYTES = 2**20
"""What git needs around a file."""
OPEN_S = 900.0
SUFFIXES = (".git", "")
"""Some servers know a repository by its name with it, some only without."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Repository:
    def __init__(self, entry: GithubSource, around: Surroundings):
        self._entry, self._around = entry, around
        self._globs = Globs(entry.include, entry.exclude)
        self._paths = tuple(path.rstrip("/").encode() for path in entry.paths)
        self._one = asyncio.Lock()
        self._started: Git | None = None
        self._remotes: dict[str, Remote] = {}
        self._commit = ""
        self._listed = bytearray()
        self._batch = range(0)

    async def list(self) -> AsyncGenerator[Found]:
        """The handle: the commit, the file's `blob`, its place in the list, and what ends the remote's name."""
        try:
            async with self._one:
                head, suffix = await self._head()
                await self._open(head.commit, suffix)
            if not self._listed:
                raise GitError(f"The branch '{head.branch}' has no file that the source asks for")
            at = 0
            async with aclosing(self._files(head.commit)) as files:
                async for blob in files:
                    yield self._found(blob, head, {"at": at, "suffix": suffix})
                    at += 1
        except GitError as error:
            raise SourceError(str(error)) from None

    def _found(self, blob: Blob, head: Head, place: Mapping[str, int | str]) -> Found:
        path = f"{quote(head.branch)}/{quote(blob.path)}"
        return Found(
            location=f"{self._entry.location}/blob/{path}",
            title=blob.path.decode(errors="replace"),
            source_type=self._entry.kind,
            version=blob.sha,
            handle={"commit": head.commit, "blob": blob.sha, **place},
            metadata=self._entry.metadata,
        )

    async def fetch(self, found: Found) -> Fetched | None:
        handle = found.handle
        try:
            async with self._one:
                await self._open(handle["commit"], handle["suffix"])
                data = await self._data(handle["blob"], handle["at"], handle["suffix"])
        except TooLarge:
            raise DocumentError(
                f"The file is larger than {self._around.settings.max_document_mb} MB"
            ) from None
        except (GitError, SourceError) as error:
            raise DocumentError(str(error)) from None
        if data.startswith(LFS_POINTER):
            raise DocumentError("The file is kept in Git LFS, which is not read")
        return Fetched(data, found.title.rpartition("/")[2], None, handle["blob"])

    async def _head(self) -> tuple[Head, str]:
        """The branch, and the suffix with which the server knows the repository."""
        git = await self._git()
        *others, last = SUFFIXES
        for suffix in others:
            try:
                return await git.head(await self._remote(suffix), self._entry.branch), suffix
            except NoRepository:
                continue
        return await git.head(await self._remote(last), self._entry.branch), last

    async def _open(self, commit: str, suffix: str) -> None:
        """Learns the order of the list, and of nothing else the names."""
        if self._commit == commit:
            return
        git = await self._git()
        await git.fetch_folders(await self._remote(suffix), commit)
        listed = bytearray()
        try:
            async with asyncio.timeout(OPEN_S), aclosing(self._files(commit)) as files:
                async for blob in files:
                    listed += bytes.fromhex(blob.sha)
                    self._check_count(len(listed) // SHA_BYTES)
        except TimeoutError:
            raise GitError(f"The repository could not be listed within {OPEN_S:g} s") from None
        self._commit, self._listed, self._batch = commit, listed, range(0)

    def _check_count(self, count: int) -> None:
        most = self._around.settings.max_documents
        if count > most:
            raise GitError(f"The repository has more than {most} files; give paths or rules")

    async def _files(self, commit: str) -> AsyncGenerator[Blob]:
        async with aclosing((await self._git()).files(commit)) as files:
            async for blob in files:
                if self._takes(blob.path):
                    yield blob

    def _takes(self, path: bytes) -> bool:
        if len(path) > PATH_BYTES or not self._is_asked(path):
            return False
        text = path.decode(errors="replace")
        return readable_name(text) and self._globs.takes(text)

    def _is_asked(self, path: bytes) -> bool:
        return not self._paths or any(path == one or path.startswith(one + b"/") for one in self._paths)

    async def _data(self, sha: str, at: int, suffix: str) -> bytes:
        git, most = await self._git(), self._around.max_bytes
        data = await git.file(sha, most)
        if data is None:
            await self._load(git, sha, at, suffix)
            data = await git.file(sha, most)
        if data is None:
            raise GitError("The file is no longer in the repository")
        return data

    async def _load(self, git: Git, sha: str, at: int, suffix: str) -> None:
        """The file, and more of what follows it in the list the longer the list has been followed."""
        remote = await self._remote(suffix)
        follows = 0 <= at - self._batch.stop <= len(self._batch)
        self._batch = range(at, at + max(1, min(2 * len(self._batch), MAX_AHEAD) if follows else 1))
        names = self._listed[self._batch.start * SHA_BYTES : self._batch.stop * SHA_BYTES]
        wanted = {sha, *(names[begin : begin + SHA_BYTES].hex() for begin in range(0, len(names), SHA_BYTES))}
        try:
            await git.fetch_files(remote, sorted(wanted), BATCH_BYTES)
        except TooLarge:
            self._batch = range(at, at + 1)
            await git.fetch_files(remote, [sha], self._around.max_bytes + OVERHEAD_BYTES)

    async def _remote(self, suffix: str) -> Remote:
        if suffix not in self._remotes:
            secrets = await self._around.secrets(self._entry.credential_id)
            url = remote_url(self._entry, self._around) + suffix
            authorization = _authorization(secrets) if self._entry.credential_id else None
            self._remotes[suffix] = Remote(url, authorization)
        return self._remotes[suffix]

    async def _git(self) -> Git:
        """In a folder that goes when this source does."""
        if self._started is None:
            git = Git(made_for(self), self._around.egress)
            await git.begin()
            self._started = git
        return self._started


def remote_url(entry: GithubSource, around: Surroundings) -> str:
    """Where the repository is asked for. Raises SourceError when it may not be."""
    parts = urlsplit(entry.location)
    base = around.settings.git_hosts.get(parts.netloc)
    url = base.rstrip("/") + parts.path if base else entry.location
    if problem := around.egress.check_url(url):
        raise SourceError(problem)
    if not base and parts.scheme == "http" and Egress().check_url(url) is None:
        raise SourceError("A repository outside the allowed networks must be read over https")
    return url


def _authorization(secrets: Mapping[str, str]) -> str:
    """Raises SourceError for a credential of another kind."""
    password = secrets.get("token") or secrets.get("password") or secrets.get("value")
    if not password:
        raise SourceError("The credential has no 'token' or 'password'")
    return basic(secrets.get("username") or USERNAME, password)
