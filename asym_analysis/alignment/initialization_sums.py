"""What a shared initialization needs of all pairs, taken from the products that the comparison computes anyway.

With F = C Q (coordinates in an orthonormal basis) the polar factor is P = W Q, W = (C C^T)^{-1/2} C, an orthonormal
basis of the same rows. A comparison of polar factors has the diagonals of their products at hand, and the sum of all
squares is the overlap: no second product of whole factors is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.initialization import PairSums, inverse_root
from asym_analysis.subspaces.measures import Frames, Measure

__all__ = ["InitializationSums"]


class InitializationSums:
    """Sums over the products of the polar factors' rows, block by block.

    Attributes
    ----------
    frames
        To be compared: the polar factors in place of the bases that were given.
    """

    def __init__(self, frames: Frames) -> None:
        coordinates = frames.other["coordinates"]
        wide = coordinates.double()
        self._gram = wide @ wide.mT
        rotation = inverse_root(self._gram).to(coordinates) @ coordinates
        self.frames = replace(frames, rows=rotation @ frames.rows)
        self._sums = frames.rows.new_zeros(2, len(frames), len(frames))

    @classmethod
    def beside(cls, measure: Measure, frames: Frames, ranks: Sequence[int]) -> InitializationSums | None:
        """Sums beside a comparison; None where the measure forms other products, or a factor has not its full rank.

        Parameters
        ----------
        measure
            What is compared.
        frames
            Of all adapters that have the module.
        ranks
            Rows of each one's factor.

        Returns
        -------
        InitializationSums or None
            To be given to `all_pairs`, with its frames.
        """
        if measure.name != "overlap" or frames.rank.tolist() != list(ranks):
            return None
        return cls(frames)

    def add(self, start: int, stop: int, products: Float[Tensor, "n p m q"]) -> None:
        """Take what is needed of one block.

        Parameters
        ----------
        start, stop
            Adapters of the block, against all from `start` on.
        products
            Of the rows of their polar factors.
        """
        diagonal = products.diagonal(dim1=1, dim2=3)
        self._sums[0, start:stop, start:] = diagonal.sum(-1)
        self._sums[1, start:stop, start:] = diagonal.square().sum(-1)

    def found(self, overlap: Float[Tensor, "n n"]) -> PairSums:
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
        least = torch.minimum(self.frames.rank[:, None], self.frames.rank)
        upper = torch.stack([*self._sums, overlap * least]).triu()
        trace, square, total = (upper + upper.triu(1).mT).float().cpu()
        return PairSums(trace, square, total, self._gram.cpu())
