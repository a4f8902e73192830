"""Measures of matrices, whose rows count for what they are: they change under X -> GX.

Of an adapter they are taken in the balanced gauge, where A A^T = B^T B, unless the factors as stored are asked for.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.chance.spectral import (
    angle_reference,
    debiased_reference,
    procrustes_reference,
    projection_weighted_reference,
    regression_reference,
    spectrum_itself,
    trace_reference,
)
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import numerical_rank, orthonormal_rows, rank_tolerance
from asym_analysis.subspaces.measures.measure import Frames, Measure, block_norms
from asym_analysis.subspaces.measures.principal import mean_cosine, mean_of_cosines, smaller_rank

__all__ = ["MATRIX", "unit_gram"]

ENERGY_KEPT = 0.99  # of the singular values' squares, by SVCCA
NEARLY_ONE = 0.8  # cosine above which an angle is taken from its sine
CHUNK = 256  # pairs of which the matrices are gathered at once


def unit_gram(rows: Float[Tensor, "n rank d"]) -> Frames:
    """Rows scaled so that C = X^T X has Frobenius norm 1."""
    spectrum, rank = spectrum_of(rows)
    size = torch.linalg.vector_norm(spectrum.square(), dim=-1).clamp(min=torch.finfo(rows.dtype).tiny)
    return Frames(rows / size.sqrt()[:, None, None], rank, {"spectrum": spectrum})


def spectrum_of(rows: Float[Tensor, "n rank d"]) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n"]]:
    """Singular values of n matrices, descending, with zeros from the numerical rank on, and these ranks."""
    values = torch.linalg.svdvals(torch.linalg.qr(rows.mT, mode="r").R)
    rank = numerical_rank(values, rank_tolerance((rows.shape[1], rows.shape[2]), rows.dtype))
    return values * (torch.arange(values.shape[-1], device=rows.device) < rank[:, None]), rank


def _kernel_alignment(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    zero = smaller_rank(left, right).isnan()
    return block_norms(left.rows, right.rows).masked_fill(zero, torch.nan)


def _centered(rows: Float[Tensor, "n rank d"]) -> Frames:
    return unit_gram(rows - rows.mean(-1, keepdim=True))


def _prepare_debiased(rows: Float[Tensor, "n rank d"]) -> Frames:
    """Squares and row sums of the d x d Gram matrix without its diagonal, never forming it."""
    # The estimate does not see what all coordinates of a row have in common; left in, it would cancel with loss.
    wide = rows.double() - rows.double().mean(-1, keepdim=True)
    diagonal = wide.square().sum(1)
    sums = torch.einsum("nrd,nr->nd", wide, wide.sum(-1)) - diagonal
    total = sums.sum(-1)
    product = (wide @ wide.mT).square().sum((1, 2)) - diagonal.square().sum(-1)
    own = _independence(product, total.square(), sums.square().sum(-1), rows.shape[-1])
    spectrum, rank = spectrum_of(rows)
    kept = {"diagonal": diagonal, "sums": sums, "total": total, "norm": own.sqrt(), "spectrum": spectrum}
    return Frames(wide, rank, kept)


def _debiased_pairs(x: Float[np.ndarray, "n p d"], y: Float[np.ndarray, "n q d"]) -> Float[np.ndarray, "n"]:
    """Debiased CKA of n pairs, for the null distribution."""

    def parts(rows: Tensor) -> tuple[Tensor, Tensor]:
        diagonal = rows.square().sum(1)
        return diagonal, torch.einsum("nrd,nr->nd", rows, rows.sum(-1)) - diagonal

    def crossed(first: Tensor, second: Tensor) -> Tensor:
        (left, sums), (right, other) = parts(first), parts(second)
        product = (first @ second.mT).square().sum((1, 2)) - (left * right).sum(1)
        return _independence(product, sums.sum(1) * other.sum(1), (sums * other).sum(1), first.shape[-1])

    one, two = torch.from_numpy(x), torch.from_numpy(y)
    return (crossed(one, two) / (crossed(one, one) * crossed(two, two)).sqrt()).numpy()


def _independence(product: Tensor, totals: Tensor, mixed: Tensor, n: int) -> Tensor:
    """HSIC_1 of Song et al. 2012, equation 5, over n samples: tr(K L), 1'K 1 1'L 1 and 1'K L 1 without diagonals."""
    if n < 4:  # fewer samples than the estimate needs
        return torch.full_like(product, torch.nan)
    return (product + totals / ((n - 1) * (n - 2)) - mixed * (2 / (n - 2))) / (n * (n - 3))


