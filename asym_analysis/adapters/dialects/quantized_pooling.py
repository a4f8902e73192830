"""QA-LoRA: A reads the means of groups of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["PooledPair"]


@dataclass(frozen=True)
class PooledPair:
    """A pair whose A (rank, d_in / group) reads the mean of each group of inputs, times the number of groups.

    As a matrix on the inputs themselves, each column of A is repeated over its group and divided by the group's size
    (Xu et al., 2024, section 3.3; PEFT's `QALoraLinearVariant`).

    Examples
    --------
    >>> import torch
    >>> A, B = PooledPair(group=2)({"A": torch.tensor([[1.0, 3.0]]), "B": torch.ones(1, 1)})
    >>> A.tolist()
    [[1.0, 1.0, 3.0, 3.0]]
    """

    group: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A on the inputs themselves, B)."""
        A = tensors["A"]
        return A.repeat_interleave(self.group, dim=1) * (A.shape[1] / self.group), tensors["B"]
