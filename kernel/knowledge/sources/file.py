"""Files: an object or a prefix of a bucket through pyarrow, or what a caller has uploaded."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kernel.errors import NotFound
from kernel.knowledge.contract import DocumentError, Fetched, Found, SourceError
from kernel.knowledge.sources.formats import readable_name
from kernel.knowledge.sources.shapes import FileSource
from kernel.knowledge.sources.surroundings import Surroundings, Upload
from kernel.outbound import BlockedAddress

S3 = "s3://"
CONNECT_S = 5.0
REQUEST_S = 30.0
DEFAULT_REGION = "us-east-1"

_REGION = re.compile(r"[a-z0-9-]{1,32}")
_REASONS = {
    "NO_SUCH_BUCKET": "The bucket does not exist",
    "' not found": "The bucket does not exist",
    "ACCESS_DENIED": "Access to the bucket is denied: it takes a credential that opens it",
    "INVALID_ACCESS_KEY_ID": "The credential is not accepted",
    "SIGNATURE_DOES_NOT_MATCH": "The credential is not accepted",
    "INVALID_CLIENT_TOKEN_ID": "The credential is not accepted",
    "EXPIRED": "The credential has expired",
    "NO_SUCH_KEY": "The file does not exist",
    "NETWORK_CONNECTION": "The object store cannot be reached",
}

T = TypeVar("T")


class Bucket:
    """The objects of a location; `version` is the time of the last change with the size. Hidden ones are left out,
    and below a prefix those that no parser takes."""

    def __init__(self, entry: FileSource, around: Surroundings):
        self._entry = entry
        self._around = around
        self._opened: Any = None

    async def list(self) -> AsyncGenerator[Found]:
        files = await self._files()
        path = self._entry.location.removeprefix(S3)
        only = None if path.endswith("/") or "/" not in path else await _asked(files.get_file_info, path)
        if only is not None and only.is_file:
            yield self._found(only)
            return
        empty = True
        async for info in _below(files, path, only):
            empty = False
            yield self._found(info)
        if empty:
            bucket = await _asked(files.get_file_info, path.partition("/")[0])
            there = bucket.type.name == "Directory"
            raise SourceError(
                f"There is no file at {self._entry.location}" if there else _REASONS["NO_SUCH_BUCKET"]
            )

    def _found(self, info: Any) -> Found:
        return Found(
            location=S3 + info.path,
            title=info.base_name,
            source_type=self._entry.kind,
            version=f"{info.mtime_ns}-{info.size}",
            size=info.size,
            metadata=self._entry.metadata,
        )

    async def fetch(self, found: Found) -> Fetched | None:
        most = self._around.max_bytes
        _check_size(found.size or 0, self._around)
        try:
            files = await self._files()
            data = await _asked(_read, files, found.location.removeprefix(S3), most + 1)
        except SourceError as error:
            raise DocumentError(str(error)) from None
        _check_size(len(data), self._around)
        return Fetched(data, found.title, None, found.version)

    async def _files(self) -> Any:
        """The S3 file system of pyarrow. Raises SourceError."""
        if self._opened is None:
            secrets = await self._around.secrets(self._entry.credential_id)
            keys = _keys(secrets) if self._entry.credential_id else self._own_keys()
            place = await self._place()
            bucket = self._entry.location.removeprefix(S3).partition("/")[0]
            self._opened = await _asked(_open, bucket, secrets.get("region"), keys, place)
        return self._opened

    def _own_keys(self) -> dict[str, Any]:
        """Nobody's, which opens public buckets, unless the operator lets everybody use this machine's."""
        return {} if self._around.settings.s3_environment else {"anonymous": True}

    async def _place(self) -> dict[str, str]:
        """Where the object store is, when it is not Amazon's. Raises SourceError when it may not be reached."""
        endpoint = self._around.settings.s3_endpoint
        if not endpoint:
            return {}
        url = endpoint if "://" in endpoint else f"https://{endpoint}"
        parts = urlsplit(url)
        try:
            if problem := self._around.egress.check_url(url):
                raise SourceError(f"The object store may not be reached: {problem}")
            await self._around.egress.addresses(parts.hostname or "", parts.port or 443)
        except BlockedAddress as error:
            raise SourceError(f"The object store may not be reached: {error}") from None
        except (OSError, TimeoutError):
            raise SourceError(_REASONS["NETWORK_CONNECTION"]) from None
        return {"scheme": parts.scheme, "endpoint_override": parts.netloc}


