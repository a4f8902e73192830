"""Modules that are compared together give what each gives alone."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.adapters.load import load_adapters
from asym_analysis.alignment import module_pairs, pairwise
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.module_pairs import ModuleTask, batches
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.subspaces.measures import MEASURES

CONFIG = '{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q"], "init_lora_weights": true}'


def alone(adapters: AdapterSet, monkeypatch: pytest.MonkeyPatch, **options: object) -> SubspaceComparison:
    with monkeypatch.context() as patch:
        patch.setattr(pairwise, "batches", lambda tasks: ([task] for task in tasks))
        return compare_subspaces(adapters, **options)  # type: ignore[arg-type]


def sizes(monkeypatch: pytest.MonkeyPatch, adapters: AdapterSet) -> list[int]:
    """How many modules are compared together, batch by batch."""
    found: list[int] = []
    whole = pairwise.compare_modules

    def counted(tasks: list[ModuleTask]) -> list[module_pairs.ModulePairs]:
        found.append(len(tasks))
        return whole(tasks)

    with monkeypatch.context() as patch:
        patch.setattr(pairwise, "compare_modules", counted)
        compare_subspaces(adapters)
    return found


def assert_equal(one: SubspaceComparison, other: SubspaceComparison) -> None:
    assert one.modules == other.modules
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-6)
    for name in ("ranks", "shapes", "initialization_marks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.spectra, other.spectra, rtol=1e-5, atol=1e-6)


def files(folder: Path, dtype: torch.dtype) -> AdapterSet:
    """Adapters of ragged ranks, two shapes, missing modules, zero and deficient factors, and a shared initialization.

    Modules 0 to 3 are plain, 4 to 6 have another shape, 7 is missing in one adapter and has its own rank in another, a
    factor of 8 is zero, one of 9 has half of its rank, and one of 10 was split by an SVD.
    """
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(4, 48, generator=generator) / 48**0.5 for _ in range(11)]
    for run in range(4):
        tensors = {}
        for module in range(11):
            d_out, d_in = (24, 40) if 4 <= module < 7 else (32, 48)
            rank = 6 if (run, module) == (1, 7) else 4
            if (run, module) == (2, 7):
                continue
            A = torch.randn(rank, d_in, generator=generator) / d_in**0.5
            if run < 2 and module < 4:
                A = starts[module] + 0.1 * A
            B = torch.randn(d_out, rank, generator=generator) @ torch.diag(torch.logspace(0, -run, rank))
            if (run, module) == (0, 8):
                B = torch.zeros(d_out, rank)
            if (run, module) == (3, 9):
                A[2:] = 0
            if (run, module) == (3, 10):
                U, S, V = torch.linalg.svd(B @ A, full_matrices=False)
                A, B = V[:rank], U[:, :rank] * S[:rank]
            stem = f"base_model.model.layers.{module}.q"
            tensors |= {f"{stem}.lora_A.weight": A.to(dtype), f"{stem}.lora_B.weight": B.contiguous().to(dtype)}
        target = folder / f"run{run}"
        target.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in tensors.items()}, target / "adapter_model.safetensors")
        (target / "adapter_config.json").write_text(CONFIG)
    return load_adapters(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_modules_compared_together_give_what_each_gives_alone(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = files(tmp_path, dtype)
    assert sorted(sizes(monkeypatch, adapters)) == [1, 3, 7]
    together = compare_subspaces(adapters)
    assert_equal(together, alone(adapters, monkeypatch))
    assert (together.initialization_marks[:4, 0] == 1).all()
    assert np.isnan(together.values[8, 1, :3]).all()
    assert together.ranks[9, 0, 3] == 2


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_every_measure_is_compared_alike(measure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = files(tmp_path, torch.float32)
    together = compare_subspaces(adapters, measure=measure)
    other = alone(adapters, monkeypatch, measure=measure)
    assert_equal(together, other)


@pytest.mark.parametrize("subtract", [False, True])
def test_recorded_initializations_are_compared_module_by_module(
    subtract: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(shift: float, base: Adapter | None = None) -> Adapter:
        factors = {}
        for module in ("a.q", "b.q", "c.q"):
            A, B = torch.randn(3, 20, generator=generator), torch.randn(16, 3, generator=generator)
            factors[module] = (A, B) if base is None else (base[module].A + shift * A, base[module].B + shift * B)
        return Adapter.from_factors(factors, initial=base)

    adapters = AdapterSet([draw(0.2, draw(1.0)) for _ in range(3)])
    assert sizes(monkeypatch, adapters) == [1, 1, 1]
    one = compare_subspaces(adapters, subtract_initial=subtract)
    assert_equal(one, alone(adapters, monkeypatch, subtract_initial=subtract))


def test_what_is_compared_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    pair = torch.randn(8, 256, generator=generator), torch.randn(64, 8, generator=generator)
    adapters = AdapterSet([Adapter.from_factors({f"l.{i}.q": pair for i in range(20)}, name=str(n)) for n in range(3)])
    monkeypatch.setattr(module_pairs, "BATCH_ENTRIES", 5 * 3 * 8 * 256 + 1)
    assert sizes(monkeypatch, adapters) == [5, 5, 5, 5]
    monkeypatch.setattr(module_pairs, "BATCH_ENTRIES", 3 * 8 * 256 + 1)
    assert sizes(monkeypatch, adapters) == [1] * 20


def test_a_task_with_other_arguments_is_of_another_kind() -> None:
    update = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))}).source("q")
    task = ModuleTask("q", ("a", "b"), (update, update), ("A",), "overlap", "cpu")
    changes = {
        "sources": (update, None),
        "random": (frozenset({"A"}), frozenset()),
        "initial": (update, None),
    }
    assert set(changes) <= {field.name for field in fields(ModuleTask)}
    for name, value in changes.items():
        other = replace(task, **{name: value})
        assert other.kind() is None or other.kind() != task.kind()
        assert [len(batch) for batch in batches([task, other, task])] in ([2, 1], [1, 2])
