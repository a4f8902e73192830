"""Factors that all modules share, cut or mixed for each: VeRA's random pair, VB-LoRA's bank of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float

from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["BankPair", "IndexedPair", "ProjectedPair", "ScaledBases", "SharedPair", "regenerate_projections"]


@dataclass(frozen=True)
class SharedPair:
    """diag(b) · B · diag(d) · A, with the shared A and B cut to the module's size.

    Kopiczko, Blankevoort and Asano (2024), equation 2. Parts: A (rank, largest d_in), B (largest d_out, rank),
    d (rank), b (d_out). With `halves`, d and A hold means and then as many log-variances, of which only the means
    count: PVeRA, whose update is random in training and its mean when it is merged.

    Examples
    --------
    >>> parts = {"A": torch.ones(1, 4), "B": torch.ones(3, 1), "d": torch.tensor([2.0]), "b": torch.tensor([1.0, 5.0])}
    >>> A, B = SharedPair(d_in=3)(parts)
    >>> A.tolist(), B.tolist()
    ([[2.0, 2.0, 2.0]], [[1.0], [5.0]])
    """

    d_in: int
    halves: bool = False

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (diag(d) · A, diag(b) · B)."""
        d, b = tensors["d"], tensors["b"]
        if self.halves:
            d = d[: d.shape[0] // 2]
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


@dataclass(frozen=True)
class ScaledBases:
    """RandLoRA: a sum of random bases of full rank together, with a trained diagonal on both sides of each.

    Albert et al. (2025), and PEFT's `RandLoraLayer`. Parts: A (rank, 1, largest smaller side), B (largest
    larger side, bases, rank), lambda (rank, bases), gamma (bases, smaller side). The trained numbers act on the smaller
    side of the update, so that A and B change places where the output is the smaller one.

    Examples
    --------
    >>> parts = {"A": torch.ones(1, 1, 2), "B": torch.ones(3, 1, 1), "lambda": torch.tensor([[2.0]])}
    >>> A, B = ScaledBases(d_out=3, d_in=2)(parts | {"gamma": torch.tensor([[1.0, 10.0]])})
    >>> (B @ A)[0].tolist()
    [2.0, 20.0]
    """

    d_out: int
    d_in: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        small, large = sorted((self.d_in, self.d_out))
        bases = tensors["gamma"].shape[0]
        scaled = tensors["lambda"][:, :, None] * tensors["A"][:, :bases, :small] * tensors["gamma"][None]
        reads, writes = scaled.flatten(0, 1), tensors["B"][:large, :bases].flatten(1)
        return (reads, writes) if small == self.d_in else (writes.mT, reads.mT)


@dataclass(frozen=True)
class ProjectedPair:
    """TinyLoRA: B · (sum of v_i P_i) · A, with a few trained numbers v between the base weight's singular vectors.

    Parts: A (rank, d_in), B (d_out, rank), P (u, rank, rank), v (u) (PEFT's `TinyLoraLayer`).

    Examples
    --------
    >>> parts = {"A": torch.ones(1, 2), "B": torch.ones(1, 1), "P": torch.tensor([[[2.0]], [[3.0]]])}
    >>> A, B = ProjectedPair()(parts | {"v": torch.tensor([10.0, 1.0])})
    >>> (B @ A).tolist()
    [[23.0, 23.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (R · A, B)."""
        return torch.einsum("i,ijk->jk", tensors["v"], tensors["P"]) @ tensors["A"], tensors["B"]


@dataclass(frozen=True)
class IndexedPair:
    """Uni-LoRA: every entry of A and B is an entry of one trained vector, times a fixed scale.

    Li et al. (2025), and PEFT's `UniLoraLayer`. Parts: theta (length), A_indices and A_scales (rank, d_in),
    B_indices and B_scales (d_out, rank).

    Examples
    --------
    >>> indices, scales = torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0]])
    >>> parts = {"theta": torch.tensor([3.0, 5.0]), "A_indices": indices, "A_scales": scales}
    >>> A, B = IndexedPair()(parts | {"B_indices": torch.tensor([[0]]), "B_scales": torch.ones(1, 1)})
    >>> A.tolist(), B.tolist()
    ([[3.0, 10.0]], [[3.0]])
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        A, B = (tensors["theta"][tensors[f"{which}_indices"].long()] * tensors[f"{which}_scales"] for which in "AB")
        return A, B


def regenerate_projections(
    key: int, shape_A: tuple[int, int], shape_B: tuple[int, int]
) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "d_out rank"]]:
    """The shared pair that PEFT drew from `projection_prng_key`, where the file leaves it out.

    Uniform on +-sqrt(6 / columns) (Kaiming), A first, from one CPU generator.

    Parameters
    ----------
    key : int
        The config's projection_prng_key.
    shape_A, shape_B : tuple of int
        Wide enough for the largest of all adapted modules: what was drawn depends on them.

    Returns
    -------
    tuple of Tensor
        A and B, in float32.

    Examples
    --------
    >>> A, B = regenerate_projections(0, (2, 6), (4, 2))
    >>> A.shape, B.shape, bool(A.abs().max() <= 1.0)
    (torch.Size([2, 6]), torch.Size([4, 2]), True)
    """
    generator = torch.Generator().manual_seed(key)

    def draw(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(columns)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

    return draw(*shape_A), draw(*shape_B)
