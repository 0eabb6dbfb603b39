"""The package itself: its names, its types, and its two halves."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import codexos
from codexos import Client
from codexos._sync.agents import Agents
from codexos._sync.api_keys import ApiKeys
from codexos._sync.collections import Collection, Collections
from codexos._sync.executions import Executions
from codexos._sync.jobs import Job, Jobs
from codexos._sync.models import Models
from codexos._sync.rag import Rag
from codexos._sync.usage import Usage
from codexos._sync.workspaces import Workspaces

SDK = Path(__file__).parents[2] / "sdks" / "python"
SOURCES = sorted((SDK / "codexos").rglob("*.py"))


def test_the_synchronous_half_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("unasync", SDK / "scripts" / "unasync.py")
    assert spec is not None
    assert spec.loader is not None
    unasync = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unasync)
    for name, text in unasync.generated().items():
        assert (SDK / "codexos" / "_sync" / name).read_text() == text, "run sdks/python/scripts/unasync.py"


def test_it_imports_nothing_but_httpx2() -> None:
    script = "import sys; before = set(sys.modules); import codexos; print(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=SDK, capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert found.isdisjoint({"pandas", "pyarrow", "ray", "numpy", "pydantic", "kernel"})


def test_versions_agree() -> None:
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert project["version"] == codexos.__version__
    assert project["name"] == codexos.__name__


def test_public_names() -> None:
    assert all(hasattr(codexos, name) for name in codexos.__all__)
    public = {name for name in vars(codexos) if not name.startswith("_")} - {"errors", "types"}
    assert public == set(codexos.__all__) - {"__version__"}


def test_every_method_is_in_the_readme() -> None:
    told = set(re.findall(r"`(\w+)`", (SDK / "README.md").read_text()))
    classes = (
        Agents,
        ApiKeys,
        Client,
        Collection,
        Collections,
        Executions,
        Job,
        Jobs,
        Models,
        Rag,
        Usage,
        Workspaces,
    )
    methods = {
        name for one in classes for name, value in vars(one).items() if callable(value) and name[0] != "_"
    }
    assert methods - told == set()


def test_both_halves_have_the_same_methods() -> None:
    for one in (Agents, Client, Collection, Executions, Job, Rag):
        module = importlib.import_module(one.__module__.replace("_sync", "_async"))
        twin = getattr(module, f"Async{one.__name__}")
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(twin) if not name.startswith("_")}


def test_functions_are_small_and_nothing_catches_everything() -> None:
    sizes = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                sizes.append((node.body[-1].end_lineno or 0) - node.body[0].lineno + 1)
            if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
                assert node.type.id not in ("Exception", "BaseException")
    assert max(sizes) <= 50
    assert sorted(sizes)[len(sizes) // 2] <= 8
