"""Measures of the whole update B·A, from its factors: the same in every gauge."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.overlap import product_null, trace_null
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import numerical_rank, rank_tolerance
from asym_analysis.subspaces.measures.matrix import MATRIX, spread_of, unit_gram
from asym_analysis.subspaces.measures.measure import Frames, Measure
from asym_analysis.subspaces.updates import thin_svd

__all__ = ["UPDATE"]

_ALIGNMENT = next(measure for measure in MATRIX if measure.name == "linear_cka").compare


def _prepare_update(A: Float[Tensor, "n rank d_in"], B: Float[Tensor, "n d_out rank"]) -> Frames:
    """Left singular vectors times singular values, of norm 1, beside the right singular vectors."""
    U, S, Vh = thin_svd(A, B)
    norm = torch.linalg.vector_norm(S, dim=-1).clamp(min=torch.finfo(S.dtype).tiny)
    rank = numerical_rank(S, rank_tolerance((A.shape[-1], B.shape[-2]), S.dtype))
    squares = (S / norm[:, None]).square()
    spread = spread_of(squares / torch.linalg.vector_norm(squares, dim=-1, keepdim=True).clamp(min=1e-30))
    return Frames((U * (S / norm[:, None])[:, None]).mT, rank, {"right": Vh, "spread": spread})


def _cosine(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    product = cross_gram(left.rows, right.rows) * cross_gram(left.other["right"], right.other["right"])
    zero = (left.rank[:, None] == 0) | (right.rank == 0)
    return product.sum((1, 3)).masked_fill(zero, torch.nan)


UPDATE = (
    Measure(
        name="weighted_overlap",
        kind="spectrum",
        source="Tr(C C') / (||C||_F ||C'||_F), C = dW^T dW (right) or dW dW^T (left); theory notes, section 4.1",
        invariances=frozenset({"symmetric", "orthogonal", "scale"}),
        larger_is_more_similar=True,
        prepare=unit_gram,
        compare=_ALIGNMENT,
        null=trace_null,
    ),
    Measure(
        name="cosine",
        kind="update",
        source="<dW, dW'> / (||dW||_F ||dW'||_F), from the factors; theory notes, section 4.1",
        invariances=frozenset({"symmetric", "gauge", "scale"}),
        larger_is_more_similar=True,
        prepare=_prepare_update,
        compare=_cosine,
        null=product_null,
    ),
)
