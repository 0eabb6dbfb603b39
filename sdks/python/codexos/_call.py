"""One request as a resource describes it; the clients send it."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from codexos.errors import error_of


@dataclass(frozen=True, slots=True)
class Call:
    """query: absent where None. json: the body, if any. upload: a file instead.

    wait_s: how long the server itself may take on purpose. reads: whether it changes nothing, so that a repetition
    needs no `Idempotency-Key` though it is a POST. idempotency_key: the caller's own, instead of one made here.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    upload: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    reads: bool = False
    idempotency_key: str | None = None

    def params(self) -> dict[str, str]:
        return {name: written(value) for name, value in self.query.items() if value is not None}

    @contextmanager
    def files(self) -> Iterator[dict[str, Any] | None]:
        """The form of an upload, opened anew for each try."""
        if self.upload is None:
            yield None
            return
        with self.upload.open("rb") as file:
            yield {"file": (self.upload.name, file)}

    def own_headers(self) -> dict[str, str]:
        """Made once for all tries, so that they carry one key."""
        if self.method != "POST" or self.reads:
            return dict(self.headers)
        return {"idempotency-key": self.idempotency_key or f"py-{uuid.uuid4()}", **self.headers}


def path(*parts: str) -> str:
    """`/agents/agent_…`. Raises ValueError for a part that would lead somewhere else."""
    if any(part in ("", ".", "..") or "/" in part for part in parts):
        raise ValueError(f"an id must not be empty, dots or have a slash: {parts!r}")
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def written(value: object) -> str:
    """A value as it stands in a query. A time without a zone is local."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)


def given(**fields: Any) -> dict[str, Any]:
    """A body without the fields that were not given."""
    return {name: value for name, value in fields.items() if value is not None and value is not UNSET}


class Unset:
    """Stands for a field that was not given, where None means something of its own."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


class Countdown:
    """Called, it tells how many seconds are left, none below 0; None: there is no end to them."""

    def __init__(self, seconds: float | None):
        self._ends = None if seconds is None else time.monotonic() + seconds

    def __call__(self) -> float | None:
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())


def value_of(response: httpx2.Response) -> Any:
    """The JSON of an answer. Raises APIStatusError when it is none, as from a proxy's own page."""
    try:
        return response.json()
    except ValueError as error:
        raise error_of(response.status_code, None, response.headers) from error
