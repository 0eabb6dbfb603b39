"""What the API answers about webhooks and what it sends to them, for its OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.webhooks.record import EVENTS, TEST_EVENT
from serve_apps.shapes import AGENT, EXECUTION, MOMENT, USER, ErrorBody, PageShape, Time

OPEN = ConfigDict(extra="allow")
WEBHOOK = "wh_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
DELIVERY = "evt_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
JOB = "job_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ERROR_WORDS = (
    "`blocked_address`, `timed_out`, `connection_failed`, `tls_failed`, `redirected`, `status`, or, of what was never "
    "sent, `queue_full`, `expired` or `internal`"
)


class LastDelivery(BaseModel):
    model_config = OPEN

    id: str = Field(examples=[DELIVERY])
    event: str = Field(examples=["execution.completed"])
    at: Time
    status_code: int | None = Field(description="null: there was no answer", examples=[200])
    error: str | None = Field(description="null: it was delivered")


class WebhookShape(BaseModel):
    model_config = OPEN

    id: str = Field(examples=[WEBHOOK])
    url: str = Field(examples=["https://your-app.com/webhook"])
    events: list[str] = Field(examples=[["execution.completed", "agent.error"]])
    description: str | None
    status: Literal["enabled", "failing", "disabled"] = Field(
        description="failing: no attempt has succeeded since `failing_since`"
    )
    disabled_reason: Literal["requested", "failing", "gone"] | None = Field(
        description="failing: for 5 days; gone: it answered 410"
    )
    failing_since: Time | None
    last_delivery: LastDelivery | None = Field(description="the newest attempt")
    secret_rotated_at: Time | None
    created_by: str = Field(examples=[USER])
    created_at: Time
    updated_at: Time


class NewWebhook(WebhookShape):
    secret: str = Field(description="shown once", examples=[SECRET])


class SigningSecret(BaseModel):
    model_config = OPEN

    secret: str = Field(examples=[SECRET])
    secret_rotated_at: Time | None


class WebhookPage(PageShape):
    webhooks: list[WebhookShape]


class Attempt(BaseModel):
    model_config = OPEN

    at: Time
    duration_ms: int = Field(examples=[84])
    status_code: int | None = Field(description="null: there was no answer", examples=[503])
    error: str | None = Field(description=f"null: it was delivered; else {ERROR_WORDS}", examples=["status"])
    body: str | None = Field(
        description="the first 1 kB of the answer; kept of the newest attempt", examples=["upstream is down"]
    )


class Delivery(BaseModel):
    model_config = OPEN

    id: str = Field(description="the `webhook-id` that the receiver gets", examples=[DELIVERY])
    event: str = Field(examples=["execution.completed"])
    status: Literal["pending", "delivered", "dead"] = Field(description="dead: no try is left")
    created_at: Time
    next_attempt_at: Time | None = Field(description="of a pending one; null while it is being delivered")
    attempts: list[Attempt] = Field(description="the oldest first; the last 20 are kept")


class DeliveryPage(PageShape):
    deliveries: list[Delivery]


class Undelivered(BaseModel):
    model_config = OPEN

    id: str = Field(description="the `webhook-id` of the event", examples=[DELIVERY])
    execution_id: str = Field(examples=[EXECUTION])
    host: str = Field(description="of its `webhook_url`", examples=["your-app.com"])
    event: str = Field(examples=["execution.completed"])
    created_at: Time
    attempts: list[Attempt] = Field(description="the oldest first")


class UndeliveredPage(PageShape):
    undelivered: list[Undelivered]


class WebhookResult(BaseModel):
    model_config = OPEN

    output: Any = Field(description="null with `output_link` when it is over 16 kB", examples=["Hello Ada"])
    tokens_used: int = Field(examples=[1250])
    cost: float | None = Field(description="USD; null when the price is unknown", examples=[0.05])


class ExecutionData(BaseModel):
    model_config = OPEN

    execution_id: str = Field(examples=[EXECUTION])
    agent_id: str | None = Field(description="null of an inline flow", examples=[AGENT])
    status: str
    labels: dict[str, str] = Field({}, description="absent when there are none")


class RunningData(ExecutionData):
    status: Literal["running"]


class CancelledData(ExecutionData):
    status: Literal["cancelled"]


class CompletedData(ExecutionData):
    status: Literal["completed"]
    result: WebhookResult


class FailedData(ExecutionData):
    status: Literal["failed"]
    error: ErrorBody


class TimedOutData(ExecutionData):
    status: Literal["timed_out"]


class AgentData(BaseModel):
    model_config = OPEN

    agent_id: str = Field(examples=[AGENT])
    name: str = Field(examples=["Customer Support Agent"])
    version: str = Field(examples=["1.0.0"])
    status: str = Field(examples=["active"])


class AgentErrorData(AgentData):
    status: Literal["error"]


class IngestionData(BaseModel):
    model_config = OPEN

    job_id: str = Field(examples=[JOB])
    collection_id: str = Field(examples=["col_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    status: Literal["completed", "completed_with_errors", "failed"]
    error: ErrorBody | None = Field(examples=[None])
    progress: dict[str, int] = Field(
        examples=[{"discovered": 120, "done": 118, "skipped": 2, "failed": 0, "deleted": 0}]
    )
    chunks: int = Field(examples=[960])
    bytes: int = Field(examples=[845_210])


class FailedIngestionData(IngestionData):
    status: Literal["failed"]
    error: ErrorBody


class ThresholdData(BaseModel):
    model_config = OPEN

    scope: Literal["workspace", "agent", "key"]
    id: str | None = Field(description="of the agent or key", examples=[None])
    period: Literal["day", "month"]
    period_start: Time
    amount: float = Field(description="USD", examples=[200.0])
    spent: float = Field(description="USD", examples=[100.5])
    threshold: float = Field(description="share of the amount that was reached", examples=[0.5])


class BatchData(BaseModel):
    model_config = OPEN

    batch_id: str = Field(examples=["batch_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])


class PingData(BaseModel):
    model_config = OPEN

    webhook_id: str = Field(examples=[WEBHOOK])


SENT: dict[str, tuple[str, type[BaseModel]]] = {
    "execution.started": ("An execution was accepted.", RunningData),
    "execution.completed": ("An execution has completed.", CompletedData),
    "execution.failed": ("An execution has failed.", FailedData),
    "execution.cancelled": ("An execution was cancelled.", CancelledData),
    "execution.timed_out": ("An execution took longer than it may.", TimedOutData),
    "execution.waiting": ("An execution waits for an input. Not sent yet.", RunningData),
    "agent.created": ("An agent was created.", AgentData),
    "agent.updated": ("An agent was changed.", AgentData),
    "agent.deleted": ("An agent was deleted; the data is what it was.", AgentData),
    "agent.error": ("An agent failed five times in a row, or lost a credential.", AgentErrorData),
    "ingestion.completed": ("An ingestion has ended, perhaps with errors in some documents.", IngestionData),
    "ingestion.failed": ("An ingestion could not go on.", FailedIngestionData),
    "batch.completed": ("A batch has ended. Not sent yet.", BatchData),
    "usage.threshold": ("Spending has reached a threshold of a budget.", ThresholdData),
    TEST_EVENT: ("Somebody tests this endpoint.", PingData),
}
assert set(SENT) == {*EVENTS, TEST_EVENT} - {"*"}

SENT_HEADERS = {
    "webhook-id": (
        "Names the event: the same at each attempt, so that a repeated one can be told.",
        DELIVERY,
    ),
    "webhook-timestamp": ("When this attempt was signed, in seconds since 1970.", "1764000000"),
    "webhook-signature": (
        "`v1,` and the HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>` in base64, for each valid secret, with "
        "a space between.",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
}


def sent(event: str) -> tuple[str, dict[str, Any], type[BaseModel]]:
    """What an event says: a summary, the schema of its body, and the model of its data, which that refers to."""
    summary, model = SENT[event]
    properties = {
        "event": {"type": "string", "const": event},
        "timestamp": {"type": "string", "format": "date-time", "examples": [MOMENT]},
        "data": {"$ref": f"#/components/schemas/{model.__name__}"},
    }
    return summary, {"type": "object", "properties": properties, "required": list(properties)}, model
