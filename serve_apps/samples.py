"""Examples for the OpenAPI document, put together from those of the parts of a schema."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
PLAIN: dict[str, Any] = {"string": "…", "integer": 1, "number": 1.0, "boolean": True, "null": None}


def sample(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    """A value that fits. schemas: those that a `$ref` may name."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "examples" in schema:
        return schema["examples"][0]
    for name in ("const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object":
            return {name: sample(part, schemas) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema.get("items", {}), schemas)]
    return PLAIN.get(schema.get("type", "null"))
