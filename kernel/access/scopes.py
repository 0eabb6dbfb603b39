"""What a key may be allowed."""

from enum import StrEnum


class Scope(StrEnum):
    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    EXECUTIONS_READ = "executions:read"
    EXECUTIONS_WRITE = "executions:write"
    RAG_READ = "rag:read"
    RAG_WRITE = "rag:write"
    VAULT_LIST = "vault:list"
    VAULT_READ = "vault:read"
    VAULT_ADMIN = "vault:admin"
    MARKETPLACE_READ = "marketplace:read"
    MARKETPLACE_INSTALL = "marketplace:install"
    MARKETPLACE_PUBLISH = "marketplace:publish"
    USAGE_READ = "usage:read"
    WEBHOOKS_WRITE = "webhooks:write"
    ADMIN = "admin"
    """Implies all others."""
