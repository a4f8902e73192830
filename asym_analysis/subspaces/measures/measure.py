"""What a similarity measure is: how it prepares one matrix, and how it compares many prepared ones at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.chance.null import Null
from asym_analysis.chance.spectral import ReferenceNull, third_moment
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import scaled
from asym_analysis.subspaces.sources import SOURCES

__all__ = ["FACTORS", "Frames", "Invariance", "Kind", "Measure", "block_norms"]

Invariance = Literal["symmetric", "gauge", "gauge of y", "orthogonal", "scale"]
Kind = Literal["subspace", "matrix", "spectrum", "update"]

# What each kind of measure can be taken of; the first two, or the only one, by default. "right" and "left" are A and B
# in the balanced gauge, so that the defaults never depend on how an update is split into its factors.
FACTORS: dict[Kind, tuple[str, ...]] = {
    "subspace": ("A", "B", "right", "left"),
    "matrix": ("right", "left", "A", "B"),
    "spectrum": ("right", "left"),
    "update": ("update",),
}


@dataclass(frozen=True)
class Frames:
    """What a measure keeps of each of n matrices, so that a pair costs one small product.

    Attributes
    ----------
    rows
        The matrices the pairwise products are taken of: orthonormal bases, or scaled factors. Zero rows pad.
    rank
        Numerical ranks; 0 marks a zero matrix, of which every similarity is NaN.
    other
        Whatever else the measure needs of each matrix, by name, first axis n. "spectrum" holds its singular values,
        descending, where the null distribution depends on them.
    """

    rows: Float[Tensor, "*modules n rank d"]
    rank: Int[Tensor, "*modules n"]
    other: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, chosen: int | slice | Tensor) -> Frames:
        return Frames(self.rows[chosen], self.rank[chosen], {name: value[chosen] for name, value in self.other.items()})

    def by_module(self, modules: int) -> Frames:
        """Split frames of several modules, in order, each with as many matrices.

        Parameters
        ----------
        modules
            Number of modules.

        Returns
        -------
        Frames
            Its tensors have one more axis, the first.
        """
        split = (modules, len(self) // modules)
        return Frames(
            self.rows.unflatten(0, split),
            self.rank.unflatten(0, split),
            {name: value.unflatten(0, split) for name, value in self.other.items()},
        )

    @classmethod
    def joined(cls, parts: list[Frames], order: Tensor) -> Frames:
        """Frames of different ranks put together, padded with zeros; `order` says where each goes."""
        if len(parts) == 1:
            return parts[0]
        place = order.argsort()

        def whole(tensors: list[Tensor]) -> Tensor:
            shape = torch.tensor([tensor.shape[1:] for tensor in tensors]).amax(0).tolist()
            return torch.cat([_padded(tensor, shape) for tensor in tensors])[place]

        other = {name: whole([part.other[name] for part in parts]) for name in parts[0].other}
        return cls(whole([part.rows for part in parts]), whole([part.rank for part in parts]), other)


@dataclass(frozen=True)
class Measure:
    """A similarity, or a distance, between two matrices given by their rows, or between two low-rank updates.

    Attributes
    ----------
    name
        How it is asked for.
    kind
        "subspace" sees row spaces only; "matrix" the rows themselves; "spectrum" the rows of B·A's singular vectors
        scaled by the singular values; "update" both sides of B·A at once.
    invariances
        Changes of the input that leave the value as it is: "symmetric" (swapping the two), "gauge" (X -> GX and Y ->
        HY for all invertible G and H), "gauge of y" (the latter alone), "orthogonal" (the same for orthogonal ones),
        "scale" (X -> cX, Y -> c'Y). Tests are generated from these.
    larger_is_more_similar
        False for distances.
    preparation
        Matrices of one shape -> `Frames`; for kind "update", A and B of one shape. Called by `prepare`.
    compare
        Frames of n and of m matrices -> all n x m values.
    null
        Singular values of the first and of the second matrix, and the dimension d of the space -> the null distribution
        between random directions. For kind "update", d_in and d_out in place of d.
    sees_strengths
        True where the null distribution depends on the singular values, and not on their number alone.
    shape
        n spectra of norm 1 -> what the shape of the null distribution depends on, of shape (n, k).
    classes
        How many spectra of one rank, at most, stand for all that occur in a comparison.
    scales_itself
        True where `preparation` takes care of entries whose squares overflow or vanish.
    of_products
        Where the value is a sum over the products of the rows, divided by the smaller rank: the products, as
        `cross_gram` gives them, with or without further axes in front -> that sum. It may overwrite them.
    """

    name: str
    kind: Kind
    invariances: frozenset[Invariance]
    larger_is_more_similar: bool
    preparation: Callable[..., Frames]
    compare: Callable[[Frames, Frames], Tensor]
    null: Callable[..., ReferenceNull]
    sees_strengths: bool = False
    shape: Callable[[Float[np.ndarray, "n r"]], Float[np.ndarray, "n k"]] = third_moment
    classes: int = 8
    scales_itself: bool = False
    of_products: Callable[[Tensor], Tensor] | None = None

    @property
    def source(self) -> str:
        """Formula and where it stands, as `SOURCES` lists it."""
        return SOURCES[self.name]

    def __call__(self, x: Float[Tensor, "p d"], y: Float[Tensor, "q d"]) -> float:
        """The value for one pair of matrices, given by their rows.

        Raises
        ------
        ValueError
            If the measure is one of updates: give `prepare` both factors, then `compare`.
        """
        if self.kind == "update":
            raise ValueError(f"{self.name} compares updates: prepare(A, B) each, then compare")
        return self.compare(self.prepare(x[None]), self.prepare(y[None])).item()

    def prepare(self, *matrices: Tensor) -> Frames:
        """What the measure keeps of n matrices, given by their rows; of n updates for kind "update".

        Parameters
        ----------
        *matrices
            Shape (n, rank, d), float32 or float64; A of shape (n, rank, d_in) and B of shape (n, d_out, rank) for kind
            "update". Each is scaled by a power of two first, so that no square of an entry overflows or vanishes.

        Returns
        -------
        Frames
            For `compare`.
        """
        return self.preparation(*(matrices if self.scales_itself else map(scaled, matrices)))

    def chance(self, p: int, q: int, *size: int) -> Null:
        """The null distribution between matrices of ranks p and q with equal singular values.

        Parameters
        ----------
        p, q
            Ranks.
        *size
            d, or d_in and d_out for kind "update".

        Returns
        -------
        Null
            With its mean and standard deviation as numbers.
        """
        equal = np.ones(p), np.ones(q)
        return self.null(*equal, *size).null

    @property
    def default_factors(self) -> tuple[str, ...]:
        """What it is taken of unless asked otherwise: A and B, both sides of the update, or the update."""
        return FACTORS[self.kind][:2]


def block_norms(left: Float[Tensor, "n p d"], right: Float[Tensor, "m q d"]) -> Float[Tensor, "n m"]:
    """Squared Frobenius norm of every block of `cross_gram`."""
    gram = cross_gram(left, right)
    # The first sum runs over whole contiguous rows, which is several times faster than summing both axes at once.
    return gram.square_().sum(1).sum(-1)


def _padded(tensor: Tensor, shape: list[int]) -> Tensor:
    whole = tensor.new_zeros(tensor.shape[0], *shape)
    whole[(slice(None), *map(slice, tensor.shape[1:]))] = tensor
    return whole
