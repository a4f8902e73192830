"""Gaussian posteriors: KL against torch, prices that sum to one, noise of the size that was asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds.energies import factor_energies, scale_on_grid, scale_price
from asym_analysis.bounds.posterior import gaussian_kl, gaussian_posterior


def make(*, start: bool = False, scaling: float = 2.0) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    factors, begun = {}, {}
    for i, (d_in, d_out) in enumerate([(30, 20), (20, 50)]):
        A0 = torch.randn(3, d_in, generator=generator)
        begun[f"layer.{i}.q"] = (A0, torch.zeros(d_out, 3))
        moved = A0 + 0.2 * torch.randn(A0.shape, generator=generator)
        factors[f"layer.{i}.q"] = (moved, 0.3 * torch.randn(d_out, 3, generator=generator))
    initial = Adapter.from_factors(begun, scaling=scaling) if start else None
    made = Adapter.from_factors(factors, scaling=scaling, initial=initial)
    weight = torch.randn(2, 20, generator=generator)
    extras = {"head": TensorSource((2, 20), "float32", lambda: weight)}
    return Adapter({m: made.source(m) for m in made}, name="made", extras=extras, initial=initial)


@given(st.floats(0.01, 3), st.floats(0.01, 3))
def test_kl_against_torch(q: float, p: float) -> None:
    mean = torch.linspace(-1, 1, 7, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.tensor(q, dtype=torch.float64)),
        torch.distributions.Normal(torch.zeros(7, dtype=torch.float64), torch.tensor(p, dtype=torch.float64)),
    ).sum()
    assert gaussian_kl(mean.square().sum().item(), 7, q, p) == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)


def test_prices_are_those_of_a_probability() -> None:
    total = sum(math.exp(-scale_price(2.0 ** (k / 2))) for k in range(-1000, 1001))
    assert 1 - 2e-3 < total < 1
    with pytest.raises(ValueError, match="grid"):
        scale_price(0.3)


@given(st.floats(1e-6, 1e6))
def test_grid_is_fine_enough(scale: float) -> None:
    assert 2**-0.2501 <= scale_on_grid(scale) / scale <= 2**0.2501


@pytest.mark.parametrize("tuned", ["B", "A", "both"])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("scaling", [2.0, -0.5])
def test_noise_has_the_size_asked_for(tuned: str, start: bool, scaling: float) -> None:
    adapter = make(start=start, scaling=scaling)
    posterior = gaussian_posterior(adapter, tuned, include_head=False, relative_noise=0.7)
    generator = torch.Generator().manual_seed(0)
    whole = sum(adapter[m].frobenius_norm() ** 2 for m in adapter)
    noise = 0.0
    for _ in range(60):
        drawn = posterior.draw(generator)
        noise += sum(((drawn[m].delta() - adapter[m].delta()) ** 2).sum().item() for m in adapter) / 60
        assert drawn.extras["head"].read() is adapter.extras["head"].read()
    # The grid is a factor 2^(1/2) coarse, so each scale is off by up to 2^(1/4).
    assert 0.7 * 2**-0.35 < math.sqrt(noise / whole) < 0.7 * 2**0.35


def test_centre_is_the_same_update_where_it_is_balanced() -> None:
    adapter = make(scaling=-0.5)
    posterior = gaussian_posterior(adapter, "both")
    for module in adapter:
        assert torch.allclose(posterior.adapter[module].delta(), adapter[module].delta(), atol=1e-5)
        A, B = posterior.adapter[module].A, posterior.adapter[module].B
        assert torch.allclose(A @ A.mT, B.mT @ B, atol=1e-4)
    balanced = sum(adapter[m].singular_values().sum().item() / 0.5 for m in adapter)
    energy = factor_energies(adapter)["both"]
    assert energy.a_squared == pytest.approx(balanced, rel=1e-5)
    assert energy.b_squared == pytest.approx(balanced, rel=1e-5)
    plain = sum(adapter[m].A.square().sum().item() + adapter[m].B.square().sum().item() for m in adapter)
    assert energy.a_squared + energy.b_squared < plain


def test_kl_of_the_posterior_is_the_sum_of_its_gaussians() -> None:
    adapter = make(start=True)
    posterior = gaussian_posterior(adapter, "both", relative_noise=0.5)
    expected = 0.0
    for (owner, part), centre in posterior.centre.items():
        before = getattr(adapter.initial[owner], part) if part in "AB" else torch.zeros_like(centre)
        std = posterior.stds[owner, part]
        expected += gaussian_kl((centre - before).square().sum().item(), centre.numel(), std, std)
    expected += sum(scale_price(s) for s in {k[1]: s for k, s in posterior.stds.items()}.values())
    assert posterior.kl == pytest.approx(expected, rel=1e-6)


def test_a_prior_from_other_data_costs_only_the_distance_to_it() -> None:
    adapter = make(start=True)
    near = Adapter.from_factors({m: (adapter[m].A, adapter[m].B + 0.001) for m in adapter}, scaling=2.0)
    free = gaussian_posterior(adapter, "B", include_head=False)
    with_prior = gaussian_posterior(adapter, "B", include_head=False, prior=near)
    assert with_prior.kl < 20 < free.kl


def test_same_seed_same_draw() -> None:
    posterior = gaussian_posterior(make(), "both")
    one, two = (posterior.draw(torch.Generator().manual_seed(4))["layer.0.q"].B for _ in range(2))
    assert torch.equal(one, two)


def test_nothing_trained_nothing_to_centre_on() -> None:
    with pytest.raises(ValueError, match="only zeros"):
        gaussian_posterior(Adapter.from_factors({"q": (torch.zeros(1, 3), torch.zeros(2, 1))}), "both")
