"""The notebooks as they are kept; `tests/live` runs them."""

from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_pair_is_in_step_and_keeps_no_outputs(path: Path) -> None:
    """`jupytext --update --to ipynb notebooks/*.py` makes it so."""
    pair = nbformat.read(path.with_suffix(".ipynb"), 4)
    assert [(one.cell_type, one.source) for one in pair.cells] == [
        (one.cell_type, one.source) for one in jupytext.read(path).cells
    ]
    assert all(
        not one.outputs and one.execution_count is None for one in pair.cells if one.cell_type == "code"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_import_nothing_of_ours_but_the_sdk(path: Path) -> None:
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
    found = {words[1].partition(".")[0] for words in lines}
    assert found <= ALLOWED


ALLOWED = {
    *("codexos", "ray", "pandas", "pyarrow", "numpy", "matplotlib"),
    *("os", "time", "pathlib", "inspect", "importlib"),
}
