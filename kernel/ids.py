"""Ids: `<prefix>_<ULID>`, sortable by time, opaque to callers."""

import re
from typing import Literal

from ulid import ULID

Prefix = Literal[
    "agent",
    "exec",
    "col",
    "doc",
    "job",
    "cred",
    "tmpl",
    "wh",
    "key",
    "ws",
    "user",
    "evt",
    "req",
    "batch",
    "upload",
]

_BODY = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


def new_id(prefix: Prefix) -> str:
    return f"{prefix}_{ULID()}"


def id_at(prefix: Prefix, epoch_ms: int) -> str:
    """A new id made at that moment."""
    return f"{prefix}_{ULID.from_timestamp(epoch_ms)}"


def is_id(prefix: Prefix, text: str) -> bool:
    """Whether `text` has the form of an id of this kind; another form can name nothing."""
    head, _, body = text.partition("_")
    return head == prefix and _BODY.fullmatch(body) is not None


def first_id_at(prefix: Prefix, epoch_ms: int) -> str:
    """The smallest id of this kind made at that moment: a bound for time ranges over ids."""
    return f"{prefix}_{ULID.from_bytes(epoch_ms.to_bytes(6, 'big') + bytes(10))}"
