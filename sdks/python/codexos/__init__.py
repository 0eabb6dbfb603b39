"""The Python client of CodexOS.

from codexos import Client

client = Client(api_key="YOUR_API_KEY")
result = client.agents.execute(agent_id="agent_abc123", input={"text": "Hello world"})
"""

from codexos import webhooks
from codexos._async.client import AsyncClient
from codexos._limits import RateLimits
from codexos._sync.client import Client
from codexos._version import __version__
from codexos.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    CodexOSError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnavailableError,
    UnprocessableEntityError,
    WaitTimeoutError,
    WebhookVerificationError,
)

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "Client",
    "CodexOSError",
    "ConflictError",
    "InternalServerError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RateLimits",
    "UnavailableError",
    "UnprocessableEntityError",
    "WaitTimeoutError",
    "WebhookVerificationError",
    "__version__",
    "webhooks",
]
