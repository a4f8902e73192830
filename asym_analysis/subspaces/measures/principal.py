"""Measures of row spaces: functions of the principal angles, unchanged by X -> GX for every invertible G.

Distances between subspaces of different dimensions use the min(p, q) principal angles that there are (Ye and Lim 2016);
they obey the triangle inequality between subspaces of one dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.spectral import angle_reference, overlap_reference
from asym_analysis.subspaces.angles import angles_and_cosines, cross_gram
from asym_analysis.subspaces.bases import orthonormal_coordinates
from asym_analysis.subspaces.measures.measure import Frames, Invariance, Measure

__all__ = ["PRINCIPAL", "mean_cosine", "mean_of_cosines", "smaller_rank"]

GAUGE_FREE: frozenset[Invariance] = frozenset({"symmetric", "gauge", "orthogonal", "scale"})


def _prepare(rows: Float[Tensor, "n rank d"]) -> Frames:
    basis, rank, coordinates = orthonormal_coordinates(rows, rescale=True)
    return Frames(basis, rank, {"coordinates": coordinates})


def smaller_rank(left: Frames, right: Frames) -> Float[Tensor, "*modules n m"]:
    """min(p, q) for every pair, NaN where either matrix is zero."""
    least = torch.minimum(left.rank[..., :, None], right.rank[..., None, :]).to(left.rows.dtype)
    return least.masked_fill(least == 0, torch.nan)


def _overlap(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    return _squares(cross_gram(left.rows, right.rows)) / smaller_rank(left, right)


def _squares(products: Float[Tensor, "*modules n p m q"]) -> Float[Tensor, "*modules n m"]:
    # The first sum runs over whole contiguous rows, which is several times faster than summing both axes at once.
    return products.square_().sum(-3).sum(-1)


def mean_cosine(left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """Mean cosine of the principal angles between bases; zero rows that pad them add nothing."""
    cosines = torch.linalg.svdvals(cross_gram(left.rows, right.rows).permute(0, 2, 1, 3))
    return cosines.sum(-1) / smaller_rank(left, right)


Distance = Callable[[Tensor, Tensor], Tensor]  # angles and cosines (n, m, k) -> values (n, m)


def _of_angles(distance: Distance, left: Frames, right: Frames) -> Float[Tensor, "n m"]:
    """Apply a distance that angles of zero add nothing to."""
    angles, cosines = angles_and_cosines(left.rows, left.rank, right.rows, right.rank)
    least = smaller_rank(left, right)
    beyond = torch.arange(angles.shape[-1], device=angles.device) >= least[..., None]
    values = distance(angles.masked_fill(beyond, 0.0), cosines.masked_fill(beyond, 1.0))
    return values.masked_fill(least.isnan(), torch.nan)


def _of_cosines(distance: Distance, cosines: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
    """The same of given cosines, for the null distribution."""
    given = torch.tensor(cosines)
    return distance(torch.arccos(given), given).numpy()


def mean_of_cosines(cosines: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
    """`mean_cosine` of given cosines, for the null distribution."""
    return cosines.mean(-1)


def _geodesic(angles: Tensor, _: Tensor) -> Tensor:
    return angles.square().sum(-1).sqrt()


def _chordal(angles: Tensor, _: Tensor) -> Tensor:
    return angles.sin().square().sum(-1).sqrt()


def _projection(angles: Tensor, _: Tensor) -> Tensor:
    return angles.sin().amax(-1)


def _log_cosines(angles: Tensor, cosines: Tensor) -> Tensor:
    """Sum of -log cos^2, from the sine of an angle below 45 degrees and from the cosine of a larger one."""
    squares = cosines.square()
    small = -torch.log1p(-angles.sin().square().clamp(max=0.75))
    return torch.where(squares > 0.5, small, -torch.log(squares)).sum(-1)


def _martin(angles: Tensor, cosines: Tensor) -> Tensor:
    return _log_cosines(angles, cosines).sqrt()


def _fubini_study(angles: Tensor, cosines: Tensor) -> Tensor:
    product = _log_cosines(angles, cosines)  # the product of the cosines is exp(-product / 2)
    return torch.atan2((-torch.expm1(-product)).sqrt(), torch.exp(-product / 2))


def _procrustes(angles: Tensor, _: Tensor) -> Tensor:
    return 2 * (angles / 2).sin().square().sum(-1).sqrt()


def _distance(name: str, function: Distance) -> Measure:
    return Measure(
        name=name,
        kind="subspace",
        invariances=GAUGE_FREE,
        larger_is_more_similar=False,
        preparation=_prepare,
        scales_itself=True,
        compare=partial(_of_angles, function),
        null=partial(angle_reference, partial(_of_cosines, function), False),
    )


PRINCIPAL = (
    Measure(
        name="overlap",
        kind="subspace",
        invariances=GAUGE_FREE,
        larger_is_more_similar=True,
        preparation=_prepare,
        scales_itself=True,
        compare=_overlap,
        null=overlap_reference,
        of_products=_squares,
    ),
    Measure(
        name="mean_cosine",
        kind="subspace",
        invariances=GAUGE_FREE,
        larger_is_more_similar=True,
        preparation=_prepare,
        scales_itself=True,
        compare=mean_cosine,
        null=partial(angle_reference, mean_of_cosines, True),
    ),
    _distance("geodesic", _geodesic),
    _distance("chordal", _chordal),
    _distance("projection", _projection),
    _distance("fubini_study", _fubini_study),
    _distance("procrustes", _procrustes),
    _distance("martin", _martin),
)
