"""Curvature against the whole Hessian, shares of frozen factors against regression, starts against the variants."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asym_analysis import Adapter, AdapterError
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.finetuning.initializations import ModuleStatistics, initial_factor
from asym_analysis.prediction import InputMoment, kept_by_frozen, placed_start, training_curvature


class Small(nn.Module):
    """A curved loss of two parameters, one of which is not trained."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64), requires_grad=False)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        logits = self.second @ torch.tanh(self.first @ x.T)
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits.T, labels))


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "x": torch.randn(6, 4, generator=generator, dtype=torch.float64),
            "labels": torch.randint(2, (6,), generator=generator),
        }
        for _ in range(count)
    ]


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian() -> None:
    model, data = Small(), batches(2)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        values = {"first": flat.view(3, 4), "second": model.second}
        return sum(torch.func.functional_call(model, values, kwargs=batch).loss for batch in data) / len(data)

    flat = model.first.detach().flatten()
    hessian = torch.autograd.functional.hessian(loss, flat)
    values = torch.linalg.eigvalsh(hessian)
    expected = values[values.abs().argmax()]
    found = training_curvature(model, data, iterations=400)
    assert found.largest == pytest.approx(float(expected), rel=1e-6)
    assert found.residual < 1e-3 * abs(found.largest)
    for iterations in (1, 2, 4):  # some eigenvalue lies within the stated error, however few the steps
        early = training_curvature(model, data, iterations=iterations)
        assert float((values - early.largest).abs().min()) <= early.residual * (1 + 1e-5)
    assert early.residual > found.residual
    gradient = torch.autograd.functional.jacobian(loss, flat)
    signs = gradient.sign()
    assert found.gradient_norm == pytest.approx(float(gradient.norm()))
    along = float(signs @ hessian @ signs)
    assert found.sign_step == pytest.approx(float(gradient.abs().sum()) / along if along > 0 else float("inf"))


def test_a_frozen_model_or_no_batch_has_no_curvature() -> None:
    model = Small().requires_grad_(False)
    with pytest.raises(AdapterError, match="requires gradients"):
        training_curvature(model, batches(1))
    with pytest.raises(AdapterError, match="at least one batch"):
        training_curvature(Small(), [])


def moment(width: int, seed: int) -> torch.Tensor:
    rows = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_the_kept_share_is_what_least_squares_reaches(factor: str, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    update = LowRankUpdate(A=torch.randn(2, 6, generator=generator), B=torch.randn(5, 2, generator=generator))
    inputs, sensitivity = moment(6, 1), moment(5, 2) if weighted else torch.eye(5, dtype=torch.float64)
    frozen = torch.randn(3, 6, generator=generator) if factor == "A" else torch.randn(5, 3, generator=generator)
    kept, whole = kept_by_frozen(factor, frozen, update, inputs, sensitivity if weighted else None)
    # Independently: the smallest weighted error over the free factor, solved as one regression on its entries.
    delta = float(update.scaling) * update.B.double() @ update.A.double()
    left, right = torch.linalg.cholesky(sensitivity).T, torch.linalg.cholesky(inputs)
    target = (left @ delta @ right).flatten()
    free = torch.eye(15 if factor == "A" else 18, dtype=torch.float64)
    columns = [
        (left @ (e.view(5, 3) @ frozen.double() if factor == "A" else frozen.double() @ e.view(3, 6)) @ right).flatten()
        for e in free
    ]
    design = torch.stack(columns, dim=1)
    error = target - design @ torch.linalg.lstsq(design, target).solution
    assert whole == pytest.approx(float(target.square().sum()))
    assert kept == pytest.approx(whole - float(error.square().sum()))


@pytest.mark.parametrize("last", [False, True])
def test_a_placed_start_is_what_the_variant_starts_from(last: bool) -> None:
    generator = torch.Generator().manual_seed(11)
    adapter = Adapter.from_factors(
        {"q": (torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator))}, scaling=2.0
    )
    inputs = {"q": InputMoment(moment(6, 4), torch.zeros(6).double(), 18)}
    start = placed_start(adapter, inputs, rank=3, last=last)["q"]
    name = "last_principal" if last else "principal"
    drawn = initial_factor("A", name, torch.zeros(5, 6), 3, generator, ModuleStatistics(inputs["q"]))
    torch.testing.assert_close(start.A, drawn)
    assert start.scaling == 2.0
    assert start.B.shape == (5, 3)
    assert not start.B.any()
    for bad, message in (({}, "no moments"), ({"q": InputMoment(moment(4, 1), torch.zeros(4).double(), 9)}, "no mom")):
        with pytest.raises(AdapterError, match=message):
            placed_start(adapter, bad)
    with pytest.raises(AdapterError, match="rank 7 is above its 6 inputs"):
        placed_start(adapter, inputs, rank=7)
