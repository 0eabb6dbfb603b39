"""Credentials as they are stored and as callers send and see them. Values stand only in what callers send."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic.json_schema import SkipJsonSchema

from kernel.clock import rfc3339, rfc3339_or_none
from kernel.ids import is_id
from kernel.shape import Shape, at_most
from kernel.storage.vault import Draft, Listed
from kernel.text import clean_name, clean_text, refuse_null

CredentialType = Literal[
    "api_key", "password", "oauth2", "certificate", "ssh_key", "connection_string", "custom"
]
MAX_TAGS = 20
MAX_TOKEN_CREDENTIALS = 100
MAX_TTL_S = 3600
DAY_MS = 86_400_000
EXPIRES_SOON_MS = 30 * DAY_MS


def _name(text: str) -> str:
    name = clean_name(text)
    if "/" in name:
        raise ValueError("must not contain /")
    return name


def _tags(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(clean_name(tag, 64) for tag in tags))


def _elsewhere(value: object) -> object:
    raise ValueError("is changed by POST /v1/vault/credentials/{credential_id}/rotate")


def _credential_ids(ids: list[str]) -> list[str]:
    if not all(is_id("cred", one) for one in ids):
        raise ValueError("must be ids such as cred_…")
    return ids


def _key_id(text: str) -> str:
    if not is_id("key", text):
        raise ValueError("must be an id such as key_…")
    return text


CredentialName = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128})
]
Tags = Annotated[
    list[str], at_most(MAX_TAGS), AfterValidator(_tags), Field(json_schema_extra={"maxItems": MAX_TAGS})
]
Environment = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Description = Annotated[
    str,
    AfterValidator(lambda text: clean_text(text, 1000)),
    WithJsonSchema({"type": "string", "maxLength": 1000}),
]
Value = Annotated[
    Any,
    Field(repr=False, description="A text, or, by type, an object; at most 64 kB."),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]}),
]
Reason = Annotated[
    str, AfterValidator(lambda text: clean_name(text, 500)), Field(json_schema_extra={"maxLength": 500})
]


class CredentialCreate(Shape):
    """`environment` and `tags` say what it is for: one that is named or tagged like a model provider is its key."""

    name: CredentialName
    type: CredentialType
    value: Value
    tags: Tags = Field(default_factory=list)
    environment: Environment | None = None
    description: Description | None = None


class CredentialPatch(Shape):
    """An absent field stays. The value is changed by rotation."""

    name: CredentialName | None = None
    tags: Tags | None = None
    environment: Environment | None = None
    description: Description | None = None
    value: SkipJsonSchema[Any] = Field(None, repr=False, exclude=True)

    _not_null = field_validator("name", "tags", mode="before")(refuse_null)
    _not_here = field_validator("value", mode="before")(_elsewhere)


class Rotation(Shape):
    value: Value


class TokenCreate(Shape):
    """It opens these credentials, or `all`; with `key_id`, only together with this API key."""

    credential_ids: (
        Annotated[
            list[str],
            Field(min_length=1, json_schema_extra={"maxItems": MAX_TOKEN_CREDENTIALS}),
            at_most(MAX_TOKEN_CREDENTIALS),
            AfterValidator(_credential_ids),
        ]
        | None
    ) = None
    all: bool = False
    ttl_s: int = Field(900, ge=1, le=MAX_TTL_S)
    max_uses: int | None = Field(None, ge=1, le=1_000_000)
    reason: Reason
    key_id: Annotated[str, AfterValidator(_key_id)] | None = None


class Item(BaseModel):
    """All that is said of a credential. Times in ms; hint: the end of its main secret; expires_at: of the value."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: CredentialType
    tags: list[str]
    environment: str | None
    description: str | None
    hint: str | None
    expires_at: int | None
    created_by: str
    created_at: int
    updated_at: int
    rotated_at: int | None = None

    @classmethod
    def of(cls, stored: Listed) -> "Item":
        return cls.model_validate_json(stored.item)

    def encode(self) -> bytes:
        return orjson.dumps(self.model_dump())

    def draft(self) -> Draft:
        places = [("type", str(self.type)), *(("tag", tag) for tag in {tag.lower() for tag in self.tags})]
        if self.environment is not None:
            places.append(("environment", self.environment))
        return Draft(self.name, self.encode(), places)

    def warning(self, now_ms: int) -> Literal["expired", "expires_soon"] | None:
        """Of certificates: access tokens are meant to end soon."""
        if self.type != "certificate" or self.expires_at is None:
            return None
        if self.expires_at <= now_ms:
            return "expired"
        return "expires_soon" if self.expires_at - now_ms <= EXPIRES_SOON_MS else None


def shown(stored: Listed, now_ms: int) -> dict[str, Any]:
    """As the API answers it, without its value."""
    item = Item.of(stored)
    return {
        "id": stored.id,
        "name": item.name,
        "type": item.type,
        "value_hint": item.hint,
        "tags": item.tags,
        "environment": item.environment,
        "description": item.description,
        "version": stored.version,
        "expires_at": rfc3339_or_none(item.expires_at),
        "warning": item.warning(now_ms),
        "created_by": item.created_by,
        "created_at": rfc3339(item.created_at),
        "updated_at": rfc3339(item.updated_at),
        "rotated_at": rfc3339_or_none(item.rotated_at),
    }
