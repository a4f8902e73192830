"""VB-LoRA: factors put together from the vectors of one bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BankPair"]


@dataclass(frozen=True)
class BankPair:
    """Each stretch of a row of A, or of a column of B, is a mixture of the top vectors of the bank.

    Li, Han and Ji (2024), equation 3. Parts: bank (vectors, length), and either logits_A (rank, tiles, vectors) and
    logits_B (tiles, rank, vectors), or what `save_only_topk_weights` leaves of them: A_indices, A_weights (all but the
    last, which makes their sum 1), B_indices and B_weights.

    Examples
    --------
    >>> parts = {"bank": torch.eye(3), "logits_A": torch.zeros(1, 2, 3), "logits_B": torch.zeros(1, 1, 3)}
    >>> A, B = BankPair(top=1)(parts)
    >>> A.shape, B.shape
    (torch.Size([1, 6]), torch.Size([3, 1]))
    """

    top: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        A, B = self._mixture(tensors, "A"), self._mixture(tensors, "B")
        return A.flatten(1), B.mT.flatten(0, 1)

    def _mixture(self, tensors: Mapping[str, Tensor], factor: str) -> Tensor:
        if f"logits_{factor}" in tensors:
            values, indices = tensors[f"logits_{factor}"].topk(self.top, dim=-1)
            weights = values.softmax(dim=-1)
        else:
            indices = tensors[f"{factor}_indices"].long()
            first = tensors[f"{factor}_weights"]
            weights = torch.cat([first, 1 - first.sum(-1, keepdim=True)], dim=-1)
        return (weights[..., None] * tensors["bank"][indices]).sum(-2)
