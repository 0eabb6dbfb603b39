"""Webhooks: endpoints that are told of what happens, and what was delivered to them."""

from typing import Annotated, ClassVar

from fastapi import APIRouter, Body, Path, Query
from pydantic import ConfigDict, JsonValue
from starlette.responses import Response

from kernel.webhooks.record import SecretRotation, WebhookCreate, WebhookPatch, shown
from kernel.webhooks.webhooks import Status
from serve_apps import answers
from serve_apps.deps import Caller, Paging, needs, paged
from serve_apps.openapi import gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.webhook_shapes import (
    DELIVERY,
    WEBHOOK,
    Delivery,
    DeliveryPage,
    NewWebhook,
    SigningSecret,
    UndeliveredPage,
    WebhookPage,
    WebhookShape,
)

router = APIRouter(prefix="/v1/webhooks", route_class=Route, tags=["webhooks"])

Writer = Annotated[Caller, needs("webhooks:write")]
WebhookId = Annotated[str, Path(description="A webhook's id.", examples=[WEBHOOK])]
DeliveryId = Annotated[str, Path(description="A delivery's id: that of its event.", examples=[DELIVERY])]
ORDER: JsonValue = {
    "url": "https://your-app.com/webhook",
    "events": ["execution.completed", "agent.error"],
    "secret": "your-webhook-secret",
}


class NewEndpoint(WebhookCreate):
    """An endpoint to be told of these events, or of all (`*`).

    `secret` signs: of `whsec_<base64>` what is encoded, of other text its UTF-8 bytes; without one, one is made.
    """

    max_body: ClassVar = 65_536

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


class EndpointChanges(WebhookPatch):
    """An absent field stays. An endpoint that is enabled again gets what has waited for it."""

    max_body: ClassVar = 65_536

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": ["*"]}]})


class NewSecret(SecretRotation):
    """Without `secret`, one is made."""

    max_body: ClassVar = 4_096

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


@router.get("", summary="List webhooks", responses=gives(200, WebhookPage, "A page, newest first."))
async def index(caller: Writer, paging: Annotated[Paging, paged]) -> Response:
    """Without their secrets."""
    query = paging.of("wh")
    return answers.listed(caller, "webhooks", await caller.kernel.webhooks.list(caller.act, query), query)


@router.post(
    "",
    status_code=201,
    summary="Create a webhook",
    responses=gives(201, NewWebhook, "The webhook, its secret shown once."),
)
async def create(caller: Writer, order: NewEndpoint) -> Response:
    """A workspace has at most 100. Deliveries are signed as Standard Webhooks has it, and made at least once."""
    made = await caller.kernel.webhooks.create(caller.act, order)
    return answers.created(made, f"/v1/webhooks/{made['id']}", secret=True)


@router.get(
    "/signing-secret",
    summary="Get the workspace's signing secret",
    responses=gives(200, SigningSecret, "The secret."),
)
async def signing(caller: Writer) -> Response:
    """Signs what goes to the `webhook_url` of executions. Each reading is recorded in the audit log."""
    return answers.secret(await caller.kernel.webhooks.signing(caller.act))


@router.post(
    "/signing-secret/rotate",
    status_code=201,
    summary="Rotate the workspace's signing secret",
    responses=gives(201, SigningSecret, "The new secret."),
)
async def rotate_signing(caller: Writer, order: Annotated[NewSecret, Body()] = NewSecret()) -> Response:
    """For 24 h deliveries are signed with the secret before as well."""
    made = await caller.kernel.webhooks.rotate_signing(caller.act, order)
    return answers.created(made, "/v1/webhooks/signing-secret", secret=True)


@router.get(
    "/undelivered",
    summary="List what URLs of executions did not get",
    responses=gives(200, UndeliveredPage, "A page, newest first."),
)
async def undelivered(caller: Writer, paging: Annotated[Paging, paged]) -> Response:
    """Ends of executions that could not be told to their `webhook_url`: the newest 1,000, with their attempts."""
    query = paging.of("evt")
    page = await caller.kernel.webhooks.undelivered(caller.act, query)
    return answers.listed(caller, "undelivered", page, query)


@router.get("/{webhook_id}", summary="Get a webhook", responses=gives(200, WebhookShape, "The webhook."))
async def get(caller: Writer, webhook_id: WebhookId) -> Response:
    """With how it fares. Its ETag changes with what people set."""
    stored = await caller.kernel.webhooks.get(caller.act, webhook_id)
    return answers.read(caller, shown(stored), stored.etag)


@router.patch("/{webhook_id}", summary="Change a webhook", responses=gives(200, WebhookShape, "The webhook."))
async def update(caller: Writer, webhook_id: WebhookId, patch: EndpointChanges) -> Response:
    """Events count from now on; what is on its way goes to the new URL."""
    stored = await caller.kernel.webhooks.patch(caller.act, webhook_id, patch, answers.if_match(caller))
    return answers.done(shown(stored), stored.etag)


@router.delete(
    "/{webhook_id}", status_code=204, summary="Delete a webhook", responses=gives_nothing(204, "Deleted.")
)
async def delete(caller: Writer, webhook_id: WebhookId) -> Response:
    """With the log of its deliveries; what still waits is not delivered."""
    await caller.kernel.webhooks.delete(caller.act, webhook_id, answers.if_match(caller))
    return answers.no_content()


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    summary="Test a webhook",
    responses=gives(202, Delivery, "The delivery of an event `webhook.test`, to this endpoint alone."),
)
async def test(caller: Writer, webhook_id: WebhookId) -> Response:
    """Follow it in the list of deliveries. A disabled endpoint cannot be tested."""
    made = await caller.kernel.webhooks.test(caller.act, webhook_id)
    return answers.accepted(made, f"/v1/webhooks/{webhook_id}/deliveries")


@router.post(
    "/{webhook_id}/rotate-secret",
    status_code=201,
    summary="Rotate a webhook's secret",
    responses=gives(201, NewWebhook, "The webhook, its new secret shown once."),
)
async def rotate(
    caller: Writer, webhook_id: WebhookId, order: Annotated[NewSecret, Body()] = NewSecret()
) -> Response:
    """For 24 h deliveries are signed with the secret before as well."""
    made = await caller.kernel.webhooks.rotate(caller.act, webhook_id, order)
    return answers.created(made, f"/v1/webhooks/{webhook_id}", secret=True)


@router.get(
    "/{webhook_id}/deliveries",
    summary="List deliveries",
    responses=gives(200, DeliveryPage, "A page, newest event first."),
)
async def deliveries(
    caller: Writer,
    webhook_id: WebhookId,
    paging: Annotated[Paging, paged],
    status: Annotated[Status | None, Query(description="Only those that have come to this.")] = None,
) -> Response:
    """What waits, and of what was delivered and of what is dead the newest 1,000 each, with all attempts."""
    query = paging.of("evt")
    page = await caller.kernel.webhooks.deliveries(caller.act, webhook_id, status, query)
    return answers.listed(caller, "deliveries", page, query)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Deliver once more",
    responses=gives(202, Delivery, "The delivery, due now."),
)
async def redeliver(caller: Writer, webhook_id: WebhookId, delivery_id: DeliveryId) -> Response:
    """The same body under the same `webhook-id`, with all tries before it. Bodies are kept for 7 days, of a
    workspace's deliveries that ended the newest 2,000."""
    made = await caller.kernel.webhooks.redeliver(caller.act, webhook_id, delivery_id)
    return answers.accepted(made, f"/v1/webhooks/{webhook_id}/deliveries")