def _debiased(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    product = block_norms(left.rows, right.rows) - left.other["diagonal"] @ right.other["diagonal"].mT
    totals = left.other["total"][:, None] * right.other["total"]
    mixed = left.other["sums"] @ right.other["sums"].mT
    crossed = _independence(product, totals, mixed, left.rows.shape[-1])
    return crossed / (left.other["norm"][:, None] * right.other["norm"])


def _prepare_svcca(rows: Float[Tensor, "n rank d"]) -> Frames:
    _, singular, vh = torch.linalg.svd(rows, full_matrices=False)
    energy = singular.square().cumsum(-1)
    # As few directions as hold the share: those before which less than the share had been reached.
    before = torch.nn.functional.pad(energy, (1, 0))[..., :-1]
    kept = (before < ENERGY_KEPT * energy[..., -1:]).sum(-1)
    return Frames(vh * (torch.arange(vh.shape[1], device=rows.device) < kept[:, None])[..., None], kept)


def _prepare_weights(rows: Float[Tensor, "n rank d"]) -> Frames:
    basis, rank = orthonormal_rows(rows)
    return Frames(basis, rank, {"coordinates": rows @ basis.mT, "rows": rows, "spectrum": spectrum_of(rows)[0]})


def _projection_weighted(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    gram = cross_gram(left.rows, right.rows).permute(0, 2, 1, 3)
    directions, cosines, _ = torch.linalg.svd(gram, full_matrices=False)
    weights = (left.other["coordinates"][:, None] @ directions).abs().sum(-2)
    least = smaller_rank(left, right)
    weights = weights * (torch.arange(cosines.shape[-1], device=cosines.device) < least[..., None])
    return (weights * cosines).sum(-1) / weights.sum(-1)


def _regression(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    energy = torch.linalg.matrix_norm(left.other["rows"]).square()
    share = block_norms(left.other["rows"], right.rows) / energy[:, None]
    return share.masked_fill(smaller_rank(left, right).isnan(), torch.nan)


def _prepare_unit(rows: Float[Tensor, "n rank d"]) -> Frames:
    norm = torch.linalg.matrix_norm(rows).clamp(min=torch.finfo(rows.dtype).tiny)
    spectrum, rank = spectrum_of(rows)
    return Frames(rows / norm[:, None, None], rank, {"spectrum": spectrum})


def _angular_procrustes(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    nuclear = torch.linalg.svdvals(cross_gram(left.rows, right.rows).permute(0, 2, 1, 3)).sum(-1)
    angles = torch.arccos(nuclear.clamp(max=1.0))
    # An arccosine loses half of the digits near 0: there the angle is 2 arcsin(min_O ||X - O Y||_F / 2).
    first, second = (nuclear > NEARLY_ONE).nonzero(as_tuple=True)
    for start in range(0, len(first), CHUNK):
        i, j = first[start : start + CHUNK], second[start : start + CHUNK]
        x, y = _of_one_height(left.rows[i], right.rows[j])
        u, _, vh = torch.linalg.svd(x @ y.mT)
        angles[i, j] = 2 * torch.arcsin((torch.linalg.matrix_norm(x - u @ vh @ y) / 2).clamp(max=1.0))
    return angles.masked_fill(smaller_rank(left, right).isnan(), torch.nan)


def _of_one_height(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    height = max(x.shape[1], y.shape[1])
    first, second = (torch.nn.functional.pad(m, (0, 0, 0, height - m.shape[1])) for m in (x, y))
    return first, second


MATRIX = (
    Measure(
        name="linear_cka",
        kind="matrix",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=unit_gram,
        compare=_kernel_alignment,
        null=trace_reference,
        sees_strengths=True,
    ),
    Measure(
        name="rv",
        kind="matrix",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=_centered,
        compare=_kernel_alignment,
        # The mean takes one dimension, and so one direction of a matrix that fills the space.
        null=lambda first, second, d: trace_reference(first[: d - 1], second[: d - 1], d - 1),
        sees_strengths=True,
    ),
    Measure(
        name="debiased_cka",
        kind="matrix",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=_prepare_debiased,
        compare=_debiased,
        null=partial(debiased_reference, _debiased_pairs),
        sees_strengths=True,
        classes=4,  # in few dimensions each pair costs tens of thousands of products in all coordinates
    ),
    Measure(
        name="svcca",
        kind="matrix",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=_prepare_svcca,
        compare=mean_cosine,
        null=partial(angle_reference, mean_of_cosines, True, most=2**12),  # many combinations of ranks occur
    ),
    Measure(
        name="pwcca",
        kind="matrix",
        invariances=frozenset({"gauge of y", "scale"}),
        larger_is_more_similar=True,
        preparation=_prepare_weights,
        compare=_projection_weighted,
        null=projection_weighted_reference,
        sees_strengths=True,
        shape=spectrum_itself,
    ),
    Measure(
        name="linear_regression",
        kind="matrix",
        invariances=frozenset({"gauge of y", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=_prepare_weights,
        compare=_regression,
        null=regression_reference,
        sees_strengths=True,
    ),
    Measure(
        name="angular_procrustes",
        kind="matrix",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=False,
        preparation=_prepare_unit,
        compare=_angular_procrustes,
        null=procrustes_reference,
        sees_strengths=True,
        shape=spectrum_itself,
        classes=5,  # each pair costs thousands of singular value decompositions
    ),
)
