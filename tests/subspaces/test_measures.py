"""Every registered measure: the invariances it declares, an independent formula, and its law under chance."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import orthogonal_procrustes, subspace_angles

from asym_analysis.subspaces.measures import FACTORS, MEASURES, Measure, measure_named
from asym_analysis.subspaces.sources import SOURCES

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


@pytest.mark.parametrize("name", [m.name for m in OF_MATRICES if m.kind == "subspace"])
@pytest.mark.parametrize(("p", "q", "d"), [(4, 6, 64), (3, 2, 4)])
def test_the_null_is_that_of_random_subspaces(name: str, p: int, q: int, d: int) -> None:
    """Kolmogorov-Smirnov at level 0.001 of p-values against their own, of all d coordinates drawn."""
    measure = measure_named(name)
    values = random_values(measure, p, q, d, 1000)
    values = values[np.isfinite(values)]
    null = measure.chance(p, q, d)
    if null.std < 1e-9:
        assert values == pytest.approx(null.mean, abs=1e-9)
        return
    assert stats.kstest(null.p_value(values), "uniform").pvalue > 0.001
    assert null.mean == pytest.approx(values.mean(), abs=5 * values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("name", [m.name for m in OF_MATRICES])
def test_chance_has_an_answer_where_the_rows_fill_the_space(name: str) -> None:
    null = measure_named(name).chance(4, 4, 4)
    assert np.isfinite(float(null.mean))


STRENGTHS = {
    "flat": np.ones,
    "1/i": lambda k: 1.0 / np.arange(1, k + 1),
    "1/i^2": lambda k: np.arange(1.0, k + 1) ** -2,
}


def in_random_directions(draw: Draw, strengths: np.ndarray, d: int, count: int) -> torch.Tensor:
    basis = torch.linalg.qr(draw(count, d, len(strengths))).Q
    return (basis * torch.from_numpy(strengths)).mT


@pytest.mark.parametrize("name", [m.name for m in OF_MATRICES if m.sees_strengths or m.name == "svcca"])
@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize(("p", "q", "d"), [(6, 4, 96), (3, 5, 10), (5, 4, 6)])
def test_p_values_are_uniform_whatever_the_singular_values(name: str, strengths: str, p: int, q: int, d: int) -> None:
    """Each matrix keeps its singular values: p-values of 6,400 random pairs are uniform, their tail too."""
    measure, draw = measure_named(name), drawer(21)
    first, second = STRENGTHS[strengths](p), STRENGTHS[strengths](q)
    # Centring takes one dimension: rows of mean zero keep their singular values.
    plane = torch.linalg.svd(torch.ones(1, d, dtype=torch.float64)).Vh[1:] if name == "rv" else torch.eye(d).double()
    x, y = (measure.prepare(in_random_directions(draw, s, len(plane), 80) @ plane) for s in (first, second))
    values = measure.compare(x, y).flatten().double().numpy()
    ranks = (int(x.rank[0]), int(y.rank[0])) if name == "svcca" else (p, q)
    reference = measure.null(first[: ranks[0]], second[: ranks[1]], d)
    p_values = reference.null.p_value(values)
    if (name, p, d) == ("rv", 5, 6) and strengths == "flat":  # the whole space
        assert (p_values == 1).all()
        return
    # All pairs of 80 and 80 depend on each other: a wider band than independent pairs would need.
    for level in (0.5, 0.1, 0.01):
        assert (p_values <= level).mean() == pytest.approx(level, abs=0.12 * level + 4 * (level / len(values)) ** 0.5)


@pytest.mark.parametrize("name", [m.name for m in OF_MATRICES if m.sees_strengths])
def test_one_reference_serves_similar_spectra(name: str) -> None:
    """Mean and standard deviation of a pair are its own though the shape is that of another pair."""
    measure = measure_named(name)
    one, other, mine, yours = (np.arange(1.0, 6) ** -power for power in (0.6, 0.5, 0.75, 0.4))
    near = measure.null(one, other, 96).between(np.stack([mine, one]), np.stack([yours, other]))
    exact = measure.null(mine, yours, 96).null
    mean, std = (np.broadcast_to(part, 2)[0] for part in (near.mean, near.std))
    assert mean == pytest.approx(float(exact.mean), abs=0.15 * float(exact.std))
    assert std == pytest.approx(float(exact.std), rel=0.1)


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("strengths", STRENGTHS)
def test_the_cosine_of_updates_has_its_law(rank: int, strengths: str) -> None:
    measure, d_in, d_out = MEASURES["cosine"], 48, 32
    draw, s = drawer(rank), STRENGTHS[strengths](rank)
    basis = lambda n, d: torch.linalg.qr(draw(n, d, rank)).Q  # noqa: E731
    frames = measure.prepare(basis(100, d_in).mT, basis(100, d_out) * torch.from_numpy(s))
    values = measure.compare(frames, frames).numpy()[np.triu_indices(100, 1)]
    null = measure.null(s, s, d_in, d_out).null
    assert null.std == pytest.approx((d_in * d_out) ** -0.5)
    assert values.std() == pytest.approx(null.std, rel=0.12)
    assert stats.kstest(null.p_value(values), "uniform").pvalue > 0.001


def test_a_space_without_room_has_p_value_one() -> None:
    """Where one subspace is the whole space nothing can be more similar, whatever the rounding."""
    draw = drawer(8)
    for name in ("overlap", "mean_cosine", "geodesic", "linear_regression", "pwcca", "linear_cka"):
        measure = measure_named(name)
        values = measure.compare(measure.prepare(torch.eye(4).expand(1, 4, 4)), measure.prepare(draw(50, 4, 4).float()))
        equal = np.ones(4)
        if name == "linear_cka":
            values = torch.full((1, 50), 1.0)
        assert (measure.null(equal, equal, 4).null.p_value(values[0].double().numpy()) == 1).all(), name


def test_martin_is_finite_between_random_subspaces_in_float32() -> None:
    draw = drawer(9)
    rows = draw(30, 16, 4096)
    measure = MEASURES["martin"]
    single, double = (measure.compare(*(measure.prepare(rows.to(t)),) * 2) for t in (torch.float32, torch.float64))
    apart = ~torch.eye(30, dtype=torch.bool)
    assert single[apart].isfinite().all()
    torch.testing.assert_close(single[apart].double(), double[apart], rtol=1e-3, atol=0)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.3, 1.2])
def test_the_procrustes_angle_keeps_its_digits(angle: float) -> None:
    x = torch.zeros(2, 9, dtype=torch.float64)
    x[0, 0], x[1, 1] = 3.0, 1.0
    turn = torch.eye(9, dtype=torch.float64)
    turn[0, 0] = turn[5, 5] = np.cos(angle)
    turn[0, 5], turn[5, 0] = np.sin(angle), -np.sin(angle)
    y = x @ turn
    with mpmath.workdps(40):
        # <X, Y> = 9 cos + 1 with the identity as the best rotation, of norms sqrt(10)
        expected = float(mpmath.acos((9 * mpmath.cos(angle) + 1) / 10))
    assert MEASURES["angular_procrustes"](x, y) == pytest.approx(expected, rel=1e-6)
    assert MEASURES["angular_procrustes"](x[:1], y) == pytest.approx(MEASURES["angular_procrustes"](y, x[:1]))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e8, 1e30])
def test_float32_values_do_not_depend_on_the_scale(name: str, scale: float) -> None:
    draw = drawer(10)
    A, B = draw(3, 4, 40).float(), draw(3, 30, 4).float()
    measure = MEASURES[name]
    pair = (A, B) if measure.kind == "update" else (A,)
    plain = measure.prepare(*pair)
    other = measure.prepare(pair[0] * scale, *pair[1:])
    torch.testing.assert_close(measure.compare(other, plain), measure.compare(plain, plain), rtol=1e-5, atol=1e-5)


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
    assert list(MEASURES) == list(SOURCES)
    for measure in MEASURES.values():
        assert set(measure.default_factors) <= set(FACTORS[measure.kind])
        assert measure.source
    with pytest.raises(ValueError, match="there are: overlap"):
        measure_named("cka")
