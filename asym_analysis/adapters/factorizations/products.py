"""Products of matrices that are low rank again: Tucker cores, LoHa's entrywise and LoKr's Kronecker product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float

from asym_analysis.adapters.factorizations.pairs import whole
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["HadamardPair", "KroneckerPair", "TuckerPair", "fold_core"]


@dataclass(frozen=True)
class TuckerPair:
    """LoCon's convolution in three steps: B (d_out, rank), a core (rank, rank, height, width), A (rank, channels).

    Examples
    --------
    >>> A, B = TuckerPair()({"A": torch.ones(2, 3, 1, 1), "mid": torch.ones(2, 2, 3, 3), "B": torch.ones(5, 2, 1, 1)})
    >>> A.shape, B.shape
    (torch.Size([2, 27]), torch.Size([5, 2]))
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A with the core folded in, B)."""
        return fold_core(tensors["mid"], tensors["A"].flatten(1)), tensors["B"].flatten(1)


@dataclass(frozen=True)
class HadamardPair:
    """(w1_a · w1_b) o (w2_a · w2_b), whose factors are Khatri-Rao products.

    Row i of B is the Kronecker product of rows i of w1_a and w2_a, column j of A that of columns j of w1_b and w2_b
    (Hyeon-Woo, Ye-Bin and Oh, 2022, FedPara, proposition 1). With Tucker cores t1 and t2, of shape (r, r, height,
    width), w1_a and w2_a are (r, d_out) and each core is folded into its w_b first. The rank is r x r, or the smaller
    side of the update where that is less; then one of the factors is the identity.

    Examples
    --------
    >>> parts = {"w1_a": [[1.0, 2.0]], "w1_b": [[3.0], [4.0]], "w2_a": [[5.0]], "w2_b": [[6.0]]}
    >>> A, B = HadamardPair()({part: torch.tensor(values) for part, values in parts.items()})
    >>> (B @ A).item()  # (1x3 + 2x4) x (5x6)
    330.0
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        left, right = _factors(tensors, "1"), _factors(tensors, "2")
        if left[0].shape[0] * right[0].shape[0] > min(left[0].shape[1], left[1].shape[0]):
            return whole((left[1] @ left[0]) * (right[1] @ right[0]))
        A = torch.einsum("pi,qi->pqi", left[0], right[0]).flatten(0, 1)
        B = torch.einsum("op,oq->opq", left[1], right[1]).flatten(1)
        return A, B


@dataclass(frozen=True)
class KroneckerPair:
    """w1 (x) w2, either of them given whole or as a product: kron(B1 A1, B2 A2) = kron(B1, B2) · kron(A1, A2).

    The rank is the product of the two, or the smaller side of the update where that is less; a matrix that is given
    whole counts with its smaller side. Nothing is approximated (Yeh et al., 2024, LyCORIS, section 3). A convolution's
    w2 (d_out, channels, height, width) is taken as the matrix (d_out, channels x height x width), and a Tucker core t2
    is folded into w2_b first.

    PEFT gives a one-dimensional convolution a whole three-dimensional w2 and reshapes what `torch.kron` makes of it,
    which is no Kronecker product of matrices; that update is kept as it is.

    Examples
    --------
    >>> A, B = KroneckerPair()({"w1": torch.tensor([[2.0, 3.0]]), "w2_a": torch.ones(4, 1), "w2_b": torch.ones(1, 5)})
    >>> A.shape, B.shape, (B @ A)[0].tolist()
    (torch.Size([1, 10]), torch.Size([4, 1]), [2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        w2 = tensors.get("w2")
        A1, B1 = whole(tensors["w1"]) if "w1" in tensors else (tensors["w1_b"], tensors["w1_a"])
        if w2 is not None and w2.ndim == 3:
            return whole(torch.einsum("lm,kns->klnms", B1 @ A1, w2).reshape(B1.shape[0] * w2.shape[0], -1))
        if w2 is not None:
            A2, B2 = whole(w2.flatten(1))
        elif "t2" in tensors:
            A2, B2 = fold_core(tensors["t2"], tensors["w2_b"]), tensors["w2_a"].mT
        else:
            A2, B2 = tensors["w2_b"], tensors["w2_a"]
        if A1.shape[0] * A2.shape[0] > min(B1.shape[0] * B2.shape[0], A1.shape[1] * A2.shape[1]):
            return whole(_kron(B1 @ A1, B2 @ A2))
        return _kron(A1, A2), _kron(B1, B2)


def fold_core(
    core: Float[Tensor, "rank inner *kernel"], down: Float[Tensor, "inner channels"]
) -> Float[Tensor, "rank flat"]:
    """Fold a core into the factor that reads the input: sum over j of core[i, j, ...] · down[j, c].

    The result has one column for each channel and kernel position, channels first, as a convolution's weight has.

    Examples
    --------
    >>> fold_core(torch.ones(2, 3, 1, 1), torch.ones(3, 4)).shape
    torch.Size([2, 4])
    """
    return torch.einsum("ij...,jc->ic...", core, down).flatten(1)


def _factors(tensors: Mapping[str, Tensor], which: str) -> tuple[Tensor, Tensor]:
    w_a, w_b, core = tensors[f"w{which}_a"], tensors[f"w{which}_b"], tensors.get(f"t{which}")
    if core is None:
        return w_b, w_a
    return fold_core(core, w_b), w_a.mT


def _kron(left: Tensor, right: Tensor) -> Tensor:
    # Not torch.kron, which fails on a transposed matrix of one row or column.
    product = torch.einsum("ij,kl->ikjl", left, right)
    return product.reshape(left.shape[0] * right.shape[0], -1)
