"""An adapter in few coordinates: a fixed random projection onto the trained factors, and a message that decodes.

The trained tensors are w = w_0 + P c: each of their D entries takes one of d coordinates, drawn at random with a sign,
over the square root of how many entries take it, so that the columns of P are orthonormal. The receiver knows w_0, the
seed and the modules; the message carries d, the codebook, the counts and the coded symbols. Its length times ln 2 is
the complexity of an Occam bound, as for every other code (docs/theory.md, sections 5.4 and 5.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import constriction
import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.bits import BitReader, BitWriter
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.quantization import k_means_levels, nearest_level
from asym_analysis.bounds.trained import TensorKey, TrainedTensor, trained_tensors, with_tensors
from asym_analysis.vocabulary import TUNED, Tuned, choose, whole

__all__ = ["Subspace", "SubspaceCode", "check_codes", "decode_subspace", "encode_subspace", "subspace_bits"]

_EXPONENT_BITS, _LEAST_EXPONENT = 8, -192  # of the power of two that scales the codebook


class Subspace:
    """The random subspace of the trained tensors of an adapter around its initialization.

    Parameters
    ----------
    start : Adapter
        The adapter whose recorded initialization is w_0; without one, w_0 is zero.
    dimension : int
        Number of coordinates d.
    tuned : {"B", "A", "both"}
        Factors that the coordinates reach.
    include_head : bool, default True
        Also reach the trained tensors outside the modules.
    seed : int, default 0
        Of the projection: fixed before the data.

    Examples
    --------
    >>> start = Adapter.from_factors({"q": (torch.ones(2, 6), torch.zeros(5, 2))})
    >>> space = Subspace(start, 4, tuned="B")
    >>> space.size, space.tensors(torch.zeros(4))[("q", "B")].shape
    (10, torch.Size([5, 2]))
    """

    def __init__(
        self, start: Adapter, dimension: int, *, tuned: Tuned, include_head: bool = True, seed: int = 0
    ) -> None:
        choose(tuned, TUNED, "tuned")
        self.start, self.tuned, self.include_head, self.seed = start, tuned, include_head, seed
        self.parts: list[TrainedTensor] = list(trained_tensors(start, tuned, include_head=include_head))
        self.size = sum(part.size for part in self.parts)
        self.dimension = whole(dimension, "dimension", least=1, most=max(self.size, 1))
        generator = generator_for(seed, "subspace", self.dimension, self.size)
        # Every coordinate is taken about equally often, so that none is empty.
        order = torch.randperm(self.size, generator=generator)
        self.taken: Int64[Tensor, "D"] = torch.empty(self.size, dtype=torch.int64)
        self.taken[order] = torch.arange(self.size) % self.dimension
        signs = torch.randint(0, 2, (self.size,), generator=generator).float() * 2 - 1
        often = torch.bincount(self.taken, minlength=self.dimension)
        self.weights: Float[Tensor, "D"] = signs / often[self.taken].sqrt()
        self.origin: dict[TensorKey, Tensor] = {
            part.key: torch.zeros(part.shape) if part.read_initial is None else part.read_initial().float()
            for part in self.parts
        }

    def tensors(self, coordinates: Float[Tensor, "d"]) -> dict[TensorKey, Tensor]:
        """The trained tensors at some coordinates; gradients reach the coordinates.

        Parameters
        ----------
        coordinates : tensor of shape (dimension,)
            c.

        Returns
        -------
        dict
            Key of each trained tensor -> w_0 + P c.
        """
        moved = (coordinates[self.taken] * self.weights).split([part.size for part in self.parts])
        return {
            part.key: self.origin[part.key] + value.reshape(part.shape)
            for part, value in zip(self.parts, moved, strict=True)
        }

    def adapter(self, coordinates: Float[Tensor, "d"]) -> Adapter:
        """The adapter at some coordinates.

        Parameters
        ----------
        coordinates : tensor of shape (dimension,)
            c.

        Returns
        -------
        Adapter
            In memory.
        """
        return with_tensors(self.start, self.tensors(coordinates), name=f"{self.start.name}, {self.dimension} numbers")

    def coordinates(self, adapter: Adapter) -> Float[Tensor, "d"]:
        """The coordinates of the point of the subspace nearest to an adapter: P^T (w - w_0).

        Parameters
        ----------
        adapter : Adapter
            With the same modules and shapes.

        Returns
        -------
        Tensor
            Shape (dimension,).
        """
        reached = trained_tensors(adapter, self.tuned, include_head=self.include_head)
        moved = torch.cat([(part.read().float() - self.origin[part.key]).reshape(-1) for part in reached])
        return torch.zeros(self.dimension).index_add_(0, self.taken, moved * self.weights)


@dataclass(frozen=True)
class SubspaceCode:
    """A message from which `decode_subspace` rebuilds `adapter` exactly.

    Attributes
    ----------
    message
        The bytes; the last one is filled up with zeros.
    bits
        Length that a bound charges, in bits.
    parts
        The same length by what it was spent on: settings, levels, counts, symbols.
    adapter
        The adapter at the quantized coordinates, as the receiver has it.
    dimension, levels, seed
        d, the number of levels, and the seed of the projection. The message says the first two; the seed is fixed
        before the data, or one of the number tried.
    """

    message: bytes = field(repr=False)
    bits: int
    parts: dict[str, int]
    adapter: Adapter
    dimension: int
    levels: int
    seed: int

    @property
    def nats(self) -> float:
        """The length in nats."""
        return self.bits * math.log(2.0)


def encode_subspace(
    space: Subspace, coordinates: Float[Tensor, "d"], *, levels: int = 4, codebook: Sequence[float] | None = None
) -> SubspaceCode:
    """Quantize the coordinates of an adapter in a random subspace and code them into one prefix-free message.

    Parameters
    ----------
    space : Subspace
        The subspace; its seed is known to the receiver.
    coordinates : tensor of shape (dimension,)
        c, from training in the subspace (`fit_subspace`) or from `Subspace.coordinates`.
    levels : int, default 4
        Number of levels, at least 2.
    codebook : sequence of float, optional
        The levels themselves, such as learned ones; by default those of k-means.

    Returns
    -------
    SubspaceCode
        The message, its length, and the adapter that it decodes to.

    Raises
    ------
    ValueError
        For fewer than 2 levels, coordinates of another shape, or values that are not finite.

    References
    ----------
    .. [1] S. Lotfi and others, PAC-Bayes compression bounds so tight that they can explain generalization, arXiv
       2211.13609 (2022): quantized coordinates of a random subspace, with a learned codebook.
    .. [2] S. Lotfi and others, Non-vacuous generalization bounds for large language models, arXiv 2312.17173 (2024):
       SubLoRA.
    .. [3] arXiv 2506.00799 (Uni-LoRA): a projection with one entry a row.

    Examples
    --------
    >>> start = Adapter.from_factors({"q": (torch.ones(2, 60), torch.zeros(50, 2))})
    >>> code = encode_subspace(Subspace(start, 20, tuned="B"), torch.linspace(-1, 1, 20), levels=3)
    >>> torch.equal(decode_subspace(code.message, start)["q"].B, code.adapter["q"].B)
    True
    """
    levels = whole(levels if codebook is None else len(codebook), "levels", least=2)
    values = torch.as_tensor(coordinates).detach().float().reshape(-1).numpy()
    if len(values) != space.dimension or not np.isfinite(values).all():
        raise ValueError(f"coordinates must be {space.dimension} finite numbers")
    given = values if codebook is None else np.sort(np.asarray(codebook, dtype=np.float32))
    if not np.isfinite(given).all():
        raise ValueError("codebook holds NaN or infinity")
    # The levels are half precision in units of a power of two near the largest.
    exponent = _exponent(given)
    unit = np.float32(2.0**exponent)
    scaled = k_means_levels(values / unit, levels) if codebook is None else given / unit
    book = _book(scaled.astype(np.float16), exponent)
    symbols = nearest_level(values, book)
    counts = np.bincount(symbols, minlength=levels)
    writer, parts = BitWriter(), {}
    writer.fixed(TUNED.index(space.tuned), 2)
    writer.fixed(int(space.include_head), 1)
    writer.integer(space.dimension)
    writer.integer(levels - 1)
    parts["settings"] = len(writer)
    writer.fixed(exponent - _LEAST_EXPONENT, _EXPONENT_BITS)
    for level in book / unit:
        writer.float16(float(level))
    parts["levels"] = len(writer) - sum(parts.values())
    for count in counts[:-1]:
        writer.fixed(int(count), space.dimension.bit_length())
    parts["counts"] = len(writer) - sum(parts.values())
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(symbols, _model(counts))
    writer.words(encoder.get_compressed())
    parts["symbols"] = len(writer) - sum(parts.values())
    adapter = space.adapter(_quantized(book, symbols))
    return SubspaceCode(writer.to_bytes(), len(writer), parts, adapter, space.dimension, levels, space.seed)


def decode_subspace(message: bytes, known: Adapter, *, seed: int = 0) -> Adapter:
    """Rebuild an adapter from its message and from what the receiver knows.

    Parameters
    ----------
    message : bytes
        From `encode_subspace`; further bytes after its end change nothing.
    known : Adapter
        An adapter with the same modules and shapes, frozen factors and recorded initialization. Its trained tensors
        are never read.
    seed : int, default 0
        Of the projection.

    Returns
    -------
    Adapter
        Equal to the `adapter` field of what `encode_subspace` returned.

    Raises
    ------
    ValueError
        If the message ends too soon, or belongs to an adapter of other shapes.

    Examples
    --------
    >>> start = Adapter.from_factors({"q": (torch.ones(2, 60), torch.zeros(50, 2))})
    >>> code = encode_subspace(Subspace(start, 5, tuned="both", seed=3), torch.randn(5), levels=2)
    >>> torch.equal(decode_subspace(code.message, start, seed=3)["q"].A, code.adapter["q"].A)
    True
    """
    reader = BitReader(message)
    tuned, include_head, dimension, levels = _header(reader)
    space = Subspace(known, dimension, tuned=tuned, include_head=include_head, seed=seed)
    exponent = reader.fixed(_EXPONENT_BITS) + _LEAST_EXPONENT
    book = _book(np.array([reader.float16() for _ in range(levels)], dtype=np.float16), exponent)
    counts = [reader.fixed(dimension.bit_length()) for _ in range(levels - 1)]
    counts.append(dimension - sum(counts))
    decoder = constriction.stream.queue.RangeDecoder(reader.words())
    return space.adapter(_quantized(book, decoder.decode(_model(np.array(counts)), dimension)))


def subspace_bits(message: bytes) -> int:
    """Length of a message in bits, read from the message itself: without what only fills up its last byte.

    Parameters
    ----------
    message : bytes
        From `encode_subspace`.

    Returns
    -------
    int
        What a bound charges.

    Examples
    --------
    >>> start = Adapter.from_factors({"q": (torch.ones(2, 60), torch.zeros(50, 2))})
    >>> code = encode_subspace(Subspace(start, 5, tuned="B"), torch.randn(5), levels=2)
    >>> subspace_bits(code.message) == code.bits
    True
    """
    reader = BitReader(message)
    _, _, dimension, levels = _header(reader)
    reader.fixed(_EXPONENT_BITS + 16 * levels + (levels - 1) * dimension.bit_length())
    reader.words()
    return reader.position


def check_codes(
    codes: Sequence[SubspaceCode], adapter: Adapter, tuned: Tuned, *, head: bool, prior: Adapter | None, tried: int
) -> None:
    """Refuse messages that do not say what a certificate of an adapter charges.

    Parameters
    ----------
    codes
        What the user gave.
    adapter
        The adapter that is certified.
    tuned
        The trained factors that are charged.
    head
        Whether the trained tensors outside the modules are charged, and in the message.
    prior
        The adapter that the subspace is centred on, where it comes from other samples.
    tried
        Number of seeds that are paid for.

    Raises
    ------
    ValueError
        If a message reaches other factors, leaves the head out, or decodes to another adapter than its own; or if the
        messages have more seeds than were paid for.
    """
    seeds = {code.seed for code in codes}
    if len(seeds) > tried:
        raise ValueError(f"the messages come from {len(seeds)} subspaces: pass tried={len(seeds)}, or use one seed")
    known = adapter if prior is None else adapter.replaced(initial=prior)
    for code in codes:
        reached, with_head, _, _ = _header(BitReader(code.message))
        if tuned != "both" and reached != tuned:
            raise ValueError(f"a message reaches {reached!r}, and this certificate charges tuned={tuned!r}")
        if head and not with_head:
            raise ValueError("a message leaves the trained head out: make it with include_head=True")
        decoded = decode_subspace(code.message, known, seed=code.seed)
        for module in decoded:
            own, given = decoded[module], code.adapter[module]
            if not (torch.equal(own.A, given.A) and torch.equal(own.B, given.B) and own.scaling == given.scaling):
                raise ValueError(
                    f"a message decodes to another {module} than that of its adapter: it was made from another "
                    "initialization, frozen factor or prior"
                )


def _header(reader: BitReader) -> tuple[Tuned, bool, int, int]:
    """Trained factors, head, number of coordinates and of levels."""
    number, include_head = reader.fixed(2), bool(reader.fixed(1))
    if number >= len(TUNED):
        raise ValueError("the message names no factors: it was changed, or is none of encode_subspace")
    tuned = TUNED[number]
    return tuned, include_head, reader.integer(), reader.integer() + 1


def _exponent(levels: Float32[np.ndarray, "levels"]) -> int:
    """The power of two that brings the largest level to between one half and one."""
    largest = float(np.abs(levels).max())
    found = math.frexp(largest)[1] if largest > 0 else 0
    return min(max(found, _LEAST_EXPONENT), _LEAST_EXPONENT + (1 << _EXPONENT_BITS) - 1)


def _book(levels: np.ndarray, exponent: int) -> Float32[np.ndarray, "levels"]:
    return levels.astype(np.float32) * np.float32(2.0**exponent)


def _quantized(book: Float32[np.ndarray, "levels"], symbols: Int32[np.ndarray, "d"]) -> Tensor:
    return torch.from_numpy(book[symbols])


def _model(counts: np.ndarray) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
