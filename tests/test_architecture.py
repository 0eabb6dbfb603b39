"""The house keeps its shape: one layout, one way of each thing."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from configs.settings import Settings
from kernel.storage import keys

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cluster", "serve_apps", "actors", "kernel", "configs")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

FLOORS = {"ray": "2.54", "pymilvus": "2.6", "cryptography": "44", "starlette": "0.49", "minijinja": "2.15"}
"""Versions below these have holes that were used against others."""

EDGES = {
    "serve_apps/edge.py",  # the HTTP renderer
    "actors/runner.py",  # the runner
    "kernel/executions/discretion.py",  # the runner's nodes
    "kernel/knowledge/reading.py",  # ingestion's documents
    "actors/ingestion.py",  # ingestion's jobs
    "kernel/webhooks/courier.py",  # the courier
}
"""Where anything at all may be caught, and is written down."""


SHARED = {
    "wake",
    "ring",
    "tick",
    "leases",
    "held",
    "ended",
    "key",
    "user",
    "user_workspaces",
    "owner",
    "access_turn",
    "metered",
    "stale",
    "busy",
    "jobs_waiting",
    "jobs_running",
    "vectors_left",
    "audit_open",
    "sealed",
    "outbox",
    "due",
    "aloft",
    "courier",
}
"""Keys that belong to a whole shard: they hold ids of workspaces, and nothing of theirs but the outbox's events."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_win_over_others_of_their_name(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).parent == ROOT / package


def test_layers_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_versions_are_above_the_known_holes(package: str, floor: str) -> None:
    assert Version(importlib.metadata.version(package)) >= Version(floor)


def test_only_the_edges_catch_everything() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id == "Exception"
    }
    assert found <= EDGES


def test_only_the_directory_applies_ray() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and (getattr(node, "module", None) or node.names[0].name).split(".")[0] == "ray"
    }
    assert found <= {
        "actors/directory.py",
        "actors/bulk.py",  # Ray Data, imported by the one actor that uses it
        "serve_apps/gateway.py",
        "cluster/deploy.py",
        "cluster/status.py",
    }


def test_only_settings_read_the_environment() -> None:
    """The cluster's own environment is handed on to what it starts; nothing else looks at it."""
    found = {
        str(path.relative_to(ROOT))
        for path, _ in trees()
        if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert {path for path in found if not path.startswith("cluster/")} == set()


def test_user_text_is_never_run_as_python() -> None:
    names = {"eval", "exec", "compile", "__import__"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in names - {"compile"}
    ]
    assert found == []


def test_no_pickle() -> None:
    found = [
        path
        for path, _ in trees()
        if re.search(r"^\s*(import|from) (pickle|cloudpickle|dill)", path.read_text(), re.M)
    ]
    assert found == []


def test_every_setting_is_described() -> None:
    def undescribed(model: type, at: str) -> Iterator[str]:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            kind = field.annotation
            if isinstance(kind, type) and hasattr(kind, "model_fields"):
                yield from undescribed(kind, f"{at}{name}.")
            elif not field.description:
                yield at + name

    assert list(undescribed(Settings, "")) == []


def test_keys_of_a_workspace_carry_it_in_their_name() -> None:
    assert {name for name, pattern in keys.SHARD_KEYS.items() if "{ws}" not in pattern} <= SHARED


TENANT = {"workspace_id", "workspace_ids", "ws", "shard", "shards"}
"""A parameter of one of these names says whose keys a method of storage may touch; so does a thing that has one."""
UNSCOPED = {
    "AccessStore.bootstrap": "makes the first workspace",
    "AccessStore.find_key": "tells whose key it is that asks, before anyone is known",
    "AccessStore.note_use": "of a key that has just proved itself",
    "AccessStore.owner": "the installation's",
    "AccessStore.turns": "counts of changes, one for each shard",
    "AuditStore.unsealed": "the supervisor's look at all shards",
    "Calls.count": "of the scripted model, by idempotency key",
    "Calls.next": "of the scripted model, by idempotency key",
    "MemberStore.user": "users belong to no workspace; who may see one is asked before",
    "MemberStore.workspace_ids": "of one user, over all their workspaces",
    "MeterStore.settle_packed": "of the asks of many workspaces, each in a step of its own shard",
    "QueueStore.backlog": "counts the whole queue",
    "QueueStore.free_leaked_slots": "the supervisor's sweep over all workspaces",
    "QueueStore.live_runners": "runners are the installation's",
    "QueueStore.reclaim": "the supervisor's look at all shards",
    "QueueStore.show_life": "runners are the installation's",
    "SealedStore.total": "counts all shards",
    "Tickets.issue": "by the hash of its secret; the execution is reached before",
    "Tickets.redeem": "by the hash of its secret",
    "UsageStore.workspaces": "the supervisor's walk over all workspaces",
}
"""Methods of storage that reach the store without one, and why."""
REACHES = {"run", "call", "together"}


def test_storage_is_told_whose_keys_it_may_touch() -> None:
    """What reaches the store, itself or through another method of its class, is given the workspace or shard."""
    storage = [tree for path, tree in trees() if path.is_relative_to(ROOT / "kernel" / "storage")]
    classes = [node for tree in storage for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    carriers = {kind.name for kind in classes if "workspace_id" in _fields(kind)}
    found = {
        f"{kind.name}.{method.name}"
        for kind in classes
        for method in _reaching(kind)
        if not any(_is_told(argument, carriers) for argument in _arguments(method, *_made_by(kind)))
    }
    assert found == set(UNSCOPED)


def _fields(kind: ast.ClassDef) -> set[str]:
    return {
        node.target.id
        for node in kind.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _made_by(kind: ast.ClassDef) -> list[ast.FunctionDef]:
    return [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]


def _arguments(*methods: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    for method in methods:
        yield from (*method.args.args, *method.args.kwonlyargs)


def _is_told(argument: ast.arg, carriers: set[str]) -> bool:
    if argument.arg in TENANT:
        return True
    named = ast.walk(argument.annotation) if argument.annotation else ()
    return any(isinstance(node, ast.Name) and node.id in carriers for node in named)


def _reaching(kind: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Methods that call `self._store`, or others that do."""
    methods = {
        node.name: node for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    reaching = {name for name, node in methods.items() if REACHES & _called(node, "_store")}
    while more := {name for name, node in methods.items() if reaching & _called(node)} - reaching:
        reaching |= more
    return [methods[name] for name in methods if name in reaching]


def _called(method: ast.AST, part: str = "") -> set[str]:
    """Names of what it calls on `self`, or on this part of it."""
    wanted = f"self.{part}" if part else "self"
    return {
        node.func.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == wanted
    }


def test_functions_are_small() -> None:
    sizes = sorted(
        (node.body[-1].end_lineno or 0) - node.body[0].lineno + 1
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert sizes[-1] <= 50
    assert sizes[len(sizes) // 2] <= 8
