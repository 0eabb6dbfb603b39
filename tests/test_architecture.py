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
    "kernel/executions/attempt.py",  # the runner's nodes
}
"""Where anything at all may be caught, and is written down."""


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
    assert found <= {"actors/directory.py", "serve_apps/gateway.py", "cluster/deploy.py", "cluster/status.py"}


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
    """What has no `{ws}` belongs to a whole shard and holds ids of workspaces only."""
    shared = {name for name, pattern in keys.SHARD_KEYS.items() if "{ws}" not in pattern}
    assert shared <= {
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
        "metered",
        "jobs_waiting",
        "jobs_running",
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
