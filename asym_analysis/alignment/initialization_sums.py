"""What a shared initialization needs of all pairs, taken from the products that the comparison computes anyway.

With F = C Q (coordinates in an orthonormal basis) the polar factor is P = W Q, W = (C C^T)^{-1/2} C: the products of
the rows of two polar factors are those of the bases, rotated by two matrices of the rank's size. No second product of
whole factors is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.initialization import PairSums, inverse_root
from asym_analysis.subspaces.measures import Frames, Measure

__all__ = ["InitializationSums"]


class InitializationSums:
    """Sums over the products of the polar factors' rows, block by block.

    Parameters
    ----------
    rotations
        W of every adapter.
    """

    def __init__(self, rotations: Float[Tensor, "n rank k"]) -> None:
        self.rotations = rotations
        self.sums = torch.zeros(3, len(rotations), len(rotations), dtype=rotations.dtype, device=rotations.device)

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
            To be given to `all_pairs`.
        """
        if measure.of_products is None or frames.rank.tolist() != list(ranks):
            return None
        coordinates = frames.other["coordinates"]
        return cls(inverse_root(coordinates.double() @ coordinates.double().mT).to(coordinates) @ coordinates)

    def add(self, start: int, stop: int, products: Float[Tensor, "n p m q"]) -> None:
        """Take what is needed of one block.

        Parameters
        ----------
        start, stop
            Adapters of the block, against all from `start` on.
        products
            Of the rows of their bases.
        """
        count, p, others, q = products.shape
        rotated = torch.bmm(self.rotations[start:stop], products.view(count, p, -1)).view(count, -1, others, q)
        diagonal = torch.einsum("ikjp,jkp->kij", rotated, self.rotations[start:])
        self.sums[0, start:stop, start:] = diagonal.sum(0)
        self.sums[1, start:stop, start:] = diagonal.square().sum(0)
        # A rotation leaves the sum of all squares as it is.
        self.sums[2, start:stop, start:] = rotated.square_().sum(1).sum(-1)

    def found(self) -> PairSums:
        """The sums of all pairs, once every block is added.

        Returns
        -------
        PairSums
            Symmetric.
        """
        upper = self.sums.triu()
        return PairSums(*(upper + upper.triu(1).mT).float().cpu())
