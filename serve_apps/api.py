"""The HTTP application: routes behind CORS where it is set, `Edge` (request id, errors) and `Gate` (keys)."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.errors import CodexError
from kernel.logs import configure
from serve_apps import errors
from serve_apps.edge import Edge
from serve_apps.gate import Gate
from serve_apps.openapi import TITLE, Document
from serve_apps.routes import (
    access,
    agents,
    audit,
    budgets,
    catalog,
    executions,
    ingest,
    rag,
    sockets,
    streams,
    system,
    usage,
    vault,
    webhooks,
    workspaces,
)

OpenKernel = Callable[[Settings], AbstractAsyncContextManager[Kernel]]

ROUTERS = (
    agents.router,  # the busiest first: paths are tried in this order
    executions.router,
    streams.router,
    sockets.router,
    catalog.router,
    access.router,
    workspaces.router,
    audit.router,
    usage.router,
    budgets.router,
    rag.router,
    ingest.router,
    ingest.writing,
    ingest.uploading,
    vault.router,
    webhooks.router,
    system.router,
    system.people,
)
ACCEPTED = [
    *("authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "x-vault-token"),
]
"""Headers that pages of the allowed origins may send."""
EXPOSED = [
    *("x-request-id", "etag", "location", "link", "retry-after", "idempotent-replayed"),
    *("x-ratelimit-plan", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    *("ratelimit-policy", "ratelimit"),
]
"""Headers that pages of the allowed origins may read."""
ANSWERED = (CodexError, HTTPException, RequestValidationError, WebSocketRequestValidationError)


def create_app(settings: Settings, open_kernel: OpenKernel = Kernel.opened) -> FastAPI:
    """The kernel lives as long as the application, in the event loop that serves it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        configure(settings.log_level)
        async with open_kernel(settings) as app.state.kernel:
            yield

    app = FastAPI(
        title=TITLE,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        middleware=[*_cors(settings), Middleware(Edge), Middleware(Gate)],
        exception_handlers=dict.fromkeys(ANSWERED, errors.answer),
    )
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    app.state.settings = settings
    app.state.document = Document(app.routes)
    return app


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.api.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.api.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=ACCEPTED,
            expose_headers=EXPOSED,
        )
    ]
