"""Every measure through compare_subspaces: in any gauge, in float32, against the dense updates, with its null."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis.adapters import Adapter
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.subspaces.measures import FACTORS, MEASURES


def family(dtype: torch.dtype, *, gauge: bool = False, scaling: float = 2.0) -> list[Adapter]:
    """Four adapters of ranks 3, 4, 4 and 2 that share some directions; decaying, well separated strengths."""
    made = []
    common = torch.randn(1, 40, generator=torch.Generator().manual_seed(77), dtype=torch.float64)
    for index, rank in enumerate((3, 4, 4, 2)):
        generator = torch.Generator().manual_seed(index)
        A = torch.randn(rank, 40, generator=generator, dtype=torch.float64)
        A[0] += common[0]
        B = torch.randn(32, rank, generator=generator, dtype=torch.float64) / torch.arange(1, rank + 1)
        if gauge:
            mix = torch.randn(rank, rank, generator=generator, dtype=torch.float64) + 2 * torch.eye(rank)
            A, B = mix @ A, B @ torch.linalg.inv(mix)
        made.append(Adapter.from_factors({"layer.0.q": (A.to(dtype), B.to(dtype))}, scaling=scaling, name=str(index)))
    return made


@pytest.mark.parametrize("name", MEASURES)
def test_the_defaults_do_not_depend_on_the_gauge(name: str) -> None:
    plain, turned = (compare_subspaces(family(torch.float64, gauge=g), measure=name) for g in (False, True))
    np.testing.assert_allclose(turned.values, plain.values, atol=1e-9)
    assert np.isfinite(plain.values).all()


@pytest.mark.parametrize("name", MEASURES)
def test_single_precision_agrees_with_double(name: str) -> None:
    single, double = (compare_subspaces(family(dtype), measure=name) for dtype in (torch.float32, torch.float64))
    np.testing.assert_allclose(single.values, double.values, atol=1e-6 if name == "overlap" else 5e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_ranks_in_one_batch_give_what_each_pair_gives_alone(name: str) -> None:
    runs = family(torch.float64)
    whole = compare_subspaces(runs, measure=name)
    for factor, values in zip(whole.factors, whole.values[0], strict=True):
        for value, i, j in zip(values, *whole.pairs, strict=True):
            alone = compare_subspaces([runs[i], runs[j]], measure=name, factors=(factor,))
            assert value == pytest.approx(alone.values.item(), abs=1e-10)


def test_the_cosine_is_that_of_the_dense_updates() -> None:
    runs = family(torch.float64)
    runs[1] = Adapter.from_factors({m: (u.A, u.B) for m, u in runs[1].items()}, scaling=-3.0, name="1")
    comparison = compare_subspaces(runs, measure="cosine")
    dense = [run["layer.0.q"].delta().flatten() for run in runs]
    for value, i, j in zip(comparison.values[0, 0], *comparison.pairs, strict=True):
        expected = torch.nn.functional.cosine_similarity(dense[i], dense[j], dim=0).item()
        assert value == pytest.approx(expected, abs=1e-12)
    assert comparison.frame.null_std.iloc[0] == pytest.approx((40 * 32) ** -0.5)


def test_the_weighted_overlap_is_that_of_the_dense_updates() -> None:
    runs = family(torch.float64)
    frame = compare_subspaces(runs, measure="weighted_overlap").frame
    dense = {run.name: run["layer.0.q"].delta() for run in runs}
    for row in frame.itertuples():
        one, two = dense[row.adapter_i], dense[row.adapter_j]
        x, y = (one.mT @ one, two.mT @ two) if row.factor == "right" else (one @ one.mT, two @ two.mT)
        size = 40 if row.factor == "right" else 32
        assert row.value == pytest.approx(((x * y).sum() / x.norm() / y.norm()).item(), abs=1e-12)
        assert row.null_mean == pytest.approx((x.trace() * y.trace() / size / x.norm() / y.norm()).item(), abs=1e-12)
        assert row.haar_mean == pytest.approx((row.rank_i * row.rank_j) ** 0.5 / size)
        assert row.null_mean < row.haar_mean


@pytest.mark.parametrize("name", ["linear_cka", "overlap"])
def test_the_stored_factors_can_be_asked_for(name: str) -> None:
    runs = family(torch.float64)
    comparison = compare_subspaces(runs, measure=name, factors=("A", "B"))
    first, second = (run["layer.0.q"] for run in runs[:2])
    assert comparison.values[0, 0, 0] == pytest.approx(MEASURES[name](first.A, second.A))
    assert comparison.values[0, 1, 0] == pytest.approx(MEASURES[name](first.B.mT, second.B.mT))


@pytest.mark.parametrize("name", MEASURES)
def test_summary_and_matrix_work_for_every_measure(name: str) -> None:
    comparison = compare_subspaces(family(torch.float32), measure=name)
    assert set(comparison.summary().factor) == set(MEASURES[name].default_factors)
    matrix = comparison.matrix(comparison.factors[0])
    assert (np.diag(matrix) == (1.0 if MEASURES[name].larger_is_more_similar else 0.0)).all()
    assert comparison.frame.p_value.between(0, 1).all()


def test_factors_that_a_measure_cannot_see_are_refused() -> None:
    for name, factor in (("cosine", "A"), ("weighted_overlap", "B"), ("overlap", "update")):
        with pytest.raises(ValueError, match=f"{name} cannot be taken of {factor}: choose among"):
            compare_subspaces(family(torch.float32), measure=name, factors=(factor,))
    assert set(FACTORS) == {measure.kind for measure in MEASURES.values()}
