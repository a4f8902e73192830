"""Every result of this room: short in words, drawn where it has a picture, and the same object after a file."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import asym_analysis.alignment
from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment.aggregation import aggregation_error, merge_interference
from asym_analysis.alignment.drift import initialization_drift
from asym_analysis.alignment.first_step import first_step_overlap
from asym_analysis.alignment.grids import leading_overlaps
from asym_analysis.alignment.intruders import intruder_dimensions
from asym_analysis.alignment.neighbours import cluster, nearest
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.recall import neighbour_recall
from asym_analysis.alignment.shared_energy import shared_energy
from asym_analysis.alignment.sharing import joint_diagonalization
from asym_analysis.alignment.spectra import adapter_spectra
from asym_analysis.alignment.trajectories import checkpoint_trajectories
from asym_analysis.results import Result, TableResult, read_result


def runs() -> AdapterSet:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    modules = [{f"layer.{m}.q": (draw(3, 24), draw(16, 3)) for m in range(2)} for _ in range(5)]
    modules[4].pop("layer.1.q")
    made = [Adapter.from_factors(factors, name=str(i)) for i, factors in enumerate(modules)]
    return AdapterSet(made, {"task": ["a", "a", "b", "b", None], "step": [0, 1, 2, 3, 4]})


def made() -> dict[str, Result]:
    group = runs()
    comparison = compare_subspaces(group)
    base = {f"layer.{m}.q.weight": torch.randn(16, 24, generator=torch.Generator().manual_seed(m)) for m in range(2)}
    gradients = {f"layer.{m}.q": torch.randn(16, 24, generator=torch.Generator().manual_seed(m)) for m in range(2)}
    return {
        "comparison": comparison,
        "weighted": compare_subspaces(group, measure="weighted_overlap"),
        "contrast": comparison.contrast("task"),
        "drift": initialization_drift(group[0]),
        "averaging": aggregation_error(group),
        "merging": merge_interference(group),
        "energy": shared_energy(group, draws=3),
        "bases": joint_diagonalization(group, 2),
        "diagonal": joint_diagonalization(group, 2, diagonal=True),
        "intruders": intruder_dimensions(group[0], base, top_k=3),
        "spectra": adapter_spectra(group[0]),
        "trajectories": checkpoint_trajectories(group),
        "first step": first_step_overlap(gradients, 3),
        "neighbours": nearest(group[0], group, 3, features=64),
        "clusters": cluster(group, least=0.7, features=64),
        "leading": leading_overlaps(group[0], group[1]),
        "recall": neighbour_recall(group[:4], 2, features=64),
    }


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return made()


NAMES = (
    "comparison", "weighted", "contrast", "drift", "averaging", "merging", "energy", "bases", "diagonal", "intruders",
    "spectra", "trajectories", "first step", "neighbours", "clusters", "leading", "recall",
)  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(other, one)
        return True
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def test_no_result_of_the_room_is_left_out(results: dict[str, Result]) -> None:
    assert set(NAMES) == set(results)
    defined = set()
    for module in iter_modules(asym_analysis.alignment.__path__, "asym_analysis.alignment."):
        for _, found in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(found, Result) and found.__module__ == module.name:
                defined.add(found)
    assert defined == {type(result) for result in results.values()}


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_the_same_object_after_a_file(
    results: dict[str, Result], name: str, suffix: str, tmp_path: Path
) -> None:
    result = results[name]
    path = tmp_path / f"result.{suffix}"
    getattr(result, f"to_{suffix}")(path)
    found = read_result(path)
    assert type(found) is type(result)
    for field in fields(result):
        assert same(getattr(result, field.name), getattr(found, field.name)), field.name
    pd.testing.assert_frame_equal(found.frame, result.frame)
    pd.testing.assert_frame_equal(found.summary(), result.summary())
    result.to_csv(tmp_path / "result.csv")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_short_in_words_and_has_settings(results: dict[str, Result], name: str) -> None:
    result = results[name]
    assert name == "drift" or len(repr(result)) < 250
    assert "<table" in result._repr_html_()
    assert "versions" in result.settings
    assert type(result).__doc__
    columns = type(result).__doc__
    if isinstance(result, TableResult) or name in ("comparison", "bases", "intruders", "spectra"):
        for column in result.frame.columns:
            assert str(column) in columns, column


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("averaging", "merging", "contrast")])
def test_a_result_draws_itself_or_says_that_it_cannot(results: dict[str, Result], name: str) -> None:
    if results[name]._plot is None:
        with pytest.raises(NotImplementedError, match="no picture"):
            results[name].plot()
    else:
        assert results[name].plot() is not None
        plt.close("all")


def test_parquet_holds_the_values_once(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    generator = torch.Generator().manual_seed(0)
    many = [
        Adapter.from_factors(
            {"q": (torch.randn(2, 24, generator=generator), torch.randn(16, 2, generator=generator))}, name=str(i)
        )
        for i in range(60)
    ]
    comparison = compare_subspaces(many)
    comparison.to_parquet(tmp_path / "many.parquet")
    note = pq.read_schema(tmp_path / "many.parquet").metadata[b"asym_analysis"]
    assert len(note) < np.asarray(comparison.values).nbytes + 6000
    np.testing.assert_array_equal(read_result(tmp_path / "many.parquet").values, comparison.values)


def test_anything_that_can_be_loaded_is_an_adapter(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in "ab":
        tensors = {"q.lora_A.weight": torch.randn(2, 24), "q.lora_B.weight": torch.randn(16, 2)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    base = {"q.weight": torch.randn(16, 24)}
    for result in (
        compare_subspaces(files),
        aggregation_error(files),
        merge_interference(files),
        shared_energy(files, draws=2),
        joint_diagonalization(files, 2),
        leading_overlaps(*files),
        intruder_dimensions(files[0], base, top_k=2),
        adapter_spectra(files[0]),
    ):
        assert len(result.frame) > 0
