"""What one execution knows of secrets, and keeps to itself.

Secrets are resolved where they are used: in the runner, or in the worker of a node that asks for resources. Whatever
a node says, comes to or fails with is cleared of them before it leaves that process, so they reach no journal, event,
log, later node or object store.
"""

import traceback
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog

from kernel.agents.templating import Secret, no_secret
from kernel.errors import CodexError, InternalError, NodeError, NotFound
from kernel.nodes.contract import Outcome
from kernel.redaction import Redactor

log = structlog.get_logger()


class Secrets(Protocol):
    """As `kernel.vault.secrets.Secrets` has it."""

    async def named(self, ws: str, name: str, user: str) -> Any:
        """The value of a credential by its name, in any case, for that user of it. Raises NotFound."""
        ...

    async def key(self, ws: str, credential_id: str, user: str) -> str:
        """The one text of a credential that opens a provider. Raises NotFound."""
        ...

    async def provider_key(self, ws: str, provider: str, user: str) -> str | None:
        """The workspace's own key of a model provider."""
        ...


@dataclass(slots=True)
class Discretion:
    """user: whom the audit log names for what is opened, such as an agent."""

    workspace_id: str
    secrets: Secrets
    user: str
    redactor: Redactor = field(default_factory=Redactor)

    async def reveal(self, names: Collection[str]) -> Secret:
        """How placeholders find these secrets. Raises NodeError for one that is gone."""
        if not names:
            return no_secret
        values = {name: await self._learned(name) for name in sorted(names)}
        return values.__getitem__

    async def provider_key(self, provider: str, credential_id: str | None) -> str | None:
        """The key to call a provider with: that of the credential, else the workspace's own. Raises NodeError."""
        if credential_id is None:
            key = await self.secrets.provider_key(self.workspace_id, provider, self.user)
        else:
            try:
                key = await self.secrets.key(self.workspace_id, credential_id, self.user)
            except NotFound:
                raise NodeError("The credential is gone", {"field": "config.credential_id"}) from None
        if key:
            self.redactor.learn(key)
        return key

    async def guard(self, work: Awaitable[Outcome]) -> Outcome:
        """What a node comes to, without secrets. A crash becomes an InternalError."""
        try:
            outcome = await work
        except CodexError as error:
            raise self._cleared(error) from None
        except Exception:  # noqa: BLE001 – the runner's edge: a bug in a node must not take the runner down
            log.error("node crashed", exception=self.redactor.text(traceback.format_exc()))
            raise InternalError from None
        return replace(outcome, output=self.redactor.value(outcome.output))

    async def _learned(self, name: str) -> Any:
        try:
            value = await self.secrets.named(self.workspace_id, name, self.user)
        except NotFound:
            return no_secret(name)
        self.redactor.learn(value)
        return value

    def _cleared(self, error: CodexError) -> CodexError:
        error.message = self.redactor.text(error.message)
        error.details = self.redactor.value(error.details)
        error.args = (error.message, error.details, *error.args[2:])
        return error
