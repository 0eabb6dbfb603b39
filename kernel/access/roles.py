"""What a member of a workspace is there. A key acts for its user: it may do what both it and the role allow."""

from collections.abc import Iterable
from enum import StrEnum

from kernel.access.scopes import Scope
from kernel.errors import AuthorizationError


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    """All that an owner may, but for what concerns owners."""
    DEVELOPER = "developer"
    VIEWER = "viewer"
    """Sees all, secrets excepted, and changes nothing."""

    @property
    def manages(self) -> bool:
        """Whether it may change the workspace and its members."""
        return self in (Role.OWNER, Role.ADMIN)

    def require_manager(self) -> None:
        """Raises AuthorizationError for a role that may change neither the workspace nor its members."""
        if not self.manages:
            raise AuthorizationError("This takes the role owner or admin", {"role": str(Role.ADMIN)})

    def require_over(self, other: "Role | None") -> None:
        """Raises AuthorizationError when `other` is an owner and this is none."""
        if other is Role.OWNER and self is not Role.OWNER:
            raise AuthorizationError("Only an owner may do this to an owner", {"role": str(Role.OWNER)})


def least(roles: Iterable[Role]) -> Role:
    """The one that allows least."""
    return max(roles, key=list(Role).index)


ALL = frozenset(Scope)
MOST = {
    Role.OWNER: ALL,
    Role.ADMIN: ALL,
    Role.DEVELOPER: ALL - {Scope.ADMIN, Scope.VAULT_ADMIN},
    Role.VIEWER: frozenset(
        {
            Scope.AGENTS_READ,
            Scope.EXECUTIONS_READ,
            Scope.RAG_READ,
            Scope.VAULT_LIST,
            Scope.MARKETPLACE_READ,
            Scope.USAGE_READ,
        }
    ),
}
"""Scopes that a key of such a member can have. Reading the vault shows secrets in the clear."""


def effective(scopes: Iterable[Scope], role: Role) -> frozenset[Scope]:
    """Those of a key's scopes that its user's role leaves it; `admin` stands for all there are."""
    given = frozenset(scopes)
    if Scope.ADMIN in given and Scope.ADMIN not in MOST[role]:
        return MOST[role]
    return given & MOST[role]
