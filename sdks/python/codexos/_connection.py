"""Where the API is and which key opens it: an argument, the environment, or a platform of this folder.

A platform that runs here (`make up`) leaves both in `.codexos/connection.json`, or in `$CODEXOS_HOME`. Its key is
sent to its own address only: naming another server does not hand it over.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from codexos.errors import CodexOSError

DEFAULT_URL = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True, slots=True)
class Connection:
    base_url: str
    api_key: str = field(repr=False)


def connection(base_url: str | None, api_key: str | None) -> Connection:
    """Raises CodexOSError when there is no key, or when an address or file cannot be understood."""
    stored = _stored() if base_url is None or api_key is None else {}
    url = base_url or os.environ.get("CODEXOS_BASE_URL") or stored.get("base_url") or DEFAULT_URL
    url = _checked(url)
    own = url == str(stored.get("base_url", "")).rstrip("/")
    key = api_key or os.environ.get("CODEXOS_API_KEY") or (stored.get("api_key") if own else None)
    if not key:
        raise CodexOSError("No API key: give api_key=…, or set CODEXOS_API_KEY")
    return Connection(url, key)


def _stored() -> Mapping[str, Any]:
    path = Path(os.environ.get("CODEXOS_HOME") or ".codexos") / "connection.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CodexOSError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CodexOSError(f"{path} holds no connection")
    return found


def _checked(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise CodexOSError(f"base_url {url!r} is no address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise CodexOSError(f"base_url {url!r} must begin with http:// or https://")
    return url.rstrip("/")
