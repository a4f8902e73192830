"""What a given frozen factor keeps of an update, in the linear model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.vocabulary import Factor, choose

__all__ = ["kept_by_frozen"]


def kept_by_frozen(
    factor: Factor,
    frozen: Float[Tensor, "rows columns"],
    update: LowRankUpdate,
    inputs: Float[Tensor, "d_in d_in"],
    sensitivity: Float[Tensor, "d_out d_out"] | None = None,
) -> tuple[float, float]:
    """Compute the signal of an update that the best trained other factor reaches with this one frozen.

    The signal of an update D is Tr(G D S D^T), with S the second moment of the inputs and G the sensitivity of the loss
    to the outputs. With A frozen it keeps the part of G^(1/2) D S^(1/2) in the row space of A S^(1/2); with B frozen,
    that in the column space of G^(1/2) B [1]_.

    Parameters
    ----------
    factor : {"A", "B"}
        Which factor is frozen.
    frozen : float Tensor of shape (rank, d_in) or (d_out, rank)
        Its values.
    update : LowRankUpdate
        The update that the task asks for.
    inputs : float Tensor of shape (d_in, d_in)
        E[x x^T] of the module's inputs.
    sensitivity : float Tensor of shape (d_out, d_out), optional
        E[g g^T] of the gradients at its outputs; the identity if None.

    Returns
    -------
    tuple of float
        The signal that is kept, and the whole signal.

    References
    ----------
    .. [1] docs/theory.md, section 1.2.

    Examples
    --------
    >>> update = LowRankUpdate(A=torch.eye(1, 4), B=torch.ones(8, 1))
    >>> kept_by_frozen("A", torch.ones(1, 4), update, torch.eye(4))
    (2.0, 8.0)
    """
    choose(factor, ("A", "B"), "factor")
    right = update.A.double() @ _root(inputs)
    left = float(update.scaling) * update.B.double()
    weights = None if sensitivity is None else _root(sensitivity)
    left = left if weights is None else weights @ left
    if factor == "A":
        reached = torch.linalg.qr((frozen.double() @ _root(inputs)).T).Q
        kept = left @ (right @ reached)
    else:
        reached = torch.linalg.qr(frozen.double() if weights is None else weights @ frozen.double()).Q
        kept = (reached.T @ left) @ right
    whole = ((left.T @ left) * (right @ right.T)).sum()
    return round(float(kept.square().sum()), 12), round(float(whole), 12)


def _root(moment: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(moment.double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
