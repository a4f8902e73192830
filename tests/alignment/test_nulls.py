"""Null distributions as a comparison uses them: many adapters, each with its own singular values."""

from __future__ import annotations

import numpy as np
import pytest

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
        p_values = table(name, left, right, pairs, (d, d)).columns(0, 0, found)["p_value"]
        for level in (0.5, 0.1, 0.01, 1e-3):
            slack = 0.15 * level + 4 * (level / count) ** 0.5
            assert (p_values <= level).mean() == pytest.approx(level, abs=slack), (name, level)


@pytest.mark.parametrize("name", ["linear_cka", "weighted_overlap", "angular_procrustes", "cosine"])
def test_both_orders_of_a_pair_have_one_null(name: str) -> None:
    spectra = np.arange(1.0, 4) ** -np.array([[0.1], [1.0], [2.0]])
    size, values = (30, 30), np.full(9, 0.3)
    pairs = np.array(np.meshgrid(range(3), range(3))).reshape(2, -1)
    there = table(name, spectra, spectra, pairs, size).columns(0, 0, values)
    back = table(name, spectra, spectra, pairs[::-1].copy(), size).columns(0, 0, values)
    for column, found in there.items():
        np.testing.assert_allclose(found, back[column], rtol=1e-12, err_msg=column)


def test_tiny_spaces_give_no_small_p_unless_all_spectra_are_alike() -> None:
    """In three dimensions the shape depends on each spectrum: a class of several knows it to .05 only."""
    pairs = np.array(np.meshgrid(range(2), range(2))).reshape(2, -1)
    different = np.array([[1.0, 0.9], [1.0, 0.8]])
    floors = {
        name: table("linear_cka", s, s, pairs, (3, 3)).columns(0, 0, np.full(4, 0.999))["least_p"]
        for name, s in {"different": different, "alike": np.array([[1.0, 0.9], [2.0, 1.8]])}.items()
    }
    assert floors["alike"].max() < 1e-3
    assert floors["different"].max() == 0.05
