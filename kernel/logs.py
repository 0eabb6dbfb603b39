"""Log lines as JSON, each with the id of its request. Bodies, headers and keys are never logged, and of what was raised
only where: no value of a variable.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, TextIO, cast

import orjson
import structlog

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

Line = MutableMapping[str, Any]


def configure(level: str) -> None:
    """Sets up the process's log: JSON lines on standard error, from `level` (such as `INFO`) on."""
    structlog.configure(
        processors=[
            _with_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Standard error as it is when something is written: whoever redirects it for a while gets the lines."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _with_request_id(logger: Any, method: str, line: Line) -> Line:
    if request_id := REQUEST_ID.get():
        line["request_id"] = request_id
    return line


def _dumps(line: Line, **options: Any) -> str:
    return orjson.dumps(line, default=str).decode()
