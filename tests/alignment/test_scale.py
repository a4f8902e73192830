"""Large comparisons: interrupted and resumed, shared out over processes, written without filling the memory."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from asym_analysis.adapters import Adapter, AdapterSet, LowRankUpdate, ModuleSource
from asym_analysis.alignment import pairwise
from asym_analysis.alignment.module_pairs import ModulePairs, ModuleTask, compare_modules
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.side_by_side import side_by_side
from asym_analysis.errors import AdapterError
from asym_analysis.results import read_result

STOCK = {"init_lora_weights": True}  # PEFT's default: A is random, B is zero


def runs(count: int = 6, modules: int = 5) -> AdapterSet:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return AdapterSet(
        [
            Adapter.from_factors(
                {f"layer.{m}.q": (draw(4, 64), draw(48, 4)) for m in range(modules)}, name=f"run {i}", metadata=STOCK
            )
            for i in range(count)
        ],
        {"task": [i % 2 for i in range(count)]},
    )


def interrupted(whole: AdapterSet) -> AdapterSet:
    """The same adapters, but reading their third module is cut short."""

    def refuse() -> LowRankUpdate:
        raise KeyboardInterrupt

    def spoiled(adapter: Adapter) -> Adapter:
        sources = {module: adapter.source(module) for module in adapter}
        one = sources["layer.2.q"]
        sources["layer.2.q"] = ModuleSource(one.d_out, one.d_in, one.rank, one.dtype, refuse)
        return Adapter(sources, name=adapter.name, metadata=STOCK)

    return AdapterSet([spoiled(adapter) for adapter in whole], whole.table)


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runs()
    with pytest.raises(KeyboardInterrupt):
        compare_subspaces(interrupted(whole), store=tmp_path)
    assert len(list(tmp_path.glob("module-*.npz"))) == 2
    done: list[str] = []
    compare = pairwise.compare_modules
    monkeypatch.setattr(
        pairwise, "compare_modules", lambda tasks: done.extend(task.module for task in tasks) or compare(tasks)
    )
    resumed = compare_subspaces(whole, store=tmp_path)
    assert done == ["layer.2.q", "layer.3.q", "layer.4.q"]
    pd.testing.assert_frame_equal(resumed.frame, compare_subspaces(whole).frame)
    done.clear()
    compare_subspaces(whole, store=tmp_path)
    assert not done


def test_a_folder_never_mixes_two_comparisons(tmp_path: Path) -> None:
    compare_subspaces(runs(), store=tmp_path)
    for other in ({"measure": "geodesic"}, {"factors": ("A",)}):
        with pytest.raises(AdapterError, match="holds another comparison"):
            compare_subspaces(runs(), store=tmp_path, **other)
    with pytest.raises(AdapterError, match="holds another comparison"):
        compare_subspaces(runs(5), store=tmp_path)


def test_a_store_refuses_inputs_that_have_changed_by_name(tmp_path: Path) -> None:
    """Files written anew under their old names, and adapters in memory."""
    from safetensors.torch import save_file

    def train(name: str, seed: int) -> Path:
        generator = torch.Generator().manual_seed(seed)
        A, B = torch.randn(4, 64, generator=generator), torch.randn(48, 4, generator=generator)
        save_file({"q.lora_A.weight": A, "q.lora_B.weight": B}, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    files = [train("a", 0), train("b", 1)]
    first = compare_subspaces(files, store=tmp_path / "store").frame
    pd.testing.assert_frame_equal(compare_subspaces(files, store=tmp_path / "store").frame, first)
    train("b", 2)
    with pytest.raises(AdapterError, match=r"other weights of b: give an empty folder"):
        compare_subspaces(files, store=tmp_path / "store")
    whole = runs(3)
    compare_subspaces(whole, store=tmp_path / "memory")
    factors = {module: (update.A + 1e-3, update.B) for module, update in whole[1].items()}
    changed = AdapterSet([whole[0], Adapter.from_factors(factors, name="run 1"), whole[2]], whole.table)
    with pytest.raises(AdapterError, match=r"other weights of run 1:"):
        compare_subspaces(changed, store=tmp_path / "memory")


@pytest.mark.parametrize("threads", [3, 9])
def test_modules_side_by_side_give_the_same_table(threads: int) -> None:
    whole, before = runs(), torch.get_num_threads()
    one = compare_subspaces(whole).frame
    torch.set_num_threads(threads)
    try:
        pd.testing.assert_frame_equal(compare_subspaces(whole).frame, one)
        assert torch.get_num_threads() == threads
        with pytest.raises(KeyboardInterrupt):
            compare_subspaces(interrupted(whole))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_many_threads_are_divided_among_few_that_work_side_by_side() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(9)
    try:
        found = dict(side_by_side(lambda _: (threading.get_ident(), torch.get_num_threads()), range(40)))
    finally:
        torch.set_num_threads(before)
    assert len({ident for ident, _ in found.values()}) <= 4
    assert {share for _, share in found.values()} == {2}


def test_an_accelerator_takes_one_module_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's first decomposition on a GPU fails where two threads ask for it at once."""
    used = []

    def recorded(tasks: list[ModuleTask]) -> list[ModulePairs]:
        used.append((tasks[0].device, threading.current_thread()))
        return compare_modules([replace(task, device="cpu") for task in tasks])

    monkeypatch.setattr(pairwise, "compare_modules", recorded)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compare_subspaces(runs(), device="meta")
    finally:
        torch.set_num_threads(before)
    assert set(used) == {("meta", threading.main_thread())}


