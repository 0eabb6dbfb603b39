"""What a credential's value must be, by its type. No error repeats any part of one, names of its fields included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography import x509

from kernel.clock import epoch_ms
from kernel.errors import PayloadTooLarge, ValidationError

MAX_BYTES = 65_536
HINT_FROM = 12
"""Characters: of a shorter secret four would be too much."""
HINT_LETTERS = 4
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: what follows cannot be written as a time."""
PEM = "-----BEGIN "
CheckUrl = Callable[[str], str | None]
"""Why a URL may not be used, or None: `Egress.check_url`."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Of a type whose values may be objects. fields: all there are, those first that make it usable, any of them."""

    needed: tuple[str, ...]
    others: tuple[str, ...]
    text: str | None = None
    """The field that a plain text becomes; None: it stays a text."""
    hint: tuple[str, ...] = ()


STRUCTURES = {
    "oauth2": Structure(
        ("access_token", "token_url"),
        ("refresh_token", "client_id", "client_secret", "scope", "token_type", "expires_at"),
        "access_token",
        ("client_secret", "refresh_token", "access_token"),
    ),
    "certificate": Structure(("certificate",), ("private_key", "chain", "passphrase")),
    "ssh_key": Structure(("private_key",), ("public_key", "passphrase", "username")),
}


@dataclass(frozen=True, slots=True)
class Material:
    """A sound value. hint: the last letters of its main secret. expires_at: ms."""

    value: Any
    hint: str | None
    expires_at: int | None

    def encode(self) -> bytes:
        """What is sealed."""
        return orjson.dumps(self.value)


def checked(kind: str, value: Any, check_url: CheckUrl) -> Material:
    """Raises ValidationError for field `value` or one below it, PayloadTooLarge above 64 kB."""
    if not isinstance(value, str | dict):
        raise _bad("must be a text or an object")
    if len(value.encode() if isinstance(value, str) else orjson.dumps(value)) > MAX_BYTES:
        details = {"field": "value", "limit_bytes": MAX_BYTES}
        raise PayloadTooLarge(f"The value is larger than {MAX_BYTES // 1024} kB", details)
    if not (value.strip() if isinstance(value, str) else value):
        raise _bad("must not be empty")
    if structure := STRUCTURES.get(kind):
        value = _structured(kind, structure, value)
    elif isinstance(value, dict) and kind != "custom":
        raise _bad(f"must be a text: {kind} has no fields")
    if kind == "api_key" and not (value.isprintable() and value == value.strip()):
        raise _bad("must be one line without spaces around it")
    if kind == "oauth2":
        _check_oauth2(value, check_url)
    return Material(value, _hint(kind, value), _end(kind, value))


def _structured(kind: str, structure: Structure, value: Any) -> Any:
    if isinstance(value, str):
        return value if structure.text is None else {structure.text: value}
    known = (*structure.needed, *structure.others)
    if not value.keys() <= set(known):
        raise _bad(f"has a field that {kind} does not: it has {', '.join(known)}")
    for field, part in value.items():
        if not isinstance(part, str) or not part.strip():
            raise _bad("must be a text that is not empty", field)
    if not value.keys() & set(structure.needed):
        raise _bad("Required: " + " or ".join(structure.needed))
    return value


def _check_oauth2(value: Mapping[str, str], check_url: CheckUrl) -> None:
    if url := value.get("token_url"):
        if problem := check_url(url):
            raise _bad(problem, "token_url")
        if "refresh_token" not in value and not {"client_id", "client_secret"} <= value.keys():
            raise _bad("with token_url it needs refresh_token, or client_id and client_secret")
    if "expires_at" in value:
        try:
            ends = epoch_ms(value["expires_at"])
        except ValueError as error:
            raise _bad(str(error), "expires_at") from None
        if not 0 <= ends <= LAST_MS:
            raise _bad("must lie between 1970 and 9999 in UTC", "expires_at")


def _hint(kind: str, value: Any) -> str | None:
    """Of keys in files there is none: their last letters are alike."""
    fields = STRUCTURES[kind].hint if kind in STRUCTURES else ()
    main = value if isinstance(value, str) else next((value[name] for name in fields if name in value), "")
    if len(main) < HINT_FROM or kind in ("certificate", "ssh_key"):
        return None
    return main[-HINT_LETTERS:]


def _end(kind: str, value: Any) -> int | None:
    if kind == "oauth2" and "expires_at" in value:
        return epoch_ms(value["expires_at"])
    if kind != "certificate":
        return None
    field, text = (None, value) if isinstance(value, str) else ("certificate", value["certificate"])
    return _certificate_end(text, field) if text.lstrip().startswith(PEM) else None


def _certificate_end(text: str, field: str | None) -> int:
    """Of the first one: others in the text vouch for it."""
    try:
        first = x509.load_pem_x509_certificate(text.encode())
        return int(first.not_valid_after_utc.timestamp() * 1000)
    except ValueError:
        raise _bad("is no certificate in PEM", field) from None


def _bad(reason: str, field: str | None = None) -> ValidationError:
    path = "value" if field is None else f"value.{field}"
    return ValidationError.at(path, reason, "The value does not fit the type")
