"""Who a request is made by, and what they may do."""

from dataclasses import dataclass

from kernel.access.roles import Role
from kernel.access.scopes import Scope
from kernel.errors import AuthorizationError, NotFound


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `role` is the least that the key's user and makers have, `scopes` what it leaves of the key's.

    `agents` and `collections` are the only ones the key reaches; None is all. `delegated`: somebody else than its user
    made the key, so it stands for the user in its own workspace alone.
    """

    workspace_id: str
    user_id: str
    key_id: str
    environment: str
    plan: str
    role: Role
    scopes: frozenset[str]
    overrides: str = ""
    """Limits of the workspace that differ from its plan's, as JSON."""
    agents: frozenset[str] | None = None
    collections: frozenset[str] | None = None
    delegated: bool = False
    makers: frozenset[str] = frozenset()
    """Users whose roles bound the key as its own user's does, now and in what it makes."""

    @property
    def limited(self) -> bool:
        return self.agents is not None or self.collections is not None

    @property
    def bound(self) -> bool:
        """Whether its own workspace is all it reaches."""
        return self.limited or self.delegated

    def may(self, scope: str) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: str) -> None:
        """Raises AuthorizationError naming the scope."""
        if not self.may(scope):
            raise AuthorizationError(f"This key lacks the scope {scope}", {"scope": str(scope)})

    def require_agent(self, agent_id: str) -> None:
        """Raises NotFound: to a limited key, the other agents do not exist."""
        if self.agents is not None and agent_id not in self.agents:
            raise NotFound("Agent not found")

    def require_collection(self, collection_id: str) -> None:
        """Raises NotFound: to a limited key, the other collections do not exist."""
        if self.collections is not None and collection_id not in self.collections:
            raise NotFound("Collection not found")

    def require_all_collections(self) -> None:
        """Raises AuthorizationError for a key that is limited to some collections."""
        if self.collections is not None:
            raise AuthorizationError("This key is limited to some collections")

    def require_unlimited(self) -> None:
        """Raises AuthorizationError for a key that is limited to some of what its workspace has."""
        if self.limited:
            raise AuthorizationError("This key is limited to its own workspace")

    def require_secrets(self) -> None:
        """Raises AuthorizationError for a key that may not use secrets: who says where one is sent can read it."""
        self.require(Scope.VAULT_READ)
        self.require_unlimited()

    def require_unbound(self) -> None:
        """Raises AuthorizationError for a key that reaches nothing but its own workspace."""
        self.require_unlimited()
        if self.delegated:
            raise AuthorizationError("This key was made by somebody else: it is limited to its own workspace")

    def require_all_agents(self) -> None:
        """Raises AuthorizationError for a key that is limited to some agents."""
        if self.agents is not None:
            raise AuthorizationError("This key is limited to some agents")
