"""Null distributions as a comparison uses them: many adapters, each with its own singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis import Adapter, compare_subspaces
from asym_analysis.alignment.nulls import NullTable
from asym_analysis.subspaces.measures import MEASURES


def table(name: str, left: np.ndarray, right: np.ndarray, pairs: np.ndarray, size: tuple[int, int]) -> NullTable:
    """Adapters with these spectra, the first ones on the left of each pair and the others on the right."""
    p, q = left.shape[1], right.shape[1]
    spectra = np.zeros((1, 1, len(left) + len(right), max(p, q)))
    spectra[0, 0, : len(left), :p], spectra[0, 0, len(left) :, :q] = left, right
    ranks = np.array([p] * len(left) + [q] * len(right))[None, None]
    factors = ("update",) if name == "cosine" else ("right",)
    shapes = np.array([size[::-1]])
    return NullTable(MEASURES[name], factors, ranks, shapes, spectra, (pairs[0], len(left) + pairs[1]))


def blocks(generator: np.random.Generator, count: int, p: int, q: int, d: int) -> np.ndarray:
    first, second = (np.linalg.qr(generator.normal(size=(count, d, k)))[0] for k in (p, q))
    return first.transpose(0, 2, 1) @ second


@pytest.mark.parametrize(("p", "q"), [(4, 4), (4, 3)])
def test_each_pair_has_the_chance_of_its_own_spectra(p: int, q: int) -> None:
    """Forty spectra from flat to steep in classes of a few: 12,000 pairs keep every level down to 1e-3."""
    generator, count, d = np.random.default_rng(p + q), 12_000, 48
    left, right = (np.arange(1.0, k + 1) ** -generator.uniform(0, 2.5, (20, 1)) for k in (p, q))
    pairs = generator.integers(20, size=(2, count))
    s, t = left[pairs[0]], right[pairs[1]]
    G = blocks(generator, count, p, q, d)
    c, e = (x**2 / np.linalg.norm(x**2, axis=1, keepdims=True) for x in (s, t))
    unit_s, unit_t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    nuclear = np.linalg.svd(unit_s[:, :, None] * G * unit_t[:, None], compute_uv=False).sum(1)
    values = {
        "linear_cka": np.einsum("nij,nij,ni,nj->n", G, G, c, e),
        "linear_regression": np.einsum("nij,nij,ni->n", G, G, unit_s**2),
        "angular_procrustes": np.arccos(nuclear),
        "cosine": np.einsum("nij,nij,ni,nj->n", G, blocks(generator, count, p, q, d), unit_s, unit_t),
    }
    for name, found in values.items():
        columns = table(name, left, right, pairs, (d, d)).columns(0, 0, found)
        for level in (0.5, 0.1, 0.01, 1e-3):
            told = columns["least_p"] <= level
            slack = 0.15 * level + 4 * (level / told.sum()) ** 0.5
            assert (columns["p_value"][told] <= level).mean() == pytest.approx(level, abs=slack), (name, level)


@pytest.mark.parametrize("name", ["linear_cka", "weighted_overlap", "angular_procrustes", "cosine"])
def test_both_orders_of_a_pair_have_one_null(name: str) -> None:
    spectra = np.arange(1.0, 4) ** -np.array([[0.1], [1.0], [2.0]])
    size, values = (30, 30), np.full(9, 0.3)
    pairs = np.array(np.meshgrid(range(3), range(3))).reshape(2, -1)
    there = table(name, spectra, spectra, pairs, size).columns(0, 0, values)
    back = table(name, spectra, spectra, pairs[::-1].copy(), size).columns(0, 0, values)
    for column, found in there.items():
        np.testing.assert_allclose(found, back[column], rtol=1e-12, err_msg=column)


@pytest.mark.parametrize(("rank", "d"), [(16, 48), (8, 14)])
def test_flat_and_steep_spectra_in_one_collection(rank: int, d: int) -> None:
    """Flat, steep, spiked and two-valued: no class holds them all, and what it does not know is floored."""
    generator, count = np.random.default_rng(rank), 40_000
    i = np.arange(1.0, rank + 1)
    kinds = [i**0, 1 / i, i**-2, 0.5**i, np.where(i == 1, 1, 0.1), np.where(i <= 2, 1, 0.02)]
    kinds += [np.sort(generator.exponential(size=rank) ** power)[::-1] + 1e-3 for power in generator.uniform(0.2, 3, 8)]
    spectra = np.stack(kinds)
    pairs = generator.integers(len(spectra), size=(2, count))
    s, t = spectra[pairs[0]], spectra[pairs[1]]
    G = blocks(generator, count, rank, rank, d)
    c, e = (x**2 / np.linalg.norm(x**2, axis=1, keepdims=True) for x in (s, t))
    unit_s, unit_t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    nuclear = np.linalg.svd(unit_s[:, :, None] * G * unit_t[:, None], compute_uv=False).sum(1)
    values = {"linear_cka": np.einsum("nij,nij,ni,nj->n", G, G, c, e), "angular_procrustes": np.arccos(nuclear)}
    for name, found in values.items():
        columns = table(name, spectra, spectra, pairs, (d, d)).columns(0, 0, found)
        for level in (0.05, 0.01, 1e-3):
            told = columns["least_p"] <= level
            most = 1.3 * level + 4 * (level / max(told.sum(), 1)) ** 0.5
            assert (columns["p_value"][told] <= level).mean() <= most if told.any() else True, (name, level)


def test_lines_and_planes_of_three_dimensions() -> None:
    """Projection-weighted, a line against a plane is the cosine of one angle, whose p-value is its sine."""
    pairs = np.array([[0, 0, 0], [0, 0, 0]])
    sines = np.array([0.5, 0.01, 1e-3])
    columns = table("pwcca", np.ones((1, 1)), np.ones((1, 2)), pairs, (3, 3)).columns(0, 0, np.sqrt(1 - sines**2))
    assert columns["p_value"] == pytest.approx(sines, rel=0.1)


def test_rows_that_count_each_for_themselves_have_no_null() -> None:
    """Turning the rows of a stored factor moves its projection-weighted cosines, not its singular values."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    scales = torch.logspace(0, -2, 4)
    runs = [
        Adapter.from_factors({"q": (scales[:, None] * draw(4, 24), draw(20, 4))}, name=f"run {i}") for i in range(3)
    ]
    comparison = compare_subspaces(runs, measure="pwcca", factors=("A", "right"))
    stored, balanced = (comparison.frame.query(f"factor == '{factor}'") for factor in ("A", "right"))
    assert stored[["null_mean", "null_std", "p_value", "least_p"]].isna().all(axis=None)
    assert balanced.p_value.notna().all()
    summary = comparison.summary().set_index("factor")
    assert np.isnan(summary.significant["A"])
    assert summary.significant["right"] == 0


