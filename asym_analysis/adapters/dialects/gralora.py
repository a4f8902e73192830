"""GraLoRA: the weight in blocks, each with a pair of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BlockwisePair"]


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
