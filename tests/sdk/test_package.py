"""The package itself: its names, its types, and its two halves."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import codexos

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
