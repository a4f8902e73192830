"""The movement told from the entries: identities by simulation, every start and movement, and what must not be told."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from asym_analysis.adapters import entry_distribution
from asym_analysis.adapters.entry_distribution import Movement, infer_movements

Draw = Callable[[int, int, np.random.Generator], np.ndarray]


def uniform(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    return draw.uniform(-1, 1, (rank, size)) / size**0.5


def orthonormal(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(draw.standard_normal((size, rank)))[0].T


def normal(scale: Callable[[int, int], float]) -> Draw:
    return lambda rank, size, draw: draw.standard_normal((rank, size)) * scale(rank, size)


def bounded(scale: Callable[[int, int], float]) -> Draw:
    return lambda rank, size, draw: draw.uniform(-1, 1, (rank, size)) * scale(rank, size)


def truncated(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    values = draw.standard_normal((rank, size))
    while (abs(values) > 2).any():
        values = np.where(abs(values) > 2, draw.standard_normal((rank, size)), values)
    return 0.02 * values


OTHER_LAWS: dict[str, Draw] = {
    "orthonormal": orthonormal,
    "normal 1/r": normal(lambda r, d: 1 / r),
    "normal 1/sqrt(d)": normal(lambda r, d: d**-0.5),
    "normal of the uniform law's variance": normal(lambda r, d: (3 * d) ** -0.5),
    "normal 0.02": normal(lambda r, d: 0.02),
    "xavier normal": normal(lambda r, d: (2 / (r + d)) ** 0.5),
    "xavier uniform": bounded(lambda r, d: (6 / (r + d)) ** 0.5),
    "kaiming a=1": bounded(lambda r, d: (3 / d) ** 0.5),
    "kaiming a=0": bounded(lambda r, d: (6 / d) ** 0.5),
    "laplace": lambda r, d, draw: draw.laplace(size=(r, d)) / (6 * d) ** 0.5,
    "truncated normal": truncated,
    "folded alpha": bounded(lambda r, d: (2 / d) ** 0.5),
    "decay alone": bounded(lambda r, d: 0.9 * d**-0.5),
}


def move(start: np.ndarray, share: float, kind: str, draw: np.random.Generator, correlation: float = 0.0) -> np.ndarray:
    """Move by exactly `share` of the length, with exactly that correlation with the start."""
    rank, size = start.shape
    noise = draw.standard_normal(start.shape)
    if kind == "low rank":
        noise = draw.standard_normal((rank, 1)) * draw.standard_normal(size)
    elif kind == "signs":
        noise = np.sign(noise)
    elif kind == "sparse":
        noise = noise * np.where(draw.random(size) < 0.05, 1, 0.02)
    noise -= (noise * start).sum() / (start**2).sum() * start
    noise *= np.linalg.norm(start) / np.linalg.norm(noise)
    return start + share * (correlation * start + math.sqrt(1 - correlation**2) * noise)


def infer(*factors: np.ndarray, recorded: bool = False) -> list[Movement]:
    return infer_movements([torch.tensor(factor) for factor in factors], recorded=recorded)


@pytest.mark.parametrize("edge", [0.8, 1.0, 1.3])
def test_the_mean_beyond_the_edge_is_the_mean_square_whatever_is_added(edge: float) -> None:
    """mean g_c(u + e) = mean e^2 for uniform u, also for a few huge e; and mean cos(k pi (u + e)/c) = 0."""
    draw = np.random.default_rng(0)
    added = np.concatenate([0.1 * draw.standard_normal(300_000), 5 * draw.laplace(size=100_000)])
    x = np.abs(edge * draw.uniform(-1, 1, added.shape) + added)[None]
    values = entry_distribution._beyond(x, np.array([[edge]]))
    error = values.std() / math.sqrt(values.size)
    assert abs(values.mean() - (added**2).mean()) < 4 * error
    for k in (1, 2, 5):
        assert abs(np.cos(k * np.pi * x / edge).mean()) < 4 * math.sqrt(0.5 / x.size)


@pytest.mark.parametrize("kind", ["even", "low rank", "signs", "sparse"])
@pytest.mark.parametrize(("share", "rank", "size"), [(0.05, 8, 768), (0.3, 4, 256), (0.3, 16, 1024), (0.9, 16, 2048)])
def test_movement_is_within_its_standard_error(kind: str, share: float, rank: int, size: int) -> None:
    if kind == "signs" and share > 0.5:
        pytest.skip("equal steps almost as long as the bound are no movement of training")
    draw = np.random.default_rng(0)
    factors = []
    for _ in range(30):
        correlation = draw.uniform(-0.2, 0.2)
        factors.append(move(uniform(rank, size, draw), share, kind, draw, correlation))
    found = [one for one in infer(*factors) if math.isfinite(one.value)]
    assert len(found) >= 26
    scores = np.array([(one.value - share) / one.std_error for one in found])
    assert (np.abs(scores) < 2).mean() >= 0.9
    assert abs(scores.mean()) < 1
    assert all(one.std_error < 0.3 * one.value for one in found)


@pytest.mark.parametrize("name", OTHER_LAWS)
def test_noise_of_another_law_is_no_movement(name: str) -> None:
    draw = np.random.default_rng(0)
    for rank, size in ((8, 768), (4, 256), (16, 1024), (16, 640), (8, 1280)):
        found = infer(*(OTHER_LAWS[name](rank, size, draw) for _ in range(12)))
        assert not any(one.recognized for one in found), (rank, size, found[0])


@pytest.mark.parametrize("name", ["orthonormal", "normal 1/sqrt(d)", "xavier normal", "normal 0.02"])
@pytest.mark.parametrize("recorded", [False, True])
def test_many_modules_do_not_add_up_to_an_edge(name: str, *, recorded: bool) -> None:
    """Solving for an edge in every module finds a zero of its noise; together they must not pass for one."""
    draw = np.random.default_rng(1)
    for rank, size in ((8, 768), (4, 1024)):
        found = infer(*(OTHER_LAWS[name](rank, size, draw) for _ in range(150)), recorded=recorded)
        assert all("no edge of a uniform initialization is seen" in one.note for one in found), found[0]


def test_scaling_is_a_movement_only_where_the_law_is_recorded() -> None:
    draw = np.random.default_rng(0)
    for scale in (0.9, 1.4):
        factors = [scale * uniform(8, 768, draw) for _ in range(12)]
        told = infer(*factors, recorded=True)
        assert [one.value for one in told] == pytest.approx([abs(scale - 1)] * 12, abs=0.015)
        assert [one.correlation for one in told] == pytest.approx([math.copysign(1, scale - 1)] * 12, abs=0.05)
        assert "another bound, a rescaled factor or weight decay" in infer(*factors)[0].note


def test_a_factor_that_did_not_move_has_an_upper_limit_only() -> None:
    draw = np.random.default_rng(0)
    for found in infer(*(uniform(8, 768, draw) for _ in range(6))):
        assert math.isnan(found.value)
        assert found.upper < 0.04
        assert found.recognized
        assert "too small to resolve: at most" in found.note


def test_far_movements_and_few_entries_are_not_told() -> None:
    draw = np.random.default_rng(0)
    assert all(math.isnan(one.value) for one in infer(*(uniform(1, 16, draw) for _ in range(4))))
    far = infer(*(move(uniform(16, 1024, draw), 1.6, "even", draw) for _ in range(8)), recorded=True)
    assert all(math.isnan(one.value) and one.note for one in far)


def test_a_recorded_law_that_the_entries_contradict_is_not_used() -> None:
    draw = np.random.default_rng(0)
    found = infer(*(OTHER_LAWS["orthonormal"](8, 768, draw) for _ in range(6)), recorded=True)
    assert all("no edge of a uniform initialization is seen" in one.note for one in found)


def test_pruned_zero_and_coarsely_stored_factors_are_not_estimated() -> None:
    draw = np.random.default_rng(0)
    pruned = uniform(8, 256, draw)
    pruned[:, ::2] = 0
    assert "pruned" in infer(pruned)[0].note
    assert "zero" in infer(np.zeros((8, 256)))[0].note
    assert "too coarse" in infer_movements([torch.tensor(uniform(8, 256, draw))], dtypes=["float8_e4m3fn"])[0].note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_the_file_is_no_movement(dtype: torch.dtype) -> None:
    draw = np.random.default_rng(0)
    name = str(dtype).removeprefix("torch.")
    for share in (0.0, 0.1):
        factors = [torch.tensor(move(uniform(8, 768, draw), share, "even", draw)).to(dtype).double() for _ in range(8)]
        found = infer_movements(factors, dtypes=[name] * 8)
        values = [one.value for one in found]
        assert all(map(math.isnan, values)) if share == 0 else np.median(values) == pytest.approx(0.1, abs=0.01)


def test_B_of_torch_s_own_linear_layer() -> None:
    """Its bound is 1/sqrt(rank): the fan-in of B."""
    draw = np.random.default_rng(0)
    factors = [torch.tensor(move(draw.uniform(-1, 1, (8, 768)) / 8**0.5, 0.2, "even", draw)) for _ in range(6)]
    assert np.median([one.value for one in infer_movements(factors, "B")]) == pytest.approx(0.2, abs=0.02)
