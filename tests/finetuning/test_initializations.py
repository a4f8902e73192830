"""Start values against scipy, numpy and their own laws."""

from __future__ import annotations

import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import peft
import pytest
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import linalg, stats

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import Variant, apply_variant, initial_factor, read_sweep
from asym_analysis.finetuning.initializations import INITIALIZATIONS, Initialization, generator_for
from asym_analysis.finetuning.settings import CHECKED
from asym_analysis.finetuning.tasks import TASKS, LanguageModellingTask

WEIGHT = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))


def draw(factor: str, start: str, rank: int = 4, seed: int = 0, weight: torch.Tensor = WEIGHT) -> torch.Tensor:
    return initial_factor(factor, start, weight, rank, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["zero", "orthonormal", "kaiming", "gaussian", "singular", "last_singular"])
def test_shapes_and_reproducibility(start: str) -> None:
    assert draw("A", start).shape == (4, 30)
    assert draw("B", start).shape == (20, 4)
    assert torch.equal(draw("A", start), draw("A", start))


def test_orthonormal_starts() -> None:
    assert torch.allclose(draw("A", "orthonormal") @ draw("A", "orthonormal").T, torch.eye(4), atol=1e-6)
    assert torch.allclose(draw("B", "orthonormal").T @ draw("B", "orthonormal"), torch.eye(4), atol=1e-6)


def test_orthonormal_starts_are_haar() -> None:
    # One squared entry of a uniform unit vector in R^d is Beta(1/2, (d-1)/2); signs are symmetric.
    entries = np.array([float(draw("A", "orthonormal", rank=3, seed=seed)[1, 7]) for seed in range(1000)])
    assert stats.kstest(entries**2, stats.beta(0.5, 29 / 2).cdf).pvalue > 0.001
    assert stats.binomtest(int((entries > 0).sum()), 1000).pvalue > 0.001


def test_singular_starts_are_the_pretrained_weights_own_singular_vectors() -> None:
    U, _, Vh = linalg.svd(WEIGHT.double().numpy())
    for factor, start, vectors in (
        ("A", "singular", Vh[:4].T),
        ("A", "last_singular", Vh[16:20].T),
        ("B", "singular", U[:, :4]),
        ("B", "last_singular", U[:, 16:]),
    ):
        found = draw(factor, start).double().numpy()
        angles = linalg.subspace_angles(found.T if factor == "A" else found, vectors)
        assert angles.max() < 1e-6, (factor, start)
    cosines = np.abs(draw("A", "singular").double().numpy() @ Vh[:4].T)
    assert np.allclose(cosines, np.eye(4), atol=1e-6)  # each row is one singular vector, in order


def test_kaiming_starts_are_those_of_torch() -> None:
    wide = torch.zeros(400, 600)
    for factor, linear in (("A", torch.nn.Linear(600, 8)), ("B", torch.nn.Linear(8, 400))):
        ours = draw(factor, "kaiming", rank=8, weight=wide)
        assert ours.shape == linear.weight.shape
        assert stats.ks_2samp(ours.flatten().numpy(), linear.weight.detach().flatten().numpy()).pvalue > 0.001
    # docs/theory.md, section 1.5: the scale of a frozen Kaiming B, sqrt(d_out / (3 rank)).
    norm = draw("B", "kaiming", rank=8, weight=torch.zeros(1024, 1024)).norm(dim=0).mean()
    assert float(norm) == pytest.approx(math.sqrt(1024 / 24), rel=0.03)


def test_gaussian_starts_have_unit_rows() -> None:
    rows = draw("A", "gaussian", rank=200, weight=torch.zeros(300, 300)).square().sum(1)
    assert float(rows.mean()) == pytest.approx(1, abs=0.03)


def test_a_modules_start_depends_on_its_name_the_factor_and_the_seed_alone() -> None:
    base = torch.rand(3, generator=generator_for(0, "layer.0.query", "A"))
    assert torch.equal(base, torch.rand(3, generator=generator_for(0, "layer.0.query", "A")))
    for other in ((1, "layer.0.query", "A"), (0, "layer.1.query", "A"), (0, "layer.0.query", "B")):
        assert not torch.equal(base, torch.rand(3, generator=generator_for(*other)))  # type: ignore[arg-type]


def test_a_rank_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AdapterError, match="20 singular vectors"):
        draw("A", "singular", rank=21)
    with pytest.raises(AdapterError, match="rank 21 is above 20, the width of the outputs"):
        draw("B", "orthonormal", rank=21)


def test_a_new_initialization_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe: an entry of the table, and the notation, the variants and the models know it."""
    ones = Initialization(lambda asked: torch.ones(asked.length, asked.rank), {"A": "ones"}, orthonormal=False)
    monkeypatch.setitem(INITIALIZATIONS, "ones", ones)
    variant = Variant.parse("hB_0 A_ones")
    assert str(variant) == "hB_0 A_ones"
    model = torch.nn.Sequential(torch.nn.Linear(6, 4))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    initial = apply_variant(adapted, variant, 0)
    assert torch.equal(next(value for key, value in initial.items() if "lora_A" in key), torch.ones(2, 6))
    with pytest.raises(ValueError, match="B has no initialization 'ones'"):
        Variant.parse("B_ones hA_0")


def test_a_new_task_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipe: a dataclass of checked settings, and an entry under its kind."""

    @dataclass(frozen=True, config=CHECKED)
    class ShortTexts(LanguageModellingTask):
        window: Annotated[int, Field(ge=1, le=8)] = 8
        kind: Literal["short_texts"] = field(default="short_texts", kw_only=True)  # type: ignore[assignment]

    monkeypatch.setitem(TASKS, "short_texts", ShortTexts)
    plan = tmp_path / "plan.toml"
    head = '[settings]\nmodel = "m"\ntarget_modules = "q"\n[settings.task]\nkind = "short_texts"\n'
    text = head + 'data_folder = "."\ntrain_file = "a.txt"\n'
    plan.write_text(text)
    assert read_sweep(plan)[0].config.as_mapping()["task"]["kind"] == "short_texts"
    plan.write_text(text + "window = 9\n")
    with pytest.raises(AdapterError, match=r"settings\.task\.window is 9: should be less than or equal to 8"):
        read_sweep(plan)