def test_values_stay_on_the_disk(tmp_path: Path) -> None:
    comparison = compare_subspaces(runs(), store=tmp_path)
    assert isinstance(comparison.values, np.memmap)
    pd.testing.assert_frame_equal(comparison.summary(), compare_subspaces(runs()).summary())
    np.testing.assert_array_equal(comparison.matrix("B"), compare_subspaces(runs()).matrix("B"))


def test_parquet_is_written_module_by_module(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    comparison = compare_subspaces(runs())
    comparison.to_parquet(tmp_path / "table.parquet")
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups == 5
    found = read_result(tmp_path / "table.parquet")
    frame, settings = found.frame, found.settings
    pd.testing.assert_frame_equal(frame, comparison.frame, check_categorical=False, check_dtype=False)
    assert settings["modules"] == list(comparison.modules)


def test_a_dask_cluster_of_two_processes_gives_the_same_table(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        table = compare_subspaces(runs(), executor=client.get_executor()).frame
    here = compare_subspaces(runs()).frame
    pd.testing.assert_frame_equal(table, here, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_cuda_device_gives_the_same_numbers() -> None:
    for measure in ("overlap", "geodesic", "cosine", "debiased_cka"):
        here, there = (compare_subspaces(runs(), measure=measure, device=device) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(there.values, here.values, atol=2e-6)


def test_training_is_compared_without_its_start() -> None:
    """A moved little from one start: alike as they stand, at chance in what training added."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(4, 300, generator=generator)
    zero = torch.zeros(60, 4)
    moves = 0.2 * torch.randn(3, 4, 300, generator=generator)
    B = torch.randn(3, 60, 4, generator=generator)
    first = Adapter.from_factors({"q": (start, zero)}, name="start")
    made = [
        # Only the first knows its start; the others are told by it.
        Adapter.from_factors({"q": (start + moves[i], B[i])}, name=str(i), initial=first if i == 0 else None)
        for i in range(3)
    ]
    plain, moved = compare_subspaces(made), compare_subspaces(made, subtract_initial=True)
    assert plain.matrix("A").min() > 0.8
    exact = compare_subspaces([Adapter.from_factors({"q": (moves[i], B[i])}, name=str(i)) for i in range(3)])
    np.testing.assert_allclose(moved.values, exact.values, atol=1e-5)
    assert moved.same_initialization.all()
    assert moved.settings["subtract_initial"] is True
    stranger = Adapter.from_factors({"q": (torch.randn(4, 300, generator=generator), B[0])}, name="stranger")
    with pytest.raises(AdapterError, match="stranger has no recorded initialization for q"):
        compare_subspaces([*made, stranger], subtract_initial=True)
    with pytest.raises(ValueError, match="only A and B have an initialization"):
        compare_subspaces(made, measure="cosine", subtract_initial=True)


def test_a_frozen_factor_has_not_moved() -> None:
    generator = torch.Generator().manual_seed(4)
    A = torch.randn(2, 4, 50, generator=generator)
    B = torch.randn(2, 40, 4, generator=generator)
    made = [
        Adapter.from_factors({"q": (A[i], B[i])}, name=str(i), initial=Adapter.from_factors({"q": (A[i], 0 * B[i])}))
        for i in range(2)
    ]
    frame = compare_subspaces(made, subtract_initial=True).frame.set_index("factor")
    assert frame.loc["A", "rank_i"] == 0
    assert np.isnan(frame.loc["A", "value"])
    assert frame.loc["B", "rank_i"] == 4
