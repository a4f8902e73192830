"""Random features of adapters: vectors whose inner products estimate similarities of subspaces and of updates.

The overlap of two subspaces is the inner product of their projectors. For Gaussian vectors g and h, the feature g^T P h
of a projector P has E[(g^T P h)(g^T P' h)] = <P, P'>, and costs the products of g and h with an orthonormal basis. The
same holds for updates dW. Features of different modules stand side by side, so that inner products of whole vectors are
means over modules.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.subspaces.bases import orthonormal_rows, scaled

__all__ = ["BY", "features_of", "probe", "standard_error"]

#: What adapters are compared by: the row space of A, the column space of B, or the update.
BY = ("A", "B", "update")


def standard_error(features: int, similarity: float = 0.0, rank: int = 1) -> float:
    """Standard deviation of a similarity that is estimated from random features.

    Parameters
    ----------
    features
        Number of features of all modules together.
    similarity
        The similarity itself, from 0 to 1.
    rank
        Of the subspaces or updates.

    Returns
    -------
    float
        (1 + s^2 + (2 s^2 + 4 s) / r)^(1/2) / features^(1/2): exact for two equal subspaces and for two perpendicular
        ones. That of normalized vectors, as used here, is smaller for similar pairs, and 0 for equal ones.

    Notes
    -----
    For Gaussian g and h, E[(g^T P h)^2 (g^T P' h)^2] = r r' + 2 t + 2 (t^2 + tau + t) with t = <P, P'> and
    tau = Tr[P P' P P'] (docs/theory.md, section 1.2); here tau is taken as t^2 / r.

    Examples
    --------
    >>> round(standard_error(4096), 4), round(standard_error(4096, similarity=1.0, rank=8), 4)
    (0.0156, 0.0259)
    """
    s = similarity
    return float(((1 + s**2 + (2 * s**2 + 4 * s) / rank) / features) ** 0.5)


def features_of(
    updates: Mapping[str, LowRankUpdate], modules: Sequence[str], by: str, features: int, seed: int
) -> Float[np.ndarray, "features"]:
    """The feature vector of one adapter, of length 1.

    Parameters
    ----------
    updates
        Module -> its update, read when it is needed.
    modules
        All modules of the collection, in order; those that the adapter lacks give zeros.
    by
        "A", "B" or "update".
    features
        Length of the vector: an equal share for each module, so that it must be at least their number.
    seed
        Of the random vectors.

    Returns
    -------
    array
        float32; zero for an adapter without any of the modules.

    Examples
    --------
    >>> one = {"q": LowRankUpdate(torch.eye(2, 6), torch.eye(5, 2))}
    >>> other = {"q": LowRankUpdate(torch.eye(2, 6).flip(0), torch.eye(5, 2))}
    >>> x, y = (features_of(held, ["q"], "A", 64, seed=0) for held in (one, other))
    >>> round(float(x @ y), 5)
    1.0
    """
    share = np.diff(np.linspace(0, features, len(modules) + 1).round().astype(int))
    parts = []
    for module, count in zip(modules, share, strict=True):
        part = _module_features(updates[module], module, by, int(count), seed) if module in updates else None
        parts.append(np.zeros(count, dtype=np.float32) if part is None else part / float(count) ** 0.5)
    found = np.concatenate(parts)
    return found / max(float(np.linalg.norm(found)), 1e-30)


def _module_features(update: LowRankUpdate, module: str, by: str, count: int, seed: int) -> np.ndarray | None:
    A, B = scaled(update.A.float()[None])[0], scaled(update.B.float()[None])[0]
    if by == "update":
        left, right = B.mT, A
    else:
        basis, rank = orthonormal_rows((A if by == "A" else B.mT)[None])
        left = right = basis[0, : int(rank[0])]
    if not (left.any() and right.any()):
        return None
    g, h = (_gaussian(module, side, count, rows.shape[1], seed) for side, rows in enumerate((left, right)))
    sign = -1.0 if by == "update" and update.scaling < 0 else 1.0
    found = sign * ((g @ left.mT) * (h @ right.mT)).sum(1)
    return (found / _norm(left, right)).numpy()


@lru_cache(maxsize=1024)
def _gaussian(module: str, side: int, count: int, width: int, seed: int) -> Float[Tensor, "count width"]:
    """The random vectors of one module, the same for every adapter."""
    # A hash of all labels: the generator looks at the lowest 32 bits of its seed only.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {side} {module}".encode()))
    return torch.randn(count, width, generator=generator)


def _norm(left: Tensor, right: Tensor) -> Tensor:
    """Frobenius norm of left^T right, both with one row for each term; terms may cancel, so in float64."""
    left, right = left.double(), right.double()
    return ((left @ left.mT) * (right @ right.mT)).sum().clamp(min=0).sqrt()


def probe(seed: int) -> list[float]:
    """A few numbers that are equal only where the random vectors of a seed are drawn alike.

    Parameters
    ----------
    seed
        Of the random features.

    Returns
    -------
    list
        Four numbers.

    Examples
    --------
    >>> probe(0) == probe(0), probe(0) == probe(1)
    (True, False)
    """
    return [round(float(value), 6) for value in _gaussian("probe", 0, 1, 4, seed)[0]]
