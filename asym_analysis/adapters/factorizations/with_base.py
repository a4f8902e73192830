"""Updates that are formed from the base weight, some of low rank, the others as large as the weight itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asym_analysis.adapters.factorizations.module_source import Factorization
from asym_analysis.adapters.factorizations.pairs import whole
from asym_analysis.lazy_torch import Tensor, torch

__all__ = [
    "BlockAffine",
    "GatedSum",
    "HadamardOfBase",
    "ReflectedBase",
    "RemovedSubspace",
    "ReplacedTail",
    "SincePretrained",
    "SparsePair",
]


@dataclass(frozen=True)
class GatedSum:
    """GLoRA's W0 o A + B, where A and B are low-rank matrices, columns or numbers.

    Parts: W0 (d_out, d_in), and for A and B each either ``A.Xd`` (d_out, rank) and ``A.Xu`` (rank, d_in), or ``A.X``
    of shape (d_out, 1) or (1,) (Chavan et al., 2023).

    Examples
    --------
    >>> parts = {"W0": torch.tensor([[1.0, 2.0]]), "A.X": torch.tensor([3.0]), "B.X": torch.tensor([10.0])}
    >>> A, B = GatedSum()(parts)
    >>> (B @ A).tolist()
    [[13.0, 16.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        W0 = tensors["W0"]
        return whole(W0 * _path(tensors, "A") + _path(tensors, "B").expand_as(W0))


@dataclass(frozen=True)
class HadamardOfBase:
    """HiRA's W0 o (B·A) (Huang et al., 2025). Parts: W0 (d_out, d_in), A (rank, d_in), B (d_out, rank).

    Examples
    --------
    >>> A, B = HadamardOfBase()({"W0": torch.tensor([[2.0, 3.0]]), "A": torch.ones(1, 2), "B": torch.ones(1, 1)})
    >>> (B @ A).tolist()
    [[2.0, 3.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        product = tensors["B"].flatten(1) @ tensors["A"].flatten(1)
        if product.shape != tensors["W0"].shape:
            raise ValueError(f"a base weight of shape {tuple(tensors['W0'].shape)} for {tuple(product.shape)}")
        return whole(tensors["W0"] * product)


@dataclass(frozen=True)
class ReflectedBase:
    """HRA's W0·H_1...H_r - W0 with Householder reflections H_i = I - 2 u_i u_i^T, of rank r.

    Parts: W0 (d_out, d_in), u (d_in, r) (Yuan, Liu and Xu, 2024). With `orthogonal` the columns of u are made
    orthonormal first, one after the other.

    Examples
    --------
    >>> A, B = ReflectedBase()({"W0": torch.tensor([[1.0, 2.0]]), "u": torch.tensor([[5.0], [0.0]])})
    >>> (B @ A).tolist()
    [[-2.0, 0.0]]
    """

    orthogonal: bool = False

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B) = (U^T, W0·C), where H_1...H_r = I + C·U^T."""
        W0, u = tensors["W0"], tensors["u"]
        directions: list[Tensor] = []
        moved: list[Tensor] = []
        for direction in u.unbind(1):
            if self.orthogonal:
                for other in directions:
                    direction = direction - (other @ direction) * other
            direction = direction / direction.norm()
            product = direction
            for other, column in zip(directions, moved, strict=True):
                product = product + (other @ direction) * column
            directions.append(direction)
            moved.append(-2 * product)
        return torch.stack(directions), W0 @ torch.stack(moved, dim=1)


@dataclass(frozen=True)
class RemovedSubspace:
    """DEFT's Q·(scale·R - P^T·W0): a subspace of the outputs is removed and replaced.

    Parts: W0 (d_out, d_in), P (d_out, rank) and, except for PaRa, R (rank, d_in). Q is P and P^T its positive part, or
    with `orthogonal` both are P's orthonormal factor (PEFT's `DeftLayer`).

    Examples
    --------
    >>> parts = {"W0": torch.tensor([[1.0], [2.0]]), "P": torch.tensor([[1.0], [0.0]]), "R": torch.tensor([[5.0]])}
    >>> A, B = RemovedSubspace()(parts)
    >>> (B @ A).tolist()
    [[4.0], [0.0]]
    """

    scale: float = 1.0
    orthogonal: bool = False

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (scale·R - P^T·W0, Q)."""
        Q = torch.linalg.qr(tensors["P"]).Q if self.orthogonal else tensors["P"]
        removed = (Q if self.orthogonal else Q.relu()).mT @ tensors["W0"]
        return (self.scale * tensors["R"] - removed if "R" in tensors else -removed), Q


@dataclass(frozen=True)
class ReplacedTail:
    """OSF's U·diag(S)·V minus the base weight's own smallest singular components, as many as U has columns.

    Parts: W0 (d_out, d_in), U (d_out, k), S (k), V (k, d_in) (PEFT's `OSFLayer`). The components do not depend on the
    signs of singular vectors.

    Examples
    --------
    >>> parts = {"U": torch.tensor([[0.0], [1.0]]), "S": torch.tensor([5.0]), "V": torch.tensor([[0.0, 1.0]])}
    >>> A, B = ReplacedTail()(parts | {"W0": torch.diag(torch.tensor([3.0, 1.0]))})
    >>> (B @ A).round(decimals=5).abs().tolist()
    [[0.0, 0.0], [0.0, 4.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), of rank 2k."""
        U, S, V = tensors["U"], tensors["S"], tensors["V"]
        of_base, values, rows = torch.linalg.svd(tensors["W0"], full_matrices=False)
        first = values.shape[0] - S.shape[0]
        tail = of_base[:, first:] * values[first:]
        return torch.cat([V, rows[first:]]), torch.cat([U * S, -tail], dim=1)


@dataclass(frozen=True)
class SincePretrained:
    """A pair minus what its initialization took out of the base weight, as one pair.

    Parts: those of `pair`, and W0 (d_out, d_in), the pretrained weight. What was taken follows from W0 alone and does
    not depend on signs: for "pissa" its largest singular components (Meng, Wang and Zhang, 2024), as many as the pair
    has rank, for "kasa" its smallest (Wang et al., 2024), and for "olora" scaling times the first columns of Q times
    the first rows of R of its QR decomposition (Büyükakyüz, 2024).

    Examples
    --------
    >>> from asym_analysis.adapters.factorizations.pairs import Pair
    >>> parts = {"A": torch.tensor([[4.0, 0.0]]), "B": torch.tensor([[1.0], [0.0]])}
    >>> since = SincePretrained(Pair(), "pissa", scaling=1.0)
    >>> A, B = since(parts | {"W0": torch.diag(torch.tensor([3.0, 1.0]))})
    >>> (B @ A).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    pair: Factorization
    taken: str
    scaling: float

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), of twice the rank."""
        A, B = self.pair({part: tensor for part, tensor in tensors.items() if part != "W0"})
        rank = A.shape[0]
        if self.taken == "olora":
            Q, R = torch.linalg.qr(tensors["W0"])
            rows, columns = R[:rank], Q[:, :rank]
        else:
            U, S, Vh = torch.linalg.svd(tensors["W0"], full_matrices=False)
            kept = slice(rank) if self.taken == "pissa" else slice(S.shape[0] - rank, None)
            rows, columns = Vh[kept], U[:, kept] * S[kept] / self.scaling
        return torch.cat([A, rows]), torch.cat([B, -columns], dim=1)


@dataclass(frozen=True)
class BlockAffine:
    """MiSS's "bat": each r x r block w of W0 changes by (w + I)·b, b being that of its row of blocks.

    Parts: W0 (d_out, d_in), block (d_out / r, r, r); sides of W0 are multiples of r (Kang and Yin, 2025, and
    PEFT's `MissLinear`).

    Examples
    --------
    >>> A, B = BlockAffine()({"W0": torch.tensor([[1.0, 2.0]]), "block": torch.tensor([[[10.0]]])})
    >>> (B @ A).tolist()
    [[20.0, 30.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        W0, block = tensors["W0"], tensors["block"]
        rows, r, _ = block.shape
        blocks = W0.reshape(rows, r, -1, r).permute(2, 0, 1, 3)
        return whole((blocks @ block + block).permute(1, 2, 0, 3).reshape(W0.shape))


@dataclass(frozen=True)
class SparsePair:
    """Super-Tuning's Supra: some entries of the weight, and scale times a low-rank pair.

    Parts: values (n), indices (n) into the weight read row by row, A (rank, d_in), B (d_out, rank) (PEFT's
    `SupertuningLayer`).

    Examples
    --------
    >>> parts = {"values": torch.tensor([5.0]), "indices": torch.tensor([1])}
    >>> A, B = SparsePair(scale=2.0)(parts | {"A": torch.ones(1, 2), "B": torch.ones(1, 1)})
    >>> (B @ A).tolist()
    [[2.0, 7.0]]
    """

    scale: float

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        dense = self.scale * (tensors["B"] @ tensors["A"])
        flat = dense.reshape(-1).scatter_add(0, tensors["indices"].long(), tensors["values"])
        return whole(flat.reshape(dense.shape))


def _path(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if f"{name}.X" in tensors:
        return tensors[f"{name}.X"]
    return tensors[f"{name}.Xd"] @ tensors[f"{name}.Xu"]
