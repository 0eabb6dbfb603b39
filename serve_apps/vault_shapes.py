"""What the API answers about the vault, for its OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.vault.record import CredentialType
from serve_apps.shapes import AGENT, KEY, USER, PageShape, Time

OPEN = ConfigDict(extra="allow")
CREDENTIAL = "cred_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
TOKEN_ID = "cxv_01JZ8XJ4T2QK5V9W3M7N6P1R8S"


class CredentialShape(BaseModel):
    model_config = OPEN

    id: str = Field(examples=[CREDENTIAL])
    name: str = Field(examples=["OpenAI API Key"])
    type: CredentialType = Field(examples=["api_key"])
    value_hint: str | None = Field(
        description="The last 4 characters of its main secret; null when that has fewer than 12, and of files.",
        examples=["Xy9z"],
    )
    tags: list[str] = Field(examples=[["openai", "production"]])
    environment: str | None = Field(examples=["production"])
    description: str | None
    version: int = Field(description="How many values it has had.", examples=[1])
    expires_at: Time | None = Field(description="When the value ends, of certificates and access tokens.")
    warning: Literal["expired", "expires_soon"] | None = Field(
        description="Of certificates; soon: within 30 days.", examples=[None]
    )
    created_by: str = Field(examples=[USER])
    created_at: Time
    updated_at: Time
    rotated_at: Time | None


class User(BaseModel):
    type: Literal["agent", "collection"] = Field(examples=["agent"])
    id: str = Field(examples=[AGENT])


class CredentialDetail(CredentialShape):
    used_by: list[User] = Field(description="While it is in use, it is deleted only by force.")


class RevealedCredential(CredentialShape):
    value: Any = Field(description="As it was stored: a text or an object.", examples=["sk-..."])


class CredentialPage(PageShape):
    credentials: list[CredentialShape]


class NewVaultToken(BaseModel):
    model_config = OPEN

    id: str = Field(description="The audit log names it by this.", examples=[TOKEN_ID])
    token: str = Field(
        description="Shown once: send it as `X-Vault-Token`.",
        examples=[f"{TOKEN_ID}_7Qm2vXc8ZpLkR4tYbN1sWd6FgHj3KaE5uTiOoPqVxBy"],
    )
    expires_at: Time
    credential_ids: list[str] | None = Field(examples=[[CREDENTIAL]])
    all: bool
    max_uses: int | None = Field(description="null: any number", examples=[1])
    reason: str = Field(examples=["Rotate the billing key"])
    key_id: str | None = Field(description="null: with any API key of the workspace", examples=[KEY])
