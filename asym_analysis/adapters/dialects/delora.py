"""DeLoRA: a pair whose rows and columns are normalized, with one trained strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["NormalizedPair"]


@dataclass(frozen=True)
class NormalizedPair:
    """B · diag(strength / (rank ||A_i|| ||B_i||)) · A · diag(norms), taken into A.

    Bini, Girrbach and Akata (2025), equation 4. `norms` are those of the base weight's columns, which PEFT saves.
    Parts: A (rank, d_in), B (d_out, rank), strength (1), norms (d_in).

    Examples
    --------
    >>> import torch
    >>> parts = {"A": torch.tensor([[3.0, 4.0]]), "B": torch.tensor([[2.0]]), "strength": torch.tensor([5.0])}
    >>> A, B = NormalizedPair()(parts | {"norms": torch.ones(2)})
    >>> (B @ A).tolist()
    [[3.0, 4.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A with all factors of scale, B)."""
        A, B = tensors["A"], tensors["B"]
        norms_of_A, norms_of_B = A.norm(dim=1).clamp(min=1e-4), B.norm(dim=0).clamp(min=1e-4)
        diagonal = tensors["strength"].reshape(1) / A.shape[0] / (norms_of_A * norms_of_B)
        return diagonal[:, None] * A * tensors["norms"], B
