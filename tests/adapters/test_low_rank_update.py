"""Everything an update says from its factors equals what the dense matrix says (docs/theory.md, section 8, T9)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis import LowRankUpdate
from asym_analysis.errors import AdapterValueError

shapes = st.tuples(st.integers(1, 9), st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**31), st.floats(-4, 4))


def _update(rank: int, d_in: int, d_out: int, seed: int, scaling: float) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    B = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
    return LowRankUpdate(A, B, scaling)


@given(shapes)
def test_spectrum_and_norm_equal_the_dense_ones(shape: tuple[int, int, int, int, float]) -> None:
    update = _update(*shape)
    dense = shape[4] * update.B.numpy() @ update.A.numpy()
    expected = np.linalg.svd(dense, compute_uv=False)[: min(shape[:3])]
    np.testing.assert_allclose(update.singular_values().numpy(), expected, atol=1e-10 * (1 + expected[0]))
    assert update.frobenius_norm() == pytest.approx(np.linalg.norm(dense), rel=1e-10, abs=1e-12)
    U, S, Vh = update.svd()
    np.testing.assert_allclose((U * S @ Vh).numpy(), dense, atol=1e-10 * (1 + expected[0]))
    np.testing.assert_allclose(update.delta().numpy(), dense, atol=1e-12)


@given(shapes)
def test_balanced_factors_are_the_same_update(shape: tuple[int, int, int, int, float]) -> None:
    update = _update(*shape)
    balanced = update.balanced()
    scale = 1 + update.frobenius_norm()
    torch.testing.assert_close(balanced.delta(), update.delta(), atol=1e-10 * scale, rtol=0)
    torch.testing.assert_close(balanced.B.mT @ balanced.B, balanced.A @ balanced.A.mT, atol=1e-10 * scale, rtol=0)


@given(shapes)
def test_a_change_of_gauge_changes_nothing(shape: tuple[int, int, int, int, float]) -> None:
    update = _update(*shape)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(shape[0], shape[0], generator=generator, dtype=torch.float64)
    G = torch.eye(shape[0], dtype=torch.float64) + 0.3 * noise / shape[0]
    other = LowRankUpdate(G @ update.A, update.B @ torch.linalg.inv(G), shape[4])
    scale = 1 + update.frobenius_norm()
    torch.testing.assert_close(other.singular_values(), update.singular_values(), atol=1e-9 * scale, rtol=0)
    assert update.inner(other) == pytest.approx(update.frobenius_norm() ** 2, rel=1e-9, abs=1e-9)


def test_inner_product_equals_the_dense_one_for_other_ranks() -> None:
    first, second = _update(3, 20, 15, 0, 2.0), _update(7, 20, 15, 1, -0.5)
    dense = (first.delta() * second.delta()).sum().item()
    assert first.inner(second) == pytest.approx(dense, rel=1e-12)


def test_layouts_of_delta() -> None:
    update = _update(2, 12, 5, 0, 1.0)
    turned = LowRankUpdate(update.A, update.B, stored_transposed=True)
    torch.testing.assert_close(turned.delta(), update.delta().mT)
    convolution = LowRankUpdate(update.A, update.B, weight_shape=(5, 3, 2, 2))
    assert convolution.delta().shape == (5, 3, 2, 2)


def test_dora_says_it_is_not_low_rank() -> None:
    update = _update(2, 12, 5, 0, 1.0)
    dora = LowRankUpdate(update.A, update.B, magnitude=torch.ones(5, dtype=torch.float64))
    assert update.is_low_rank
    assert not dora.is_low_rank
    assert "DoRA" in repr(dora)


@pytest.mark.parametrize(
    ("A", "B", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), "do not multiply"),
        (torch.ones(2, 3), torch.ones(4, 2, dtype=torch.float64), "dtypes"),
        (torch.ones(2, 3).half(), torch.ones(4, 2).half(), "cast both"),
        (torch.tensor([[float("nan")]]), torch.ones(4, 1), "A holds NaN or infinity"),
        (torch.ones(1, 3), torch.tensor([[float("inf")]]), "B holds NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_unusable_factors_are_refused(A: torch.Tensor, B: torch.Tensor, message: str) -> None:
    with pytest.raises(AdapterValueError, match=message):
        LowRankUpdate(A, B)


def test_updates_of_other_shapes_have_no_inner_product() -> None:
    with pytest.raises(AdapterValueError, match="no inner product"):
        _update(2, 4, 5, 0, 1.0).inner(_update(2, 5, 4, 0, 1.0))


def test_pickles_for_other_processes() -> None:
    update = _update(2, 4, 5, 0, 1.0)
    again = pickle.loads(pickle.dumps(update))
    torch.testing.assert_close(again.delta(), update.delta())
