"""Every registered measure: the invariances it declares, an independent formula, and its law under chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import orthogonal_procrustes, subspace_angles

from asym_analysis.chance import StrengthNull, strength_null
from asym_analysis.subspaces.measures import FACTORS, MEASURES, Measure, measure_named

OF_MATRICES = [measure for measure in MEASURES.values() if measure.kind != "update"]
DECLARED = [(m, invariance) for m in OF_MATRICES for invariance in sorted(m.invariances)]
IMPLIED = {"gauge": {"gauge of y", "orthogonal"}}
UNDECLARED = [
    (measure, invariance)
    for measure in OF_MATRICES
    for invariance in ("symmetric", "gauge", "gauge of y", "orthogonal", "scale")
    if invariance not in measure.invariances.union(*(IMPLIED.get(i, set()) for i in measure.invariances))
]
Draw = Callable[..., torch.Tensor]


def drawer(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthogonal(draw: Draw, size: int) -> torch.Tensor:
    return torch.linalg.qr(draw(size, size)).Q


def invertible(draw: Draw, size: int) -> torch.Tensor:
    """Condition number about 10, no orthogonal matrix."""
    return orthogonal(draw, size) @ torch.diag(torch.logspace(0, 1, size, dtype=torch.float64)) @ orthogonal(draw, size)


def changed(invariance: str, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    match invariance:
        case "symmetric":
            return y, x
        case "gauge":
            return invertible(draw, len(x)) @ x, invertible(draw, len(y)) @ y
        case "gauge of y":
            return x, invertible(draw, len(y)) @ y
        case "orthogonal":
            return orthogonal(draw, len(x)) @ x, orthogonal(draw, len(y)) @ y
        case _:
            return -3.0 * x, 1e-3 * y


@pytest.mark.parametrize(("measure", "invariance"), DECLARED, ids=lambda v: getattr(v, "name", v))
@settings(max_examples=12)
@given(
    p=st.integers(1, 5), q=st.integers(1, 5), d=st.integers(12, 30), related=st.booleans(), seed=st.integers(0, 10**6)
)
def test_declared_invariances_hold(
    measure: Measure, invariance: str, p: int, q: int, d: int, related: bool, seed: int
) -> None:
    draw = drawer(seed)
    x, y = draw(p, d), draw(q, d)
    if related:
        y[: min(p, q)] = x[: min(p, q)] + 0.3 * y[: min(p, q)]
    before, after = measure(x, y), measure(*changed(invariance, x, y, draw))
    assert after == pytest.approx(before, abs=1e-9, nan_ok=True)


# What is not declared does not hold: a declaration left out by mistake would hide a property that users rely on.
@pytest.mark.parametrize(("measure", "invariance"), UNDECLARED, ids=lambda v: getattr(v, "name", v))
def test_undeclared_invariances_fail(measure: Measure, invariance: str) -> None:
    draw = drawer(11)
    x = draw(4, 30)
    # A small share of one direction, so that truncating the spectrum sees a change of scale within it.
    y = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.02], dtype=torch.float64)) @ (x + draw(4, 30))
    assert abs(measure(x, y) - measure(*changed(invariance, x, y, draw))) > 1e-6


@pytest.mark.parametrize("measure", OF_MATRICES, ids=lambda m: m.name)
def test_a_matrix_is_most_similar_to_itself(measure: Measure) -> None:
    x = drawer(1)(4, 30)
    assert measure(x, x) == pytest.approx(1.0 if measure.larger_is_more_similar else 0.0, abs=1e-7)
    zero = measure(torch.zeros_like(x), x)
    assert np.isnan(zero)


def centred_cka(x: np.ndarray, y: np.ndarray) -> float:
    center = np.eye(x.shape[1]) - 1 / x.shape[1]
    first, second = center @ x.T @ x @ center, center @ y.T @ y @ center
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    n = x.shape[1]
    one = np.ones(n)

    def hsic(first: np.ndarray, second: np.ndarray) -> float:
        first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
        total = (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
        mixed = 2 / (n - 2) * one @ first @ second @ one
        return float((np.trace(first @ second) + total - mixed) / (n * (n - 3)))

    first, second = x.T @ x, y.T @ y
    return hsic(first, second) / (hsic(first, first) * hsic(second, second)) ** 0.5


def unexplained(x: np.ndarray, y: np.ndarray) -> float:
    residual = x.T - y.T @ np.linalg.lstsq(y.T, x.T, rcond=None)[0]
    return float((np.linalg.norm(residual) / np.linalg.norm(x)) ** 2)


def rotation_angle(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.arccos(np.linalg.svd(x @ y.T)[1].sum() / np.linalg.norm(x) / np.linalg.norm(y)))


def pwcca(x: np.ndarray, y: np.ndarray) -> float:
    qx, qy = np.linalg.qr(x.T)[0], np.linalg.qr(y.T)[0]
    u, s, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs(x @ qx @ u).sum(0)
    return float((weights * s).sum() / weights.sum())


def svcca(x: np.ndarray, y: np.ndarray) -> float:
    def leading(m: np.ndarray) -> np.ndarray:
        _, s, vh = np.linalg.svd(m, full_matrices=False)
        share = np.cumsum(s**2) / (s**2).sum()
        return vh[: next(k for k in range(1, len(s) + 1) if share[k - 1] >= 0.99)].T

    return float(np.cos(subspace_angles(leading(x), leading(y))).mean())


def angles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return subspace_angles(x.T, y.T)


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "overlap": lambda x, y: (np.cos(angles(x, y)) ** 2).mean(),
    "mean_cosine": lambda x, y: np.cos(angles(x, y)).mean(),
    "geodesic": lambda x, y: np.linalg.norm(angles(x, y)),
    "chordal": lambda x, y: np.linalg.norm(np.sin(angles(x, y))),
    "projection": lambda x, y: np.sin(angles(x, y)).max(),
    "fubini_study": lambda x, y: np.arccos(np.cos(angles(x, y)).prod()),
    "procrustes": lambda x, y: np.sqrt(2 * (1 - np.cos(angles(x, y))).sum()),
    "martin": lambda x, y: np.sqrt(-np.log((np.cos(angles(x, y)) ** 2).prod())),
    "linear_cka": lambda x, y: np.linalg.norm(y @ x.T) ** 2 / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T),
    "weighted_overlap": lambda x, y: np.sum((x.T @ x) * (y.T @ y)) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y),
    "rv": centred_cka,
    "debiased_cka": debiased_cka,
    "svcca": svcca,
    "pwcca": pwcca,
    "linear_regression": lambda x, y: 1 - unexplained(x, y),
    "angular_procrustes": rotation_angle,
}


def test_every_measure_has_an_oracle() -> None:
    assert set(ORACLES) == {m.name for m in OF_MATRICES}


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=12)
@given(p=st.integers(1, 5), q=st.integers(1, 5), d=st.integers(12, 30), seed=st.integers(0, 10**6))
def test_agrees_with_an_independent_formula(name: str, p: int, q: int, d: int, seed: int) -> None:
    draw = drawer(seed)
    x, y = draw(p, d), draw(q, d)
    y[0] = x[0] + 0.5 * y[0]
    x[0] *= 8.0
    expected = ORACLES[name](x.numpy(), y.numpy())
    assert MEASURES[name](x, y) == pytest.approx(float(expected), abs=1e-9, nan_ok=True)


def test_the_distances_are_those_of_projectors_and_rotations() -> None:
    x, y = drawer(2)(3, 20), drawer(3)(3, 20)
    u, v = np.linalg.qr(x.numpy().T)[0], np.linalg.qr(y.numpy().T)[0]
    difference = u @ u.T - v @ v.T
    assert MEASURES["chordal"](x, y) == pytest.approx(np.linalg.norm(difference) / 2**0.5)
    assert MEASURES["projection"](x, y) == pytest.approx(np.linalg.norm(difference, 2))
    rotation, _ = orthogonal_procrustes(v, u)
    left, _, right = np.linalg.svd(u.T @ v)
    assert MEASURES["procrustes"](x, y) == pytest.approx(np.linalg.norm(u @ left - v @ right.T), abs=1e-10)
    assert np.linalg.norm(u - v @ rotation) == pytest.approx(MEASURES["procrustes"](x, y))


@pytest.mark.parametrize("name", ["geodesic", "chordal", "projection", "fubini_study", "procrustes"])
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 4))
def test_metrics_obey_the_triangle_inequality(name: str, seed: int, rank: int) -> None:
    draw = drawer(seed)
    x, y, z = draw(rank, 9), draw(rank, 9), draw(rank, 9)
    measure = MEASURES[name]
    assert measure(x, z) <= measure(x, y) + measure(y, z) + 1e-12


@pytest.mark.parametrize("name", ["geodesic", "chordal", "projection", "fubini_study", "procrustes", "martin"])
def test_distances_keep_their_digits_near_zero(name: str) -> None:
    x = torch.eye(1, 10, dtype=torch.float64)
    y = x.clone()
    y[0, 5] = 1e-9
    assert MEASURES[name](x, y) == pytest.approx(1e-9, rel=1e-6)


def test_svcca_keeps_no_direction_too_many() -> None:
    x = torch.diag(torch.tensor([99.0, 1.0], dtype=torch.float64).sqrt())
    kept = MEASURES["svcca"].prepare(torch.stack([x, torch.diag(torch.tensor([98.0, 2.0]).double().sqrt())])).rank
    assert kept.tolist() == [1, 2]


def random_values(measure: Measure, p: int, q: int, d: int, count: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(99)
    first, second = (torch.randn(count, rank, d, generator=generator, dtype=torch.float64) for rank in (p, q))
    x, y = measure.prepare(first), measure.prepare(second)
    # Four second matrices to each first one: fewer calls, and pairs that hardly depend on each other.
    groups = [measure.compare(x[i : i + 1], y[4 * i : 4 * i + 4])[0] for i in range(count // 4)]
    return torch.cat(groups).numpy()


@pytest.mark.parametrize(
    "name", [m.name for m in OF_MATRICES if m.name not in ("weighted_overlap", "linear_cka", "rv")]
)
@pytest.mark.parametrize(("p", "q", "d"), [(4, 6, 64), (3, 2, 4)])
def test_the_null_is_that_of_random_matrices(name: str, p: int, q: int, d: int) -> None:
    """Kolmogorov-Smirnov at level 0.001 of p-values against their own, of all d coordinates drawn."""
    measure = measure_named(name)
    values = random_values(measure, p, q, d, 1000)
    values = values[np.isfinite(values)]
    null = measure.null(p, q, d)
    if null.std < 1e-9:
        assert values == pytest.approx(null.mean, abs=1e-9)
        return
    assert stats.kstest(null.p_value(values), "uniform").pvalue > 0.001
    assert null.mean == pytest.approx(values.mean(), abs=5 * values.std() / len(values) ** 0.5)
    assert null.p_value(np.array([null.critical_value(0.1)]))[0] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("strengths", [(5.0, 2.0, 1.0, 0.1), (1.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("size", [40, 300])
def test_the_null_of_kernel_alignment_is_strength_matched(strengths: tuple[float, ...], size: int) -> None:
    """Exact moments, and tails right to a tenth, on 2,500 pairs with their own singular values in random directions."""
    draw = drawer(4)
    weights = torch.tensor(strengths, dtype=torch.float64)[:, None]
    bases = lambda: torch.linalg.qr(draw(50, size, 4)).Q.mT  # noqa: E731
    measure = MEASURES["weighted_overlap"]
    first, second = measure.prepare(weights * bases()), measure.prepare(weights.sqrt() * bases())
    values = measure.compare(first, second).flatten().numpy()
    law = strength_null(first.other["spread"][:1].numpy(), second.other["spread"][:1].numpy(), size)
    assert values.mean() == pytest.approx(law.mean[0], abs=5 * law.std[0] / 50)
    assert values.std() == pytest.approx(law.std[0], rel=0.1)
    one = StrengthNull(float(law.mean[0]), float(law.std[0]), float(law.skewness[0]))
    p_values = one.p_value(values)
    for level in (0.1, 0.01):
        assert (p_values < level).mean() == pytest.approx(level, abs=0.1 * level + 4 * (level / len(values)) ** 0.5)
    assert one.p_value(np.array([one.critical_value(0.02)]))[0] == pytest.approx(0.02)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_the_cosine_of_updates_has_its_law(rank: int) -> None:
    measure, d_in, d_out = MEASURES["cosine"], 48, 32
    generator = torch.Generator().manual_seed(rank)
    basis = lambda n, d: torch.linalg.qr(torch.randn(n, d, rank, generator=generator, dtype=torch.float64)).Q  # noqa: E731
    frames = measure.prepare(basis(60, d_in).mT, basis(60, d_out))
    values = measure.compare(frames, frames).numpy()[np.triu_indices(60, 1)]
    null = measure.null(rank, rank, d_in * d_out)
    assert values.std() == pytest.approx(null.std, rel=0.12)
    assert stats.kstest(null.p_value(values), "uniform").pvalue > 0.001


def test_the_cosine_is_that_of_the_dense_updates() -> None:
    draw = drawer(6)
    A, B = draw(3, 2, 20), draw(3, 15, 2)
    frames = MEASURES["cosine"].prepare(A, B)
    dense = (B @ A).flatten(1)
    dense = dense / dense.norm(dim=1, keepdim=True)
    torch.testing.assert_close(MEASURES["cosine"].compare(frames, frames), dense @ dense.mT, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="compares updates"):
        MEASURES["cosine"](A[0], A[1])


def test_every_kind_says_what_it_can_be_taken_of() -> None:
    for measure in MEASURES.values():
        assert set(measure.default_factors) <= set(FACTORS[measure.kind])
        assert measure.source
    with pytest.raises(ValueError, match="there are: overlap"):
        measure_named("cka")
