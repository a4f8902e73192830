"""Corner blocks of random rotations: all that the similarity of two random low-rank matrices depends on.

Rotating two matrices together changes none of the similarities here. Of two random row spaces of R^d only the p x q
matrix of products of their orthonormal bases matters, and it is drawn without ever drawing the d coordinates: samples
in R^4096 cost what they do in R^20.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

__all__ = ["haar_blocks", "haar_cosines", "sample_count"]

SEED = 20240226
MOST = 2**15
LEAST = 2**12
ENTRIES = 2**22  # of all sampled blocks of one shape


def sample_count(p: int, q: int) -> int:
    """Number of blocks that are drawn for ranks p and q: 32,768 up to rank 11, fewer for larger ones.

    Parameters
    ----------
    p, q
        Rows and columns of a block.

    Returns
    -------
    int
        A power of two from 4,096 to 32,768.

    Examples
    --------
    >>> sample_count(8, 8), sample_count(16, 16), sample_count(64, 64)
    (32768, 16384, 4096)
    """
    wanted = min(max(ENTRIES // (p * q), LEAST), MOST)
    return 2 ** (wanted.bit_length() - 1)


@lru_cache(maxsize=16)
def haar_blocks(p: int, q: int, d: int, stream: int = 0) -> Float[np.ndarray, "n p q"]:
    """Products U V^T of orthonormal bases of independent, uniformly distributed subspaces of R^d.

    Parameters
    ----------
    p, q
        Dimensions of the two subspaces, each at most d.
    d
        Dimension of the space.
    stream
        Another number gives independent blocks.

    Returns
    -------
    array
        `sample_count(p, q)` blocks of shape (p, q), float64, the same for the same arguments. Read only.

    Notes
    -----
    The first basis is fixed to the first p coordinates; the second has the rows of a Gaussian q x d matrix, made
    orthonormal one after another. Their d - p other coordinates are drawn up to a rotation (Bartlett 1933).

    Examples
    --------
    >>> blocks = haar_blocks(2, 3, 10)
    >>> blocks.shape, bool(abs((blocks**2).sum((1, 2)).mean() - 2 * 3 / 10) < 0.01)
    ((32768, 2, 3), True)
    """
    if q > p:
        found = np.ascontiguousarray(haar_blocks(q, p, d, stream).transpose(0, 2, 1))
    else:
        generator = np.random.default_rng([SEED, p, q, d, stream])
        count = sample_count(p, q)
        known = generator.standard_normal((count, q, p))
        rows = np.concatenate([known, _bartlett(generator, count, q, d - p)], axis=2)
        basis, upper = np.linalg.qr(rows.transpose(0, 2, 1))
        # Householder's choice of signs depends on the data; Gram-Schmidt's, a positive diagonal, does not.
        signs = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0, -1.0, 1.0)
        found = basis[:, :p] * signs[:, None]
    found.flags.writeable = False
    return found


@lru_cache(maxsize=64)
def haar_cosines(p: int, q: int, d: int) -> Float[np.ndarray, "n k"]:
    """Cosines of the principal angles of independent random subspaces of R^d, in descending order.

    Parameters
    ----------
    p, q, d
        As for `haar_blocks`.

    Returns
    -------
    array
        Shape (n, min(p, q)), float64.

    Examples
    --------
    >>> bool(haar_cosines(2, 2, 3)[:, 0].min() > 1 - 1e-12)  # two planes of R^3 meet in a line
    True
    """
    return np.minimum(np.linalg.svd(haar_blocks(p, q, d), compute_uv=False), 1.0)


def _bartlett(generator: np.random.Generator, count: int, rows: int, size: int) -> Float[np.ndarray, "count rows k"]:
    """`rows` Gaussian vectors of R^size up to a common rotation; k = min(rows, size)."""
    if size <= rows:
        return generator.standard_normal((count, rows, size))
    lower = np.tril(generator.standard_normal((count, rows, rows)), -1)
    freedom = np.arange(size, size - rows, -1)
    lower[:, np.arange(rows), np.arange(rows)] = np.sqrt(generator.chisquare(freedom, (count, rows)))
    return lower
