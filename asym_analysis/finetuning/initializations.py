"""The values from which a factor starts, each from an explicit generator."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.finetuning.factor_start import Initialization

__all__ = ["generator_for", "initial_factor"]


def generator_for(seed: int, module: str, factor: Literal["A", "B"]) -> torch.Generator:
    """A generator for one factor of one module: its draws do not depend on which other modules are adapted.

    Examples
    --------
    >>> first, again = (torch.rand(1, generator=generator_for(0, "layer.0.query", "A")) for _ in range(2))
    >>> bool(first == again)
    True
    """
    digest = hashlib.sha256(f"{seed}/{module}/{factor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def initial_factor(
    factor: Literal["A", "B"],
    initialization: Initialization,
    weight: Float[Tensor, "d_out d_in"],
    rank: int,
    generator: torch.Generator,
) -> Float[Tensor, "rows columns"]:
    """Draw or compute the start of one factor.

    Parameters
    ----------
    factor
        "A" gives shape (rank, d_in), "B" gives shape (d_out, rank).
    initialization
        See `FactorStart`.
    weight
        The pretrained weight, of shape (d_out, d_in); only its shape matters unless singular vectors are asked for.
    rank
        Number of rows of A, or columns of B; at most min(d_out, d_in) for singular vectors.
    generator
        Source of the random starts.

    Returns
    -------
    Tensor
        float32. Rows of an orthonormal A, and columns of an orthonormal B, have norm 1; those of a Kaiming A have
        norm 1/sqrt(3) and those of a Kaiming B sqrt(d_out / (3 rank)), in root mean square (theory notes, section 1.5).

    Raises
    ------
    ValueError
        If the rank is larger than the matrix allows.

    Examples
    --------
    >>> A = initial_factor("A", "orthonormal", torch.zeros(4, 6), 2, torch.Generator().manual_seed(0))
    >>> torch.allclose(A @ A.T, torch.eye(2), atol=1e-6)
    True
    """
    d_out, d_in = weight.shape
    length = d_in if factor == "A" else d_out
    if initialization in ("singular", "last_singular") and rank > min(d_out, d_in):
        raise ValueError(f"a {d_out} x {d_in} weight has {min(d_out, d_in)} singular vectors, fewer than rank {rank}")
    if initialization == "orthonormal" and rank > length:
        raise ValueError(f"{rank} orthonormal vectors do not fit in {length} dimensions")
    vectors = _vectors(factor, initialization, weight, rank, generator)
    return (vectors.T if factor == "A" else vectors).contiguous()


def _vectors(
    factor: Literal["A", "B"],
    initialization: Initialization,
    weight: Float[Tensor, "d_out d_in"],
    rank: int,
    generator: torch.Generator,
) -> Float[Tensor, "length rank"]:
    """The rows of A, or the columns of B, as columns."""
    length = weight.shape[1] if factor == "A" else weight.shape[0]
    match initialization:
        case "zero":
            return torch.zeros(length, rank)
        case "orthonormal":
            return _haar(length, rank, generator)
        case "gaussian":
            return torch.randn(length, rank, generator=generator) / math.sqrt(length)
        case "kaiming":
            # The fan-in of the map: d_in for A, the rank for B. torch.nn.Linear's a = sqrt(5) leaves 1/sqrt(fan-in).
            bound = 1 / math.sqrt(length if factor == "A" else rank)
            return (2 * torch.rand(length, rank, generator=generator) - 1) * bound
        case "singular" | "last_singular":
            return _singular_vectors(factor, weight, rank, last=initialization == "last_singular")


def _haar(length: int, rank: int, generator: torch.Generator) -> Float[Tensor, "length rank"]:
    """Columns uniform on the Stiefel manifold: QR of a Gaussian matrix, signs fixed so that the law is exactly Haar."""
    gaussian = torch.randn(length, rank, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    return (Q * R.diagonal().sign()).float()


def _singular_vectors(
    factor: Literal["A", "B"], weight: Float[Tensor, "d_out d_in"], rank: int, *, last: bool
) -> Float[Tensor, "length rank"]:
    """Singular vectors of the pretrained weight (reduced SVD in float64).

    The released code of the paper takes them from a freshly initialized weight and indexes Vh by columns, so that they
    are random coordinates (theory notes, section 2, bugs 1 and 2); these are the real ones.
    """
    U, _, Vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    vectors = Vh.T if factor == "A" else U
    return (vectors[:, -rank:] if last else vectors[:, :rank]).float()
