"""What needs no key: health, the OpenAPI document and the pages for people."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from kernel.errors import Unavailable
from serve_apps import pages
from serve_apps.answers import JSON, encode
from serve_apps.openapi import gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import Health

router = APIRouter(route_class=Route, tags=["system"])
people = APIRouter(include_in_schema=False)

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@router.get("/healthz", summary="Is the process alive", responses=gives(200, Health, "It is."))
async def healthz() -> Response:
    """Asks nothing of other parts."""
    return Response(encode({"status": "ok"}), media_type=JSON)


RUNNER_SILENT_MS = 5_000


@router.get("/readyz", summary="Can it serve", responses=gives(200, Health, "It can."))
async def readyz(request: Request) -> Response:
    """The store answers and a runner is alive; else 503."""
    kernel = getattr(request.app.state, "kernel", None)
    if kernel is None:
        raise Unavailable("The API is starting", {"reason": "starting"})
    if not await kernel.queue.live_runners(kernel.clock.now_ms() - RUNNER_SILENT_MS):
        raise Unavailable("No runner is alive", {"reason": "no_runner"})
    return Response(encode({"status": "ok"}), media_type=JSON)


@router.get("/v1/openapi.json", summary="This document", responses=gives_nothing(200, "OpenAPI 3.1."))
async def openapi(request: Request) -> Response:
    """The same for `/v1` and `/api/v1`."""
    return Response(
        request.app.state.document.text, media_type=JSON, headers={"cache-control": "public, max-age=300"}
    )


@people.get("/")
async def home(request: Request) -> Response:
    return HTMLResponse(pages.home(f"{request.url.scheme}://{request.url.netloc}"), headers=PAGE_HEADERS)


@people.get("/docs")
async def reference(request: Request) -> Response:
    return HTMLResponse(pages.reference(request.app.state.document.value), headers=PAGE_HEADERS)


@people.get("/docs/errors")
async def errors() -> Response:
    return HTMLResponse(pages.errors(), headers=PAGE_HEADERS)


@people.get("/docs/style.css")
async def style() -> Response:
    return FileResponse(pages.FOLDER / "style.css", media_type="text/css")
