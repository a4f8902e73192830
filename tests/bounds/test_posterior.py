"""Gaussian posteriors: KL against torch, prices that sum to one, noise of the size that was asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds.energies import factor_energies, scale_on_grid, scale_price
from asym_analysis.bounds.posterior import gaussian_posterior


def gaussian_kl(squared: float, size: int, q: float, p: float) -> float:
    """KL of Gaussians in `size` dimensions whose means are sqrt(squared) apart, by torch."""
    mean = torch.full((size,), math.sqrt(squared / size), dtype=torch.float64)
    normals = (
        torch.distributions.Normal(m, torch.tensor(s, dtype=torch.float64)) for m, s in ((mean, q), (0 * mean, p))
    )
    return torch.distributions.kl_divergence(*normals).sum().item()


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


def test_a_zero_update_has_a_posterior_and_every_tensor_is_charged() -> None:
    """Which tensors are perturbed is fixed by the shapes, not by which of them the data left at zero."""
    adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.zeros(2, 1))})
    for tuned, keys in (("B", {"B"}), ("both", {"A", "B"})):
        posterior = gaussian_posterior(adapter, tuned)
        assert {part for _, part in posterior.stds} == keys
        assert math.isfinite(posterior.kl)


@pytest.mark.parametrize("size", [1e-25, 1e19])
def test_tiny_and_huge_entries(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator)
    usual = gaussian_posterior(Adapter.from_factors({"q": (A, B)}), "both")
    scaled = gaussian_posterior(Adapter.from_factors({"q": (size * A, size * B)}), "both")
    ratio = scaled.stds["q", "B"] / usual.stds["q", "B"]
    assert math.log2(ratio / size) == pytest.approx(0, abs=0.6)  # scales lie on a grid of ratio sqrt(2)
    without_price = [one.kl - one.price for one in (usual, scaled)]
    assert without_price[0] == pytest.approx(without_price[1], rel=1.01)


def test_density_ratio_averages_to_kl() -> None:
    adapter = make(start=True)
    posterior = gaussian_posterior(adapter, "both", relative_noise=2.0)
    generator = torch.Generator().manual_seed(0)
    found = [posterior.draw_with_density(generator)[1] for _ in range(200)]
    error = torch.tensor(found).std().item() / math.sqrt(200)
    assert sum(found) / 200 == pytest.approx(posterior.kl, abs=4 * error)
