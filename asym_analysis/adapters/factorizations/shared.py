"""Factors that all modules share, cut or mixed for each: VeRA's random pair, VB-LoRA's bank of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BankPair", "SharedPair", "regenerate_projections"]


@dataclass(frozen=True)
class SharedPair:
    """diag(b) · B · diag(d) · A, with the shared A and B cut to the module's size.

    Kopiczko, Blankevoort and Asano (2024), equation 2. Parts: A (rank, largest d_in), B (largest d_out, rank),
    d (rank), b (d_out).

    Examples
    --------
    >>> parts = {"A": torch.ones(1, 4), "B": torch.ones(3, 1), "d": torch.tensor([2.0]), "b": torch.tensor([1.0, 5.0])}
    >>> A, B = SharedPair(d_in=3)(parts)
    >>> A.tolist(), B.tolist()
    ([[2.0, 2.0, 2.0]], [[1.0], [5.0]])
    """

    d_in: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (diag(d) · A, diag(b) · B)."""
        d, b = tensors["d"], tensors["b"]
        A = tensors["A"][: d.shape[0], : self.d_in]
        B = tensors["B"][: b.shape[0], : d.shape[0]]
        return d[:, None] * A, b[:, None] * B


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


def regenerate_projections(
    key: int, rank: int, d_in: int, d_out: int
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """The shared pair that PEFT drew from `projection_prng_key`, where the file leaves it out.

    Uniform on +-sqrt(6 / columns) (Kaiming), A first, from one CPU generator.

    Parameters
    ----------
    d_in, d_out
        The largest of all adapted modules: what was drawn depends on them.

    Examples
    --------
    >>> A, B = regenerate_projections(key=0, rank=2, d_in=6, d_out=4)
    >>> A.shape, B.shape, bool(A.abs().max() <= 1.0)
    (torch.Size([2, 6]), torch.Size([4, 2]), True)
    """
    generator = torch.Generator().manual_seed(key)

    def draw(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(columns)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

    return draw(rank, d_in), draw(d_out, rank)
