"""Measures of row spaces: functions of the principal angles, unchanged by X -> GX for every invertible G."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.subspaces.bases import orthonormal_rows
from asym_analysis.subspaces.measures.measure import Frames, Invariance, Measure, block_norms
from asym_analysis.subspaces.null import overlap_null

__all__ = ["OVERLAP"]

GAUGE_FREE: frozenset[Invariance] = frozenset({"symmetric", "gauge", "orthogonal", "scale"})


def prepare(rows: Float[Tensor, "n rank d"]) -> Frames:
    """Orthonormal bases of the row spaces, with their numerical ranks."""
    return Frames(*orthonormal_rows(rows))


def smaller_rank(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """min(p, q) for every pair, NaN where either matrix is zero."""
    least = torch.minimum(left.rank[:, None], right.rank).to(left.rows.dtype)
    return least.masked_fill(least == 0, torch.nan)


def _overlap(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    return block_norms(left.rows, right.rows) / smaller_rank(left, right)


OVERLAP = Measure(
    name="overlap",
    kind="subspace",
    source="sum cos^2 / min(p, q): Hu et al. 2022 (phi), and the ICML 2024 paper's Figure 1; theory notes, section 4.1",
    invariances=GAUGE_FREE,
    larger_is_more_similar=True,
    prepare=prepare,
    compare=_overlap,
    null=overlap_null,
)
