"""Tables keep their settings through a file, and files are written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from asym_analysis.atomic import replacing
from asym_analysis.results import Result, read_table


@dataclass(frozen=True)
class Table(Result):
    frame: pd.DataFrame
    settings: Mapping[str, Any]


@pytest.fixture
def table() -> Table:
    frame = pd.DataFrame(
        {"module": pd.Categorical(["q", "v"]), "layer": pd.array([0, None], dtype="Int64"), "value": [0.1, np.nan]}
    )
    return Table(frame, {"measure": "overlap", "seed": np.int64(3), "ranks": (4, 8)})


def _write_half(part: Path) -> None:
    part.write_text("half")
    raise RuntimeError("power cut")


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_frame_and_settings_come_back(table: Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    getattr(table, f"to_{suffix[1:]}")(path)
    frame, settings = read_table(path)
    assert settings == {"measure": "overlap", "seed": 3, "ranks": [4, 8]}
    assert frame["module"].tolist() == ["q", "v"]
    assert frame["value"][0] == 0.1
    assert frame["value"].isna().tolist() == [False, True]
    assert frame["layer"].isna().tolist() == [False, True]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"columns": {}}')
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    for name in ("x.json", "x.parquet"):
        with pytest.raises(ValueError, match="was not written by"):
            read_table(tmp_path / name)


def test_html_shows_the_summary(table: Table) -> None:
    assert "<table" in table._repr_html_()
    assert "Table" in table._repr_html_()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv"
    with replacing(path) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError, match="power cut"), replacing(path) as part:
        _write_half(part)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]
