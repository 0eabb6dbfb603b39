"""The entries of an ingest order, as callers send them. What may be reached is not looked at here."""

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field

from kernel.ids import is_id
from kernel.knowledge.sources.globs import check_glob
from kernel.shape import Shape, at_most
from kernel.text import clean_name

MAX_LOCATION = 2048
MAX_TEXT_BYTES = 5_000_000
MAX_METADATA_BYTES = 16_384
MAX_RULES = 100
RESERVED = ("chunk_id", "document_id", "pk", "tenant", "version")
METADATA = f"goes with every chunk, to filter by; {', '.join(RESERVED)} are this product's own"

_REPOSITORY = re.compile(r"(https?://[^/?#@\\\s]{1,300})((?:/[A-Za-z0-9_.~-]{1,200}){2,20})", re.IGNORECASE)
_BRANCH = re.compile(
    r"(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)|[./]$))[^-./\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*"
)
_OBJECT = re.compile(r"s3://[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9](?:/(?!/)[^\x00-\x1f\x7f]*)?")
_UPLOAD = re.compile(r"upload_[0-9A-Za-z]{1,64}")
_SOURCE_TYPE = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"


def _key(key: str) -> str:
    if key in RESERVED:
        raise ValueError(f"is this product's own, as are {', '.join(RESERVED)}")
    return key


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    for key in metadata:
        clean_name(key)
    try:
        size = len(orjson.dumps(metadata))
    except orjson.JSONEncodeError:
        raise ValueError("has text or numbers that JSON cannot carry") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must have at most {MAX_METADATA_BYTES} bytes as JSON, not {size}")
    return metadata


def _repository(location: str) -> str:
    """Without `.git` and with a host in lower case, so that one repository has one name."""
    match = _REPOSITORY.fullmatch(location.rstrip("/"))
    if match is None or any(name.strip(".") == "" for name in match[2][1:].split("/")):
        raise ValueError("must be the address of a repository, such as https://github.com/org/repo")
    server, path = match[1].lower(), match[2].removesuffix(".git")
    if server.endswith("//github.com") and path.count("/") != 2:
        raise ValueError("must name a repository only; branch and paths are fields of their own")
    return server + path


def _branch(branch: str) -> str:
    if _BRANCH.fullmatch(branch) is None:
        raise ValueError("is no name of a branch")
    return branch


def _path(path: str) -> str:
    if path.startswith("/") or "\x00" in path or {"", ".", ".."} & set(path.removesuffix("/").split("/")):
        raise ValueError("must be a path from the repository's root, such as docs/")
    return path


def _file(location: str) -> str:
    if _OBJECT.fullmatch(location) is None and _UPLOAD.fullmatch(location) is None:
        raise ValueError("must be s3://bucket/key, s3://bucket/prefix/ or the id of an upload")
    return location


def _credential(credential_id: str) -> str:
    if not is_id("cred", credential_id):
        raise ValueError("is no id of a credential")
    return credential_id


def _place(location: str) -> str:
    return clean_name(location, 1024)


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("has a half character") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"must have at most {MAX_TEXT_BYTES} bytes, not {size}")
    return text


def _title(title: str) -> str:
    return clean_name(title, 512)


Credential = Annotated[str, AfterValidator(_credential)]
Glob = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(check_glob)]
Rules = Annotated[list[Glob], at_most(MAX_RULES)]
RepositoryPath = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_path)]
Metadata = Annotated[dict[Annotated[str, AfterValidator(_key)], Any], AfterValidator(_metadata)]
DocumentText = Annotated[str, AfterValidator(_text)]
Title = Annotated[str, AfterValidator(_title)]


class _Entry(Shape):
    type: str
    metadata: Metadata = Field(default_factory=dict, description=METADATA)
    source_type: str | None = Field(
        None, pattern=_SOURCE_TYPE, description="what searches filter by; by default the type"
    )

    @property
    def kind(self) -> str:
        """The source type that documents of this entry have."""
        return self.source_type or self.type


class CrawlRules(Shape):
    """depth: links from the start, 0 for the start alone. max_pages: pages that are asked for."""

    depth: int = Field(3, ge=0, le=10)
    include: Rules = Field(default_factory=list, description="globs on the path; without any, all pages")
    exclude: Rules = Field(default_factory=list, description="globs on the path")
    max_pages: int = Field(1_000, ge=1, le=100_000)
    sitemap: bool = Field(True, description="also ask for the pages that the site's sitemaps name")


class UrlSource(_Entry):
    type: Literal["url"]
    location: str = Field(min_length=1, max_length=MAX_LOCATION, examples=["https://docs.example.com"])
    crawl: CrawlRules | None = Field(None, description="without it, this one page")


class GithubSource(_Entry):
    type: Literal["github"]
    location: Annotated[str, AfterValidator(_repository)] = Field(
        max_length=MAX_LOCATION, examples=["https://github.com/org/repo"]
    )
    branch: Annotated[str, AfterValidator(_branch)] | None = Field(
        None, max_length=255, description="by default the repository's own"
    )
    paths: Annotated[list[RepositoryPath], at_most(MAX_RULES)] = Field(
        default_factory=list, description="files and folders; without any, all", examples=[["docs/"]]
    )
    include: Rules = Field(default_factory=list, description="globs on the path")
    exclude: Rules = Field(default_factory=list, description="globs on the path")
    credential_id: Credential | None = Field(None, description="has `token`, or `username` and `password`")


class FileSource(_Entry):
    type: Literal["file"]
    location: Annotated[str, AfterValidator(_file)] = Field(
        max_length=MAX_LOCATION, examples=["s3://bucket/file.pdf"]
    )
    name: Annotated[str, AfterValidator(_place)] | None = Field(
        None, description="of an upload: its document's location; by default the name of the file"
    )
    credential_id: Credential | None = Field(
        None, description="has `access_key_id`, `secret_access_key`, perhaps `session_token` and `region`"
    )

    @property
    def is_upload(self) -> bool:
        return self.location.startswith("upload_")


class TextSource(_Entry):
    type: Literal["text"]
    location: Annotated[str, AfterValidator(_place)] = Field(
        description="a name that stays", examples=["faq.md"]
    )
    text: DocumentText
    title: Title | None = None


SourceEntry = Annotated[UrlSource | GithubSource | FileSource | TextSource, Field(discriminator="type")]
