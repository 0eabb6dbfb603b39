"""The few pages this server shows people: plain HTML without scripts, made from what the program knows."""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from kernel.errors import NodeError, NodeTimeout, ProviderError
from serve_apps.openapi import ERRORS, UNROUTED

FOLDER = Path(__file__).parent
NODE_ERRORS = {
    NodeError: "A node of an execution failed; `error.details` says which and why.",
    ProviderError: "A model or HTTP provider answered wrongly or not at all.",
    NodeTimeout: "A node passed its time limit.",
}


def _render(name: str, **values: Any) -> str:
    from minijinja import Environment, load_from_path, safe

    def code(text: str) -> Any:
        """Text with its `backticks` as code."""
        return safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)))

    environment = Environment(loader=load_from_path(str(FOLDER)), filters={"code": code})
    page: str = environment.render_template(name, **values)
    return page


def home(base: str) -> str:
    return _render("home.html", base=base)


def errors() -> str:
    shown = [
        {
            "code": e.code,
            "text": text,
            "retryable": e.retryable,
            "status": None if e in NODE_ERRORS else e.status,
        }
        for e, text in (ERRORS | UNROUTED | NODE_ERRORS).items()
    ]
    return _render("errors.html", errors=shown)


def reference(document: Mapping[str, Any]) -> str:
    operations = list(_operations(document))
    names = dict.fromkeys(operation["group"] for operation in operations)
    groups = [{"name": name, "operations": [o for o in operations if o["group"] == name]} for name in names]
    return _render("reference.html", doc=document, groups=groups)


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield {
                **operation,
                "path": path,
                "method": method.upper(),
                "group": operation.get("tags", ["system"])[0],
                "named": [_resolved(document, p) for p in operation["parameters"]],
                "body": _example(document, operation.get("requestBody")),
                "answers": [
                    {"status": status, "description": _resolved(document, answer)["description"]}
                    for status, answer in operation["responses"].items()
                ],
            }


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    if (reference := part.get("$ref")) is None:
        return part
    for name in reference.removeprefix("#/").split("/"):
        document = document[name]
    return document


def _example(document: Mapping[str, Any], body: Mapping[str, Any] | None) -> str | None:
    if body is None or "application/json" not in body["content"]:
        return None
    schema = _resolved(document, body["content"]["application/json"]["schema"])
    examples = schema.get("examples")
    return orjson.dumps(examples[0], option=orjson.OPT_INDENT_2).decode() if examples else None
