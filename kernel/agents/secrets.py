"""The secrets a flow uses: by name in placeholders, `{{ secrets.NAME }}`, and by id, as `credential_id` of a config."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from kernel.agents.flow import Flow, Node
from kernel.agents.templating import BadTemplate, Template, placeholders
from kernel.errors import Problem

CREDENTIAL = "credential_id"


@dataclass(frozen=True, slots=True)
class SecretNames:
    """Of the secrets that a flow mentions those its workspace has: ids by name in lower case, and ids."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    ids: Collection[str] = ()

    def id_of(self, name: str) -> str | None:
        return self.by_name.get(name.lower())


def mentions_secrets(flow: Flow) -> bool:
    return any(CREDENTIAL in node.config or next(_named(node), None) for node in flow.nodes)


def mentioned(flow: Flow) -> tuple[frozenset[str], frozenset[str]]:
    """Names in lower case, and ids, there or not."""
    names = frozenset(name.lower() for node in flow.nodes for name in _named(node))
    ids = (node.config.get(CREDENTIAL) for node in flow.nodes)
    return names, frozenset(one for one in ids if isinstance(one, str))


def credential_problems(at: str, node: Node, names: SecretNames) -> Iterator[Problem]:
    """Of the field `credential_id`; `at` is the node's own path."""
    credential = node.config.get(CREDENTIAL)
    if isinstance(credential, str) and credential not in names.ids:
        yield Problem(f"{at}.config.{CREDENTIAL}", "There is no such credential")


def credentials_of(flow: Flow, names: SecretNames) -> frozenset[str]:
    """Ids of those that a sound flow uses."""
    named = {names.id_of(name) for node in flow.nodes for name in _named(node)}
    by_id = {node.config.get(CREDENTIAL) for node in flow.nodes}
    return frozenset(one for one in named | by_id if isinstance(one, str))


def _named(node: Node) -> Iterator[str]:
    """A text that is no template says its own error elsewhere."""
    for _, text in placeholders(node.config):
        if "secrets" in text:
            yield from _of(text)


def _of(text: str) -> Iterator[str]:
    try:
        paths = Template.parse(text).references()
    except BadTemplate:
        return
    yield from (path.secret for path in paths if path.secret is not None)
