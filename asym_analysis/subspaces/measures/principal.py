"""Measures of row spaces: functions of the principal angles, unchanged by X -> GX for every invertible G.

Distances between subspaces of different dimensions use the min(p, q) principal angles that there are (Ye and Lim 2016);
they obey the triangle inequality between subspaces of one dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.overlap import overlap_null
from asym_analysis.subspaces.angles import angles_of_bases, cross_gram
from asym_analysis.subspaces.bases import orthonormal_rows
from asym_analysis.subspaces.measures.measure import Frames, Invariance, Measure, block_norms
from asym_analysis.subspaces.measures.sampling import subspace_null

__all__ = ["PRINCIPAL", "mean_cosine", "smaller_rank"]

GAUGE_FREE: frozenset[Invariance] = frozenset({"symmetric", "gauge", "orthogonal", "scale"})


def _prepare(rows: Float[Tensor, "n rank d"]) -> Frames:
    return Frames(*orthonormal_rows(rows))


def smaller_rank(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """min(p, q) for every pair, NaN where either matrix is zero."""
    least = torch.minimum(left.rank[:, None], right.rank).to(left.rows.dtype)
    return least.masked_fill(least == 0, torch.nan)


def _overlap(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    return block_norms(left.rows, right.rows) / smaller_rank(left, right)


def mean_cosine(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """Mean cosine of the principal angles between bases; zero rows that pad them add nothing."""
    cosines = torch.linalg.svdvals(cross_gram(left.rows, right.rows).permute(0, 2, 1, 3))
    return cosines.sum(-1) / smaller_rank(left, right)


def _of_angles(distance: Callable[[Tensor], Tensor], left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """Apply a distance that angles of zero add nothing to."""
    angles = angles_of_bases(left.rows, left.rank, right.rows, right.rank)
    least = smaller_rank(left, right)
    beyond = torch.arange(angles.shape[-1], device=angles.device) >= least[..., None]
    return distance(angles.masked_fill(beyond, 0.0)).masked_fill(least.isnan(), torch.nan)


def _geodesic(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    return angles.square().sum(-1).sqrt()


def _chordal(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    return angles.sin().square().sum(-1).sqrt()


def _projection(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    return angles.sin().amax(-1)


def _log_cosines(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    """Sum of -log cos^2, exact for small angles where 1 - cos^2 is all there is."""
    return -torch.log1p(-angles.sin().square().clamp(max=1.0)).sum(-1)


def _martin(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    return _log_cosines(angles).sqrt()


def _fubini_study(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    product = _log_cosines(angles)  # the product of the cosines is exp(-product / 2)
    return torch.atan2((-torch.expm1(-product)).sqrt(), torch.exp(-product / 2))


def _procrustes(angles: Float[Tensor, "n m k"]) -> Float[Tensor, "n m"]:
    return 2 * (angles / 2).sin().square().sum(-1).sqrt()


def _distance(name: str, function: Callable[[Tensor], Tensor], formula: str) -> Measure:
    compare = partial(_of_angles, function)
    return Measure(
        name=name,
        kind="subspace",
        source=f"{formula}; theory notes, section 4.1",
        invariances=GAUGE_FREE,
        larger_is_more_similar=False,
        prepare=_prepare,
        compare=compare,
        null=partial(subspace_null, _prepare, compare, False),
    )


PRINCIPAL = (
    Measure(
        name="overlap",
        kind="subspace",
        source="sum cos^2 / min(p, q): Hu et al. 2022 (phi), and Figure 1 of the 2024 paper; theory notes, section 4.1",
        invariances=GAUGE_FREE,
        larger_is_more_similar=True,
        prepare=_prepare,
        compare=_overlap,
        null=overlap_null,
    ),
    Measure(
        name="mean_cosine",
        kind="subspace",
        source="sum cos / min(p, q), the mean canonical correlation; theory notes, section 4.1",
        invariances=GAUGE_FREE,
        larger_is_more_similar=True,
        prepare=_prepare,
        compare=mean_cosine,
        null=partial(subspace_null, _prepare, mean_cosine, True),
    ),
    _distance("geodesic", _geodesic, "sqrt(sum theta^2), Grassmann geodesic (Edelman, Arias and Smith 1998)"),
    _distance("chordal", _chordal, "sqrt(sum sin^2) = ||P_X - P_Y||_F / sqrt(2) for p = q"),
    _distance("projection", _projection, "sin of the largest angle = ||P_X - P_Y||_2 for p = q"),
    _distance("fubini_study", _fubini_study, "arccos(prod cos)"),
    _distance("procrustes", _procrustes, "2 sqrt(sum sin^2(theta/2)) = min_O ||U - V O||_F over orthonormal bases"),
    _distance("martin", _martin, "sqrt(-log prod cos^2) (Martin 2000), infinite where a direction is perpendicular"),
)
