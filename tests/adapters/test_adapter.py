"""Adapters are lazy mappings, and sets of them align by module name."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest
import torch

from asym_analysis import Adapter, AdapterError, AdapterSet, LowRankUpdate
from asym_analysis.adapters import Coverage, ModuleSource


def _adapter(
    name: str = "run", modules: tuple[str, ...] = ("layer.0.query", "layer.1.value"), rank: int = 2
) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return Adapter.from_factors({m: (draw(rank, 6), draw(4, rank)) for m in modules}, name=name, metadata={"seed": 3})


def test_reading_one_module_reads_no_other() -> None:
    read = []

    def reader(name: str) -> ModuleSource:
        def read_factors() -> LowRankUpdate:
            read.append(name)
            return LowRankUpdate(torch.ones(1, 6), torch.ones(4, 1))

        return ModuleSource(4, 6, 1, "float32", read=read_factors)

    adapter = Adapter({name: reader(name) for name in ("a", "b")}, name="lazy")
    assert list(adapter) == ["a", "b"]
    assert adapter.frame["rank"].tolist() == [1, 1]
    assert read == []
    _ = adapter["b"]
    assert read == ["b"]


def test_a_missing_module_is_an_adapter_error_and_a_key_error() -> None:
    with pytest.raises(AdapterError, match="it has 2 modules"):
        _adapter()["layer.9.query"]
    assert _adapter().get("layer.9.query") is None


def test_nan_is_named_by_module() -> None:
    broken = Adapter.from_factors({"layer.0.query": (torch.full((1, 2), float("nan")), torch.ones(3, 1))}, name="bad")
    with pytest.raises(AdapterError, match=r"bad, module layer\.0\.query: A holds NaN or infinity"):
        broken["layer.0.query"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_small_dtypes_are_cast_up(dtype: torch.dtype) -> None:
    factors = {"q": (torch.ones(1, 2).to(dtype), torch.ones(3, 1).to(dtype))}
    adapter = Adapter.from_factors(factors)
    assert adapter["q"].A.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert adapter.source("q").dtype == str(dtype).removeprefix("torch.")


def test_frame_knows_layers_and_projections() -> None:
    frame = _adapter().frame
    assert frame["layer"].tolist() == [0, 1]
    assert frame["projection"].tolist() == ["query", "value"]


def test_adapters_travel_to_other_processes() -> None:
    again = pickle.loads(pickle.dumps(_adapter()))
    torch.testing.assert_close(again["layer.0.query"].A, _adapter()["layer.0.query"].A)


def test_coverage_accounts_for_every_tensor() -> None:
    coverage = Coverage(used={"a": "A"}, ignored={"e": "unused"}, refused={"x": "A without its B", "y": "no A"})
    assert coverage.frame["status"].tolist() == ["used", "ignored", "refused", "refused"]
    assert not coverage.complete
    assert "A without its B: x and 1 more" in str(coverage)
    assert pickle.loads(pickle.dumps(coverage)) == coverage


def test_sets_join_the_users_table_with_the_files_facts() -> None:
    runs = AdapterSet([_adapter("x"), _adapter("x")], table={"task": ["rte", "cola"]})
    assert runs.names == ("x", "x (2)")
    assert runs.table["task"].tolist() == ["rte", "cola"]
    assert runs.table["seed"].tolist() == [3, 3]
    assert runs.table["rank"].tolist() == ["2", "2"]


def test_sets_align_modules_and_say_what_is_missing() -> None:
    runs = AdapterSet(
        [_adapter("x"), _adapter("y", ("layer.0.query", "layer.2.key")), _adapter("z", ("layer.0.query",))]
    )
    assert runs.modules == ("layer.0.query",)
    missing = {(row.name, row.module) for row in runs.missing.itertuples(index=False)}
    assert missing == {
        ("x", "layer.2.key"),
        ("y", "layer.1.value"),
        ("z", "layer.1.value"),
        ("z", "layer.2.key"),
    }


def test_selecting_keeps_the_table_in_step() -> None:
    runs = AdapterSet([_adapter(n) for n in "abc"], table=pd.DataFrame({"task": [1, 2, 1]}, index=[7, 8, 9]))
    chosen = runs.select(runs.table["task"] == 1)
    assert chosen.names == ("a", "c")
    assert runs[1:].table["task"].tolist() == [2, 1]
    assert [adapter.name for adapter in runs[:2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("count", "table", "message"), [(0, None, "at least one adapter"), (2, {"seed": [1]}, "1 rows for 2 adapters")]
)
def test_sets_that_make_no_sense_are_refused(count: int, table: dict[str, list[int]] | None, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        AdapterSet([_adapter() for _ in range(count)], table)


def test_html_escapes_nothing_it_should_show() -> None:
    assert "<table" in _adapter()._repr_html_()
    assert "<table" in AdapterSet([_adapter()])._repr_html_()


def test_parts_in_memory_keep_their_own_dtype_and_shape() -> None:
    A, B = torch.ones(2, 6, dtype=torch.bfloat16), torch.randn(4, 2)
    source = Adapter.from_factors({"q": (A, B)}, scaling=3.0).source("q")
    assert {name: (part.shape, part.dtype) for name, part in source.parts.items()} == {
        "A": ((2, 6), "bfloat16"),
        "B": ((4, 2), "float32"),
    }
    assert torch.equal(source.parts["B"].read(), B)
    torch.testing.assert_close(source.read_with({"B": 2 * B}).delta(), 6 * B @ A.float())
    assert list(source.trained_parts("A")) == ["A"]
    with pytest.raises(AdapterError, match=r"part B has shape \(4, 2\), the value given for it \(2, 4\)"):
        source.read_with({"B": B.mT})
    with pytest.raises(AdapterError, match="no part 'magnitude': the parts are A, B"):
        source.read_with({"magnitude": torch.ones(4)})
