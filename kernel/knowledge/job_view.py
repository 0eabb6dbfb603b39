"""A job as callers see it."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from kernel.clock import rfc3339
from kernel.knowledge.spec import Spec
from kernel.storage.jobs import Shown

Status = Literal["queued", "running", "completed", "completed_with_errors", "failed", "cancelled"]

COUNTS = ("discovered", "done", "skipped", "failed", "deleted")
FIELDS = (
    *("collection", "order", "status", "retry_of", "error", "listed", "chunks", "bytes"),
    *("created_at", "started_at", "run_at", "completed_at", *COUNTS),
)
"""Of the record, what is needed to show a job."""
TERMINAL = tuple(
    f'"job.{status}"'.encode() for status in ("completed", "completed_with_errors", "failed", "cancelled")
)


def shown(job_id: str, record: Mapping[str, bytes], now_ms: int) -> dict[str, Any]:
    """The API's shape, but for the errors of its documents."""
    spec = Spec.model_validate_json(record["order"])
    return {
        "id": job_id,
        "collection_id": record["collection"].decode(),
        "status": record["status"].decode(),
        "created_at": rfc3339(int(record["created_at"])),
        "started_at": _moment(record.get("started_at")),
        "completed_at": _moment(record.get("completed_at")),
        "kind": "reindex" if spec.reindex else "ingest",
        "reindex": spec.reindex.making.model_dump() if spec.reindex else None,
        "sync": spec.sync,
        "sources": spec.shown(),
        "sources_count": spec.count,
        "retry_of": record["retry_of"].decode() or None,
        "progress": {name: int(record[name]) for name in COUNTS},
        "chunks": int(record["chunks"]),
        "bytes": int(record["bytes"]),
        **_pace(record, now_ms),
        "error": orjson.loads(record["error"]) if record["error"] else None,
        "links": links(job_id),
    }


def links(job_id: str) -> dict[str, str]:
    path = f"/v1/rag/jobs/{job_id}"
    return {
        "self": path,
        "documents": f"{path}/documents",
        "events": f"{path}/events",
        "cancel": f"{path}/cancel",
    }


def shown_document(note: bytes, outcome: Shown) -> dict[str, Any]:
    shown = {name: value for name, value in orjson.loads(note).items() if name != "found"}
    return shown | {"status": outcome}


def is_terminal(body: bytes) -> bool:
    """Whether a stored event is the last one; `type` stands before `data`."""
    start = body.find(b'"type":"job.')
    return 0 <= start < body.find(b'"data":') and body[start + 7 :].startswith(TERMINAL)


def _pace(record: Mapping[str, bytes], now_ms: int) -> dict[str, Any]:
    """Throughput since its present driver began, and when it will be done: known once all is listed."""
    until_ms = int(record.get("completed_at") or now_ms)
    seconds = max(until_ms - int(record.get("run_at") or until_ms), 1) / 1000
    settled = sum(int(record[name]) for name in ("done", "skipped", "failed"))
    left, per_s = int(record["discovered"]) - settled, settled / seconds
    known = record["status"] == b"running" and record["listed"] == b"1" and per_s
    return {
        "throughput": {
            "documents_per_s": round(per_s, 1),
            "chunks_per_s": round(int(record["chunks"]) / seconds, 1),
        },
        "eta_s": round(left / per_s, 1) if known else None,
    }


def _moment(text: bytes | None) -> str | None:
    return rfc3339(int(text)) if text else None
