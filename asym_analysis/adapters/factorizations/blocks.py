"""Updates in blocks: block-diagonal factors, fused projections, grids of pairs, stacks of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.lazy_torch import Tensor, torch

__all__ = [
    "BlockDiagonalPair",
    "BlockwisePair",
    "FlatExpert",
    "MergedLinear",
    "SplitPair",
    "StackedExpert",
    "StackedPart",
]


@dataclass(frozen=True)
class BlockDiagonalPair:
    """A pair whose A, or B, is stored as its blocks stacked upon each other.

    B in blocks: a convolution with groups, whose second factor is grouped too, and block-diagonal LoRA's row-parallel
    layers. A in blocks: its column-parallel layers.

    Examples
    --------
    >>> A, B = BlockDiagonalPair(b_blocks=2)({"A": torch.ones(2, 3), "B": torch.tensor([[1.0], [2.0]])})
    >>> B.tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """

    a_blocks: int = 1
    b_blocks: int = 1

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B) with the zeros between the blocks."""
        A, B = tensors["A"].flatten(1), tensors["B"].flatten(1)
        return _block_diagonal(A, self.a_blocks), _block_diagonal(B, self.b_blocks)


@dataclass(frozen=True)
class MergedLinear:
    """loralib's update of a fused projection, some of whose parts are adapted: each with its own pair.

    A (rank x enabled parts, d_in) and B (rows of the enabled parts, rank), both stacked by part; the rows of a part
    that is not enabled are zero (Hu et al., 2021; loralib's MergedLinear, and PEFT before version 0.3).

    Examples
    --------
    >>> merged = MergedLinear((True, False, True))
    >>> A, B = merged({"A": torch.ones(2, 3), "B": torch.tensor([[1.0], [2.0]])})
    >>> B.tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]
    """

    enabled: tuple[bool, ...]

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B) with the zero rows of the parts that are not adapted."""
        A, B = tensors["A"].flatten(1), tensors["B"].flatten(1)
        parts = sum(self.enabled)
        blocks = iter(_block_diagonal(B, parts).chunk(parts, dim=0))
        zero = B.new_zeros(B.shape[0] // parts, B.shape[1] * parts)
        return A, torch.cat([next(blocks) if enabled else zero for enabled in self.enabled])


@dataclass(frozen=True)
class BlockwisePair:
    """A pair for each of the k x k blocks of a weight, and a common pair beside them.

    Parts: A (k, d_in / k, rank), whose slice a of the rank reads block n for output block a; B (k, rank, d_out / k),
    whose slice n of the rank writes block a from input block n; optionally general_A (hybrid rank, d_in) and general_B
    (Jung et al., 2025, section 3). Together they are one pair of rank k x rank, plus the hybrid rank.

    Examples
    --------
    >>> A, B = BlockwisePair()({"A": torch.ones(2, 3, 4), "B": torch.ones(2, 4, 5)})
    >>> A.shape, B.shape
    (torch.Size([8, 6]), torch.Size([10, 8]))
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        blocks, width, rank = tensors["A"].shape
        height = tensors["B"].shape[2]
        eye = torch.eye(blocks, dtype=tensors["A"].dtype, device=tensors["A"].device)
        # Latent dimensions: input block n, output block a, position j in the slice that n and a share.
        reads = tensors["A"].reshape(blocks, width, blocks, rank // blocks)
        writes = tensors["B"].reshape(blocks, blocks, rank // blocks, height)
        A = torch.einsum("niaj,nm->najmi", reads, eye).reshape(blocks * rank, blocks * width)
        B = torch.einsum("anjo,ab->bonaj", writes, eye).reshape(blocks * height, blocks * rank)
        if "general_A" not in tensors:
            return A, B
        return torch.cat([A, tensors["general_A"]]), torch.cat([B, tensors["general_B"]], dim=1)


@dataclass(frozen=True)
class FlatExpert:
    """One expert of PEFT's `target_parameters`: A (experts x rank, d_in), B (d_out, rank x experts).

    A runs over experts first, B over experts last.

    Examples
    --------
    >>> import torch
    >>> A, B = FlatExpert(1, 2)({"A": torch.tensor([[1.0], [2.0]]), "B": torch.tensor([[3.0, 4.0]])})
    >>> A.item(), B.item()
    (2.0, 4.0)
    """

    expert: int
    experts: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the expert's (A, B)."""
        A, B = tensors["A"], tensors["B"]
        return (
            A.reshape(self.experts, -1, A.shape[-1])[self.expert],
            B.reshape(B.shape[0], -1, self.experts)[:, :, self.expert],
        )


@dataclass(frozen=True)
class StackedExpert:
    """One expert of a three-dimensional stack: A (experts, rank, d_in), B (experts, d_out, rank).

    A may also be (experts x rank, d_in), as older versions of mlx-lm have it.

    Examples
    --------
    >>> import torch
    >>> A, B = StackedExpert(1)({"A": torch.ones(2, 4, 3), "B": torch.ones(2, 5, 4)})
    >>> A.shape, B.shape
    (torch.Size([4, 3]), torch.Size([5, 4]))
    """

    expert: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the expert's (A, B)."""
        A, B = tensors["A"], tensors["B"]
        return A.reshape(B.shape[0], -1, A.shape[-1])[self.expert], B[self.expert]


@dataclass(frozen=True)
class SplitPair:
    """A fused projection whose parts have a pair each: A stacked, B block diagonal.

    The parts are named ``A.0``, ``B.0``, ``A.1``, ... from the first rows of the projection to its last.

    Examples
    --------
    >>> parts = {"A.0": torch.ones(1, 3), "B.0": torch.ones(2, 1), "A.1": torch.ones(1, 3), "B.1": torch.ones(4, 1)}
    >>> A, B = SplitPair(2)(parts)
    >>> A.shape, B.shape
    (torch.Size([2, 3]), torch.Size([6, 2]))
    """

    count: int
    pair: Pair = field(default_factory=Pair)

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B).

        Raises
        ------
        ValueError
            If a part has no pair.
        """
        if set(tensors) != {f"{factor}.{number}" for factor in "AB" for number in range(self.count)}:
            raise ValueError("the pairs of a split projection are not all there")
        pairs = [self.pair({f: tensors[f"{f}.{number}"] for f in "AB"}) for number in range(self.count)]
        return torch.cat([A for A, _ in pairs]), torch.block_diag(*(B for _, B in pairs))


@dataclass(frozen=True)
class StackedPart:
    """One part of a stack of pairs: the rows of A and the rows of B that belong to it.

    Examples
    --------
    >>> A, B = StackedPart(1, 2, (4, 6))({"A": torch.arange(8.0).reshape(4, 2), "B": torch.arange(12.0).reshape(6, 2)})
    >>> A[0].tolist(), B[0].tolist()
    ([4.0, 5.0], [8.0, 9.0])
    """

    index: int
    rank: int
    rows: tuple[int, int]

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the part's (A, B)."""
        first = self.index * self.rank
        return tensors["A"][first : first + self.rank], tensors["B"][slice(*self.rows)]


def _block_diagonal(stacked: Tensor, blocks: int) -> Tensor:
    if blocks == 1:
        return stacked
    if stacked.shape[0] % blocks:
        raise ValueError(f"{stacked.shape[0]} rows do not split into {blocks} blocks")
    return torch.block_diag(*stacked.chunk(blocks, dim=0))
