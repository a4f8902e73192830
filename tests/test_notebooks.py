"""The two halves of every notebook agree, and the path through them is complete."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def _cells(path: Path) -> list[tuple[str, str]]:
    book = jupytext.read(path) if path.suffix == ".py" else nbformat.read(path, as_version=4)
    return [(cell.cell_type, cell.source.strip()) for cell in book.cells]


def test_every_notebook_has_both_halves_and_a_number() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES
    assert [name for name in NAMES if not re.match(r"\d\d_\w+$", name)] == []
    numbers = [int(name[:2]) for name in NAMES]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", NAMES)
def test_the_halves_hold_the_same_cells(name: str) -> None:
    assert _cells(FOLDER / f"{name}.py") == _cells(FOLDER / f"{name}.ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_and_closes_with_text(name: str) -> None:
    cells = _cells(FOLDER / f"{name}.py")
    assert cells[0][0] == cells[-1][0] == "markdown"
    title, _, rest = cells[0][1].partition("\n")
    assert title.startswith("# ")
    assert rest.strip()


@pytest.mark.parametrize("name", NAMES)
def test_the_shown_outputs_come_from_the_shown_code(name: str) -> None:
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code), "run `make notebooks`"
    assert [output for cell in code for output in cell.outputs if output.output_type == "error"] == []