@pytest.mark.parametrize(("floor", "significant"), [(0.05, np.nan), (0.01, 0.5), (1e-4, 0.5)])
def test_what_a_floor_hides_is_not_called_insignificant(
    floor: float, significant: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six pairs two are equal: p is below the floor, and below .01 only where that is no higher."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    same, other = (draw(2, 60), draw(50, 2)), (draw(2, 60), draw(50, 2))
    runs = [Adapter.from_factors({"q": one}, name=f"run {i}") for i, one in enumerate((same, same, other, other))]
    comparison = compare_subspaces(runs, measure="weighted_overlap", factors=("right",))
    held = NullTable._held
    monkeypatch.setattr(NullTable, "_held", lambda *given: (held(*given)[0], floor))
    found = comparison.frame
    assert (found.least_p == floor).all()
    assert (found.p_value[found.value > 0.9] == floor).all()
    share = comparison.summary().significant[0]
    assert share == pytest.approx(significant * 4 / 6, nan_ok=True)


def test_tiny_spaces_give_no_small_p_unless_all_spectra_are_alike() -> None:
    """In three dimensions the shape depends on each spectrum: a class of several knows little of the tail."""
    pairs = np.array(np.meshgrid(range(3), range(3))).reshape(2, -1)
    spectra = {
        "different": np.array([[1.0, 0.9], [1.0, 0.85], [1.0, 0.8]]),
        "alike": np.array([[1.0, 0.9], [2.0, 1.8], [3.0, 2.7]]),
    }
    floors = {
        name: table("linear_cka", s, s, pairs, (3, 3)).columns(0, 0, np.full(9, 0.999))["least_p"]
        for name, s in spectra.items()
    }
    assert floors["alike"].max() < 1e-3
    assert floors["different"].max() >= 0.01
