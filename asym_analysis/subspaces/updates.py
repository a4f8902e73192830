"""Spectra, norms and inner products of an update B·A from its factors, never forming the product.

With thin QR factorizations B = Q_B R_B and A^T = Q_A R_A, every quantity of B·A is one of the r x r matrix R_B R_A^T
(docs/theory.md, section 4.4): O((d_in + d_out) r^2) time instead of O(d_in d_out min(d_in, d_out)).

Shapes may carry leading batch dimensions. Results have the dtype of the factors.
"""

from __future__ import annotations

from jaxtyping import Float

from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["frobenius_norm", "inner_product", "singular_values", "thin_svd"]


def thin_svd(
    A: Float[Tensor, "*batch rank d_in"], B: Float[Tensor, "*batch d_out rank"]
) -> tuple[Float[Tensor, "*batch d_out k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch k d_in"]]:
    """Singular value decomposition of B·A, from its factors.

    Returns
    -------
    U, S, Vh
        B·A = U diag(S) Vh with S in descending order and k = min(rank, d_in, d_out).

    Examples
    --------
    >>> A, B = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0], [0.0]])
    >>> U, S, Vh = thin_svd(A, B)
    >>> S.item()
    10.0
    """
    q_left, r_left = torch.linalg.qr(B)
    q_right, r_right = torch.linalg.qr(A.mT)
    left, S, right = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return q_left @ left, S, right @ q_right.mT


def singular_values(
    A: Float[Tensor, "*batch rank d_in"], B: Float[Tensor, "*batch d_out rank"]
) -> Float[Tensor, "*batch k"]:
    """Singular values of B·A in descending order, from its factors; k = min(rank, d_in, d_out).

    Examples
    --------
    >>> singular_values(torch.eye(2), 3 * torch.eye(2)).tolist()
    [3.0, 3.0]
    """
    r_left = torch.linalg.qr(B, mode="r").R
    r_right = torch.linalg.qr(A.mT, mode="r").R
    return torch.linalg.svdvals(r_left @ r_right.mT)


def frobenius_norm(
    A: Float[Tensor, "*batch rank d_in"], B: Float[Tensor, "*batch d_out rank"]
) -> Float[Tensor, "*batch"]:
    """Frobenius norm of B·A, from its factors.

    The triangular factors are used rather than the Gram matrices, whose entries cancel when the factors are
    ill conditioned.

    Examples
    --------
    >>> frobenius_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0], [0.0]])).item()
    10.0
    """
    r_left = torch.linalg.qr(B, mode="r").R
    r_right = torch.linalg.qr(A.mT, mode="r").R
    return torch.linalg.matrix_norm(r_left @ r_right.mT)


def inner_product(
    A: Float[Tensor, "*batch rank d_in"],
    B: Float[Tensor, "*batch d_out rank"],
    other_A: Float[Tensor, "*batch other_rank d_in"],
    other_B: Float[Tensor, "*batch d_out other_rank"],
) -> Float[Tensor, "*batch"]:
    """Frobenius inner product <B·A, B'·A'> = sum((B^T B') o (A A'^T)), from the factors.

    Examples
    --------
    >>> A, B = torch.eye(2), torch.eye(2)
    >>> inner_product(A, B, A, 2 * B).item()
    4.0
    """
    return ((B.mT @ other_B) * (A @ other_A.mT)).sum(dim=(-2, -1))
