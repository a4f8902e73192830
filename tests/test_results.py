"""Results keep everything through a file, and files are written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.atomic import replacing
from asym_analysis.codec import decode, encode
from asym_analysis.results import Result, TableResult, read_result


class Table(TableResult):
    """The simplest result."""


@dataclass(frozen=True, eq=False)
class Computed(Result):
    """A result whose frame is computed from arrays."""

    values: np.ndarray
    parts: Mapping[tuple[str, str], torch.Tensor]
    table: pd.DataFrame
    settings: Mapping[str, Any]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": self.values.ravel()})


@pytest.fixture
def table() -> Table:
    frame = pd.DataFrame(
        {"module": pd.Categorical(["q", "v"]), "layer": pd.array([0, None], dtype="Int64"), "value": [0.1, np.nan]}
    )
    return Table(frame, {"measure": "overlap", "seed": np.int64(3), "ranks": (4, 8)})


@pytest.fixture
def computed() -> Computed:
    parts = {("q", "A"): torch.tensor([1.5, float("inf")]), ("q", "B"): torch.ones(2, 1, dtype=torch.bfloat16)}
    return Computed(
        np.arange(6.0).reshape(2, 3), parts, pd.DataFrame({"name": ["a", None], "seed": [0, 1]}), {"seed": 0}
    )


def _write_half(part: Path) -> None:
    part.write_text("half")
    raise RuntimeError("power cut")


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_table_comes_back(table: Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    getattr(table, f"to_{suffix}")(path)
    found = getattr(Table, f"from_{suffix}")(path)
    assert type(found) is Table
    assert found.settings == table.settings
    pd.testing.assert_frame_equal(found.frame, table.frame)
    pd.testing.assert_frame_equal(read_result(path).frame, table.frame)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_every_field_comes_back_with_its_type(computed: Computed, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"result.{suffix}"
    getattr(computed, f"to_{suffix}")(path)
    found = getattr(Computed, f"from_{suffix}")(path)
    assert {field.name for field in fields(found)} == {"values", "parts", "table", "settings"}
    np.testing.assert_array_equal(found.values, computed.values)
    assert found.parts.keys() == computed.parts.keys()
    for key, tensor in computed.parts.items():
        assert found.parts[key].dtype == tensor.dtype
        assert torch.equal(found.parts[key], tensor)
    pd.testing.assert_frame_equal(found.table, computed.table)
    pd.testing.assert_frame_equal(found.frame, computed.frame)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.tuples(st.text()), inner),
    max_leaves=8,
)


@given(VALUES)
def test_values_come_back_equal(value: Any) -> None:
    assert decode(encode(value)) == value


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    odd = Table(pd.DataFrame({"a": [1]}), {"function": print})
    with pytest.raises(TypeError, match="cannot be saved"):
        odd.to_json(tmp_path / "odd.json")
    assert not list(tmp_path.iterdir())


def test_foreign_files_are_refused(tmp_path: Path, table: Table) -> None:
    (tmp_path / "x.json").write_text('{"columns": {}}')
    (tmp_path / "y.json").write_text("a,b")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    for name in ("x.json", "y.json", "x.parquet"):
        with pytest.raises(ValueError, match="was not written by"):
            read_result(tmp_path / name)
    table.to_json(tmp_path / "table.json")
    with pytest.raises(ValueError, match="holds a Table, not a Computed"):
        Computed.from_json(tmp_path / "table.json")


def test_a_result_without_a_picture_says_so(table: Table) -> None:
    with pytest.raises(NotImplementedError, match="no picture of a Table"):
        table.plot()


def test_html_shows_the_summary_and_repr_is_short(table: Table) -> None:
    assert "<table" in table._repr_html_()
    assert "Table" in table._repr_html_()
    assert repr(table) == "Table(2 rows: module, layer, value)"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv"
    with replacing(path) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError, match="power cut"), replacing(path) as part:
        _write_half(part)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]
