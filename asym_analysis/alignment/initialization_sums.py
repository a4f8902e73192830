"""What a shared initialization needs of all pairs, taken from the products that the comparison computes anyway.

The bases of a comparison are the polar factors (F F^T)^{-1/2} F of the factors: the diagonals of their products are at
hand, and the sum of all squares is the overlap. No second product of whole factors is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.initialization_evidence import PairSums
from asym_analysis.subspaces.measures import Frames, Measure

__all__ = ["InitializationSums"]


class InitializationSums:
    """Sums over the products of the polar factors' rows, block by block.

    Parameters
    ----------
    frames
        Bases of factors of full rank of several modules, with their coordinates, as measures of subspaces prepare them.
    """

    def __init__(self, frames: Frames) -> None:
        self.rank = frames.rank
        root = frames.other["coordinates"].double()
        self._gram = root @ root
        self._sums = frames.rows.new_zeros(2, *self.rank.shape, self.rank.shape[-1])

    @classmethod
    def beside(cls, measure: Measure, frames: Frames, ranks: Sequence[int]) -> InitializationSums | None:
        """Sums beside a comparison; None where the measure forms other products, or a factor has not its full rank.

        Parameters
        ----------
        measure
            What is compared.
        frames
            Of all adapters that have the modules.
        ranks
            Rows of each one's factor.

        Returns
        -------
        InitializationSums or None
            To be given to `all_pairs`.
        """
        if measure.name != "overlap" or frames.rank.reshape(-1).tolist() != list(ranks):
            return None
        return cls(frames)

    def add(
        self, modules: int | slice, first: slice, second: slice, products: Float[Tensor, "*modules n p m q"]
    ) -> None:
        """Take what is needed of one block.

        Parameters
        ----------
        modules
            Which module, or all.
        first, second
            Adapters of the block, by row and by column.
        products
            Of the rows of their polar factors.
        """
        diagonal = products.diagonal(dim1=-3, dim2=-1).contiguous()
        self._sums[0, modules, first, second] = diagonal.sum(-1)
        self._sums[1, modules, first, second] = diagonal.square().sum(-1)

    def found(self, overlap: Float[Tensor, "*modules n n"]) -> PairSums:
        """The sums of all pairs, once every block is added.

        Parameters
        ----------
        overlap
            The values that were compared; those above the diagonal are looked at.

        Returns
        -------
        PairSums
            Symmetric.
        """
        least = torch.minimum(self.rank[..., :, None], self.rank[..., None, :])
        upper = torch.stack([*self._sums, overlap * least]).triu()
        trace, square, total = (upper + upper.triu(1).mT).float().cpu()
        return PairSums(trace, square, total, self._gram.cpu())
