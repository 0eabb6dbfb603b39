"""Judges a flow of a workspace before it is stored or run: what is wrong with it, and which credentials it uses."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kernel.agents.flow import Flow
from kernel.agents.graph import check, config_bytes
from kernel.agents.reading import NodeShape
from kernel.agents.secrets import SecretNames, credentials_of, mentioned
from kernel.errors import Problem
from kernel.models.seam import Models

Credentials = Callable[
    [str, Collection[str], Collection[str]], Awaitable[tuple[Mapping[str, str], Collection[str]]]
]
LARGE_CONFIG = 16_384
"""Bytes of a flow's configs that are checked in the event loop at most: some 50 ms at worst."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """credentials: their ids, of a flow without problems."""

    problems: list[Problem]
    credentials: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Judge:
    """credentials: of names in lower case, and of ids, those that a workspace has: ids by name, and ids."""

    node_types: Mapping[str, NodeShape]
    models: Models
    credentials: Credentials

    async def __call__(self, ws: str, flow: Flow, input_schema: Mapping[str, Any] | None = None) -> Judgement:
        """In a thread when it will take long: regular expressions, templates and schemas are compiled."""
        names, ids = mentioned(flow)
        secrets = SecretNames(*await self.credentials(ws, names, ids)) if names or ids else SecretNames()
        parts = (flow, self.node_types, self.models, input_schema, secrets)
        if config_bytes(flow) > LARGE_CONFIG:
            problems = await asyncio.to_thread(check, *parts)
        else:
            problems = check(*parts)
        return Judgement(problems, frozenset() if problems else credentials_of(flow, secrets))
