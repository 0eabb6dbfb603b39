"""The notebooks, run from top to bottom against the platform, as somebody would who has installed the SDK."""

from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tests.platform import ROOT, Platform

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
WITHIN_S = 300
"""For one cell."""


@pytest.fixture
def environment(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel started now is given."""
    known = {
        "CODEXOS_HOME": str(platform.home),
        "PYTHONPATH": str(ROOT / "sdks" / "python"),
        "MPLBACKEND": "agg",
        "NOTEBOOK_FOLDER": str(folder(tmp_path)),
        "NOTEBOOK_QUESTIONS": "40",
    }
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    for name in ("CODEXOS_BASE_URL", "CODEXOS_API_KEY", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def folder(base: Path) -> Path:
    """Texts, a page that has to be parsed, and a file that cannot be."""
    files = {f"note{number}.md": f"# Note {number}\n\nOn matter number {number}." for number in range(30)}
    files |= {"page.html": "<html><title>Page</title><p>Requests are limited by plan.</p></html>"}
    for name, text in files.items():
        (base / name).write_text(text)
    (base / "broken.pdf").write_bytes(b"%PDF-1.7 this is none")
    return base


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path) -> None:
    notebook = jupytext.read(path)
    kernel = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=WITHIN_S, kernel_name="python3", resources=kernel).execute()
    assert LAST_WORDS[path.stem] in shown(notebook)


LAST_WORDS: Mapping[str, str] = {
    "01_bulk_ingestion": "broken.pdf",
    "02_dataset_to_collection": "zebras",
    "03_search_quality": "recall@10",
}


def shown(notebook: nbformat.NotebookNode) -> str:
    """What all cells printed and ended with, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs)
