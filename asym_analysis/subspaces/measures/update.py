"""Measures of the whole update B·A, from its factors: the same in every gauge."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.spectral import cosine_reference, fourth_moment, trace_reference
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import numerical_rank, rank_tolerance
from asym_analysis.subspaces.measures.matrix import MATRIX, unit_gram
from asym_analysis.subspaces.measures.measure import Frames, Measure
from asym_analysis.subspaces.updates import thin_svd

__all__ = ["UPDATE"]

_ALIGNMENT = next(measure for measure in MATRIX if measure.name == "linear_cka").compare


def _prepare_update(A: Float[Tensor, "n rank d_in"], B: Float[Tensor, "n d_out rank"]) -> Frames:
    """Left singular vectors times singular values, of norm 1, beside the right singular vectors."""
    U, S, Vh = thin_svd(A, B)
    norm = torch.linalg.vector_norm(S, dim=-1).clamp(min=torch.finfo(S.dtype).tiny)
    rank = numerical_rank(S, rank_tolerance((A.shape[-1], B.shape[-2]), S.dtype))
    kept = S * (torch.arange(S.shape[-1], device=S.device) < rank[:, None])
    return Frames((U * (S / norm[:, None])[:, None]).mT, rank, {"right": Vh, "spectrum": kept})


def _cosine(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    product = cross_gram(left.rows, right.rows) * cross_gram(left.other["right"], right.other["right"])
    zero = (left.rank[:, None] == 0) | (right.rank == 0)
    return product.sum((1, 3)).masked_fill(zero, torch.nan)


UPDATE = (
    Measure(
        name="weighted_overlap",
        kind="spectrum",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        preparation=unit_gram,
        compare=_ALIGNMENT,
        null=trace_reference,
        sees_strengths=True,
    ),
    Measure(
        name="cosine",
        kind="update",
        invariances=frozenset({"symmetric", "gauge", "scale"}),
        larger_is_more_similar=True,
        preparation=_prepare_update,
        compare=_cosine,
        null=cosine_reference,
        sees_strengths=True,
        shape=fourth_moment,
    ),
)
