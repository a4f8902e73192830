"""Principal angles between row spaces, accurate at both ends.

An arccosine loses half of the digits where two subspaces nearly meet, an arcsine where they are nearly perpendicular.
Angles below 45 degrees are therefore taken from their sines, the singular values of one basis minus its projection on
the other, and larger ones from their cosines (Björck and Golub 1973).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.subspaces.bases import orthonormal_rows

__all__ = ["angles_and_cosines", "angles_of_bases", "cross_gram", "overlap_grid", "principal_angles"]

CHUNK = 256  # pairs whose sines are computed at once: their bases are gathered


def principal_angles(x: Float[Tensor, "p d"], y: Float[Tensor, "q d"]) -> Float[Tensor, "k"]:
    """Principal angles between two row spaces in radians, ascending; k is the smaller of the two numerical ranks.

    Examples
    --------
    >>> tilt = 1e-9
    >>> x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    >>> y = torch.tensor([[1.0, tilt, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    >>> principal_angles(x, y).tolist()
    [1e-09]
    """
    first, p = orthonormal_rows(x[None])
    second, q = orthonormal_rows(y[None])
    return angles_of_bases(first, p, second, q)[0, 0, : int(min(p.item(), q.item()))]


def angles_of_bases(
    left: Float[Tensor, "n p d"],
    left_rank: Int[Tensor, "n"],
    right: Float[Tensor, "m q d"],
    right_rank: Int[Tensor, "m"],
) -> Float[Tensor, "n m k"]:
    """Principal angles between n and m subspaces, ascending, from orthonormal bases padded with zero rows.

    Only the first min(left_rank, right_rank) of each pair have a meaning; the others are pi/2.
    """
    return angles_and_cosines(left, left_rank, right, right_rank)[0]


def angles_and_cosines(
    left: Float[Tensor, "n p d"],
    left_rank: Int[Tensor, "n"],
    right: Float[Tensor, "m q d"],
    right_rank: Int[Tensor, "m"],
) -> tuple[Float[Tensor, "n m k"], Float[Tensor, "n m k"]]:
    """Principal angles, ascending, and their cosines, which keep digits near pi/2 that the angles have lost."""
    gram = cross_gram(left, right)
    cosines = torch.linalg.svdvals(gram.permute(0, 2, 1, 3)).clamp(max=1.0)
    angles = torch.arccos(cosines)
    first, second = (cosines[..., 0] ** 2 > 0.5).nonzero(as_tuple=True)
    for start in range(0, len(first), CHUNK):
        i, j = first[start : start + CHUNK], second[start : start + CHUNK]
        small = torch.arcsin(_sines(left[i], left_rank[i], right[j], right_rank[j], cosines.shape[-1]))
        angles[i, j] = torch.where(cosines[i, j] ** 2 > 0.5, small, angles[i, j])
    return angles, cosines


def _sines(left: Tensor, p: Tensor, right: Tensor, q: Tensor, count: int) -> Tensor:
    """Sines of the principal angles of n pairs, ascending, in the first min(p, q) places of `count`."""
    gram = right @ left.mT
    # The residual of the smaller of the two subspaces has one singular value an angle.
    smaller_is_right = (q <= p)[:, None]
    of_right = torch.linalg.svdvals(right - gram @ left)
    of_left = torch.linalg.svdvals(left - gram.mT @ right)
    width = max(of_right.shape[1], of_left.shape[1])
    descending = torch.where(smaller_is_right, _widened(of_right, width), _widened(of_left, width)).clamp(max=1.0)
    # Zero rows that pad a basis give zero singular values, last in descending order: the last real one is at min(p, q).
    place = (torch.minimum(p, q)[:, None] - 1 - torch.arange(count, device=p.device)).clamp(min=0)
    return descending.gather(1, place)


def _widened(values: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


def overlap_grid(x: Float[Tensor, "p d"], y: Float[Tensor, "q d"]) -> Float[Tensor, "p q"]:
    """phi(i, j) of Hu et al. 2022 (LoRA, section 7.2): overlap of the leading i and j singular directions.

    Entry (i-1, j-1) is ||U_i^T V_j||_F^2 / min(i, j), with U_i the leading i right singular vectors of x, and V_j of y.
    It is 1 where the smaller set lies within the other; its mean for random directions is max(i, j)/d. Unchanged by
    x -> cx and x -> Ox, not by x -> Gx: give it balanced factors.

    Examples
    --------
    >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    >>> y = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    >>> overlap_grid(x, y)[:2].tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.5, 1.0]]
    """
    first = torch.linalg.svd(x, full_matrices=False).Vh
    second = torch.linalg.svd(y, full_matrices=False).Vh
    sums = (first @ second.mT).square().cumsum(0).cumsum(1)
    i = torch.arange(1, len(first) + 1, device=x.device)
    j = torch.arange(1, len(second) + 1, device=x.device)
    return sums / torch.minimum(i[:, None], j)


def cross_gram(left: Float[Tensor, "n p d"], right: Float[Tensor, "m q d"]) -> Float[Tensor, "n p m q"]:
    """All products of rows of n matrices with rows of m others, as one matrix product."""
    flat = left.reshape(-1, left.shape[-1]) @ right.reshape(-1, right.shape[-1]).mT
    return flat.view(left.shape[0], left.shape[1], right.shape[0], right.shape[1])
