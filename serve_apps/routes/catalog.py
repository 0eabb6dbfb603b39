"""What a flow can be made of: node types and models."""

import asyncio
from dataclasses import asdict
from itertools import compress
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.responses import Response

from kernel.models.seam import ModelInfo
from kernel.nodes.registry import describe
from serve_apps import answers
from serve_apps.deps import Caller, needs
from serve_apps.openapi import gives
from serve_apps.routing import Route
from serve_apps.shapes import ModelsAnswer, NodeTypes

router = APIRouter(prefix="/v1", route_class=Route, tags=["catalog"])

Reader = Annotated[Caller, needs("agents:read")]


@router.get(
    "/node-types", summary="List node types", responses=gives(200, NodeTypes, "Each with its JSON Schema.")
)
async def node_types(caller: Reader) -> Response:
    """What a node may be, the schema of its `config`, and an example of one."""
    types = [describe(node_type) for node_type in caller.kernel.node_types.values()]
    return answers.read(caller, {"node_types": types})


@router.get(
    "/models", summary="List models", responses=gives(200, ModelsAnswer, "Those that a flow may name.")
)
async def models(caller: Reader) -> Response:
    """`ready` says whether one can be used now, `missing` what it lacks. Keys in the workspace's vault count."""
    kernel = caller.kernel
    names = sorted(kernel.models.credentials)
    has = await asyncio.gather(*(kernel.secrets.has_key(caller.workspace_id, name) for name in names))
    keys = set(compress(names, has))
    return answers.read(caller, {"models": [_shown(model) for model in kernel.models.list(keys)]})


def _shown(model: ModelInfo) -> dict[str, Any]:
    facts = asdict(model)
    del facts["name"]
    return {name: value for name, value in facts.items() if value is not None}
