"""The node types there are."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kernel.models.seam import Models
from kernel.nodes.condition import ConditionNode
from kernel.nodes.contract import NodeType
from kernel.nodes.http import HttpNode
from kernel.nodes.llm import LlmNode
from kernel.nodes.retrieval import RetrievalNode, Searches
from kernel.nodes.sandbox import Sandbox
from kernel.nodes.template import TemplateNode
from kernel.nodes.transform import TransformNode
from kernel.outbound import Egress


def registry(models: Models, egress: Egress, sandbox: Sandbox, searches: Searches) -> Mapping[str, NodeType]:
    """By name; the parts are what the types need to run."""
    types: tuple[NodeType, ...] = (
        LlmNode(models, sandbox),
        RetrievalNode(searches, models),
        HttpNode(egress),
        TemplateNode(sandbox),
        ConditionNode(sandbox),
        TransformNode(sandbox),
    )
    return MappingProxyType({node_type.name: node_type for node_type in types})


def describe(node_type: NodeType) -> dict[str, Any]:
    """A row of `GET /node-types`."""
    return {
        "name": node_type.name,
        "title": node_type.title,
        "schema": node_type.config.model_json_schema(),
        "example": dict(node_type.example),
    }
