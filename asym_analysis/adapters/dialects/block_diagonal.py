"""Pairs in which one factor is block diagonal, and the file keeps its blocks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BlockDiagonalPair", "MergedLinear"]


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


def _block_diagonal(stacked: Tensor, blocks: int) -> Tensor:
    if blocks == 1:
        return stacked
    if stacked.shape[0] % blocks:
        raise ValueError(f"{stacked.shape[0]} rows do not split into {blocks} blocks")
    return torch.block_diag(*stacked.chunk(blocks, dim=0))
