"""Directions chosen by worth and reweighted, against dense matrices and a loss that is known."""

from __future__ import annotations

import pytest
import torch

from asym_analysis import Adapter, direction_worth, gradient_alignment, reweight_directions
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(seed: int = 0) -> Adapter:
    return Adapter.from_factors({m: (draw(3, 12, seed=seed + i), draw(10, 3, seed=9 + seed + i)) for i, m in enumerate("qv")})  # noqa: E501  # fmt: skip


def test_reweighted_directions_are_the_dense_sum() -> None:
    run, weights = adapter(), {"q": [0.0, 2.0, 1.0], "v": [0.5]}
    made = reweight_directions(run, weights)
    for module, given in weights.items():
        U, S, Vh = torch.linalg.svd(run[module].delta(), full_matrices=False)
        scaled = S[:3] * torch.tensor([*given, 0.0, 0.0][:3], dtype=torch.float64)
        torch.testing.assert_close(made[module].delta(), (U[:, :3] * scaled) @ Vh[:3])
    assert made.source("q").rank == 2
    assert list(reweight_directions(run, {"q": [0.0] * 3})) == ["v"]
    with pytest.raises(AdapterError, match="leaves no module"):
        reweight_directions(run, {"q": [0.0], "v": [0.0]})
    with pytest.raises(AdapterError, match="has no module"):
        reweight_directions(run, {"other": [1.0]})
    with pytest.raises(AdapterError, match="has 3 directions"):
        reweight_directions(run, {"q": [1.0] * 4})


def test_parts_kept_by_worth_have_the_least_linear_loss_of_all_choices() -> None:
    """With a linear loss <G, dW> the first order is exact: no other choice of as many parts has less."""
    from itertools import combinations

    run = adapter()
    gradients = {m: draw(10, 12, seed=30 + i) for i, m in enumerate(run)}
    worth = direction_worth(run, gradients)

    def loss(weights: dict[str, list[float]]) -> float:
        made = reweight_directions(run, weights)
        return sum((gradients[m] * made[m].delta()).sum().item() for m in made)

    choices = []
    for chosen in combinations(range(6), 3):
        flags = [float(i in chosen) for i in range(6)]
        choices.append(loss({"q": flags[:3], "v": flags[3:]}))
    assert loss(worth.kept(3)) == pytest.approx(min(choices))
    helpful = sum(effect for effect in worth.frame["effect"] if effect < 0)
    assert loss(worth.kept()) == pytest.approx(helpful)


def test_a_square_weight_that_is_stored_transposed_takes_its_gradient_as_stored() -> None:
    pair = draw(2, 6), draw(6, 2, seed=1)
    update = LowRankUpdate(A=pair[0], B=pair[1], stored_transposed=True)
    run = Adapter.from_factors({"c_proj": pair}).with_updates({"c_proj": update})
    G = draw(6, 6, seed=2)  # of the weight (d_out, d_in)
    dense = update.B @ update.A
    expected = (G * dense).sum().item()
    assert direction_worth(run, {"c_proj": G.mT}).frame["effect"].sum() == pytest.approx(expected)
    aligned = gradient_alignment(run, {"c_proj": dense.mT}).frame
    assert aligned["overlap"].tolist() == pytest.approx([1, 1])


def test_gradients_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AdapterError, match="has shape"):
        direction_worth(adapter(), dict.fromkeys("qv", torch.ones(3, 3)))
    with pytest.raises(AdapterError, match="not finite"):
        direction_worth(adapter(), dict.fromkeys("qv", torch.full((10, 12), torch.nan)))
    with pytest.raises(AdapterError, match="no gradient"):
        direction_worth(adapter(), {})
    zero = direction_worth(adapter(), dict.fromkeys("qv", torch.zeros(10, 12))).frame
    assert zero["z"].isna().all()
    assert not zero["worth_keeping"].any()


def test_an_effect_within_the_noise_is_not_worth_keeping() -> None:
    A, B = torch.zeros(1, 12), torch.zeros(10, 1)
    A[0, 0] = B[0, 0] = 1.0
    run = Adapter.from_factors({"q": (A, B)})
    noisy = draw(10, 12)
    noisy[0, 0] = -0.5  # lowers the loss, by half a standard deviation
    rows = {size: direction_worth(run, {"q": noisy - size * B @ A}).frame.iloc[0] for size in (0.0, 20.0)}
    assert rows[0.0]["effect"] < 0
    assert not rows[0.0]["worth_keeping"]
    assert rows[20.0]["worth_keeping"]