class UploadedFile:
    """A document by its name, so that another upload of the same name takes its place."""

    def __init__(self, entry: FileSource, around: Surroundings):
        self._entry = entry
        self._around = around

    async def list(self) -> AsyncGenerator[Found]:
        upload = await self._upload()
        yield Found(
            location=self._entry.name or upload.name,
            title=upload.name,
            source_type=self._entry.kind,
            version=upload.version,
            size=upload.size,
            metadata=self._entry.metadata,
            origin=self._entry.location,
        )

    async def fetch(self, found: Found) -> Fetched | None:
        try:
            upload = await self._upload()
            _check_size(upload.size, self._around)
            return Fetched(await upload.read(), upload.name, upload.media_type, upload.version)
        except (NotFound, SourceError):
            raise DocumentError(_no_upload(self._entry.location)) from None

    async def _upload(self) -> Upload:
        try:
            return await self._around.uploads(self._entry.location)
        except NotFound:
            raise SourceError(_no_upload(self._entry.location)) from None


def _no_upload(upload_id: str) -> str:
    return f"There is no upload '{upload_id}'"


def _check_size(size: int, around: Surroundings) -> None:
    if size > around.max_bytes:
        raise DocumentError(f"The file is larger than {around.settings.max_document_mb} MB")


def _keys(secrets: Mapping[str, str]) -> dict[str, str]:
    """Raises SourceError for a credential of another kind."""
    key, secret = secrets.get("access_key_id"), secrets.get("secret_access_key")
    if not key or not secret:
        raise SourceError("The credential has no 'access_key_id' and 'secret_access_key'")
    token = secrets.get("session_token")
    return {"access_key": key, "secret_key": secret} | ({"session_token": token} if token else {})


def _open(bucket: str, region: str | None, keys: Mapping[str, Any], place: Mapping[str, str]) -> Any:
    """Without keys, the ones of this machine's environment. Raises what pyarrow raises."""
    from pyarrow import fs

    if region is None:
        region = DEFAULT_REGION if place else fs.resolve_s3_region(bucket)
    elif _REGION.fullmatch(region) is None:
        raise SourceError("The credential's 'region' is none")
    return fs.S3FileSystem(
        **keys, **place, region=region, connect_timeout=CONNECT_S, request_timeout=REQUEST_S
    )


async def _below(files: Any, path: str, only: Any) -> AsyncGenerator[Any]:
    """Folder by folder. What is no folder itself is the beginning of the names in the folder above it."""
    folder, _, beginning = path.rpartition("/")
    if "/" not in path or (only is not None and only.type.name == "Directory"):
        folder, beginning = path, ""
    folders = deque([folder])
    while folders:
        for info in await _asked(_children, files, folders.popleft()):
            if info.base_name.startswith(".") or not info.base_name.startswith(beginning):
                continue
            if not info.is_file:
                folders.append(info.path)
            elif readable_name(info.base_name):
                yield info
        beginning = ""


def _children(files: Any, folder: str) -> Any:
    from pyarrow import fs

    return files.get_file_info(fs.FileSelector(folder, allow_not_found=True))


def _read(files: Any, path: str, most: int) -> bytes:
    with files.open_input_stream(path) as stream:
        return bytes(stream.read(most))


async def _asked(call: Callable[..., T], *args: Any) -> T:
    """The call in a thread. Raises SourceError with words of ours for what the object store says."""
    try:
        return await asyncio.to_thread(call, *args)
    except FileNotFoundError:
        raise SourceError(_REASONS["NO_SUCH_KEY"]) from None
    except (OSError, ValueError) as error:
        said = str(error)
        reason = next((words for code, words in _REASONS.items() if code in said), None)
        raise SourceError(reason or "The object store did not answer as it should") from None
