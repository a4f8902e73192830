"""An adapter as a message: quantized, entropy-coded for real, prefix-free, and decoded back.

The receiver knows what was fixed before the data were seen: the base model, the adapted modules with their shapes and
scalings, the factors that stay frozen and the recorded initialization. Everything else is in the message and charged:
which factors are tuned, how levels were placed and how many, codebooks, scales, symbol counts, the coded symbols and
their length. Its length times ln 2 is the complexity of an Occam bound (docs/theory.md, sections 5.4 and 5.6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import constriction
import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.bits import BitReader, BitWriter
from asym_analysis.bounds.quantization import even_levels, k_means_levels, nearest_level
from asym_analysis.bounds.trained import TensorKey, TrainedTensor, trained_tensors, with_tensors
from asym_analysis.errors import AdapterValueError
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import TUNED, Tuned, choose, whole

__all__ = ["EncodedAdapter", "Placement", "decode_adapter", "encode_adapter", "relative_error"]

Placement = Literal["even", "k-means"]
_SCALE_BITS, _STEPS = 6, 4  # bits of one tensor's scale, and steps of it in a factor of two
_ZERO = (1 << _SCALE_BITS) - 1  # marks a tensor that did not move
PLACEMENTS: tuple[Placement, ...] = ("even", "k-means")


@dataclass(frozen=True)
class EncodedAdapter:
    """A message from which `decode_adapter` rebuilds `adapter` exactly.

    Attributes
    ----------
    message
        The bytes; the last one is filled up with zeros.
    bits
        Length that a bound charges, in bits.
    parts
        The same length by what it was spent on: settings, scales, levels, counts, symbols.
    adapter
        The quantized adapter, as the receiver has it.
    """

    message: bytes = field(repr=False)
    bits: int
    parts: dict[str, int]
    adapter: Adapter

    @property
    def nats(self) -> float:
        """The length in nats."""
        return self.bits * float(np.log(2.0))


def encode_adapter(
    adapter: Adapter,
    *,
    tuned: Tuned = "both",
    include_head: bool = True,
    levels: int = 16,
    placement: Placement = "k-means",
    shared: bool = True,
    progress: bool = False,
) -> EncodedAdapter:
    """Quantize the trained tensors of an adapter and code them into one prefix-free message.

    Where the adapter recorded its initialization, the difference from it is coded.

    Parameters
    ----------
    adapter : Adapter
        What to encode.
    tuned : {"B", "A", "both"}, default "both"
        Factors that the message carries; the other is known to the receiver.
    include_head : bool, default True
        Also carry the trained tensors that belong to no module; without them the bound is for a head fixed beforehand.
    levels : int, default 16
        Number of levels, at least 2.
    placement : {"even", "k-means"}, default "k-means"
        "even": from minus to plus the largest entry of each tensor; "k-means": where the entries are.
    shared : bool, default True
        One codebook and one table of counts for all tensors (each with its own scale), or one for each tensor.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    EncodedAdapter
        The quantized adapter, its message and the length of that in bits.

    Raises
    ------
    ValueError
        For fewer than 2 levels.
    AdapterError
        If a tensor cannot be read.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(4, 64), torch.randn(32, 4))})
    >>> coded = encode_adapter(adapter, levels=8)
    >>> decoded = decode_adapter(coded.message, adapter)
    >>> torch.equal(decoded["q"].A, coded.adapter["q"].A)
    True
    """
    whole(levels, "levels", least=2)
    choose(placement, PLACEMENTS, "placement")
    tensors = list(trained_tensors(adapter, tuned, include_head=include_head))
    writer, parts = BitWriter(), Counter[str]()
    writer.fixed(TUNED.index(tuned), 2)
    for flag in (include_head, shared, placement == "k-means"):
        writer.fixed(int(flag), 1)
    writer.integer(levels - 1)
    parts["settings"] = len(writer)

    largest = [_largest(tensor) for tensor in tqdm(tensors, desc="scales", disable=not progress)]
    before = len(writer)
    scales = _write_scales(writer, largest)
    parts["scales"] = len(writer) - before

    encoder = constriction.stream.queue.RangeEncoder()
    values: dict[TensorKey, Tensor] = {}
    used = [(tensor, scale) for tensor, scale in zip(tensors, scales, strict=True) if scale > 0]
    groups = [used] if shared else [[one] for one in used]
    for group in tqdm(groups, desc="coding", disable=not progress or shared):
        if not group:
            continue
        book = _codebook(group, levels, placement)
        symbols = [
            nearest_level(_normalized(tensor, scale), book)
            for tensor, scale in tqdm(group, desc="quantizing", disable=not progress or not shared)
        ]
        counts = np.sum([np.bincount(one, minlength=levels) for one in symbols], axis=0)
        _write_codebook(writer, parts, book if placement == "k-means" else None, counts)
        model = _model(counts)
        for (tensor, scale), one in zip(group, symbols, strict=True):
            encoder.encode(one, model)
            values[tensor.key] = _rebuild(tensor, one, book, scale)
    for tensor, scale in zip(tensors, scales, strict=True):
        if scale == 0:
            values[tensor.key] = _rebuild(tensor, None, even_levels(2), scale)
    before = len(writer)
    writer.words(encoder.get_compressed())
    parts["symbols"] = len(writer) - before
    coded = with_tensors(adapter, values, name=f"{adapter.name}, {levels} levels")
    return EncodedAdapter(writer.to_bytes(), len(writer), dict(parts), coded)


def decode_adapter(message: bytes, known: Adapter) -> Adapter:
    """Rebuild the quantized adapter from its message and from what the receiver knows.

    Parameters
    ----------
    message : bytes
        From `encode_adapter`; further bytes after its end change nothing.
    known : Adapter
        An adapter with the same modules and shapes, frozen factors and recorded initialization. Its trained tensors
        are never read.

    Returns
    -------
    Adapter
        Equal to the `adapter` field of what `encode_adapter` returned.

    Raises
    ------
    ValueError
        If the message ends too soon.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(4, 64), torch.randn(32, 4))})
    >>> coded = encode_adapter(adapter, levels=4)
    >>> torch.equal(decode_adapter(coded.message, adapter)["q"].B, coded.adapter["q"].B)
    True
    """
    reader = BitReader(message)
    tuned = TUNED[reader.fixed(2)]
    include_head, shared, by_k_means = (bool(reader.fixed(1)) for _ in range(3))
    levels = reader.integer() + 1
    tensors = list(trained_tensors(known, tuned, include_head=include_head))
    scales = _read_scales(reader, len(tensors))
    used = [(tensor, scale) for tensor, scale in zip(tensors, scales, strict=True) if scale > 0]
    books = []
    for group in [used] if shared else [[one] for one in used]:
        if group:
            books.append(_read_codebook(reader, levels, by_k_means, sum(tensor.size for tensor, _ in group)))
    decoder = constriction.stream.queue.RangeDecoder(reader.words())
    models = [(book, _model(counts)) for book, counts in books]
    values: dict[TensorKey, Tensor] = {}
    for index, (tensor, scale) in enumerate(used):
        book, model = models[0 if shared else index]
        values[tensor.key] = _rebuild(tensor, decoder.decode(model, tensor.size), book, scale)
    for tensor, scale in zip(tensors, scales, strict=True):
        if scale == 0:
            values[tensor.key] = _rebuild(tensor, None, even_levels(2), scale)
    return with_tensors(known, values)


def relative_error(approximate: Adapter, exact: Adapter, modules: Iterable[str] | None = None) -> float:
    """||dW' - dW||_F / ||dW||_F over all modules, from the factors.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2, 4), torch.eye(3, 2))})
    >>> relative_error(adapter, adapter)
    0.0
    """
    apart, whole = 0.0, 0.0
    for module in modules or exact:
        new, old = approximate[module], exact[module]
        A, B = torch.cat([new.A, old.A]).double(), torch.cat([new.scaling * new.B, -old.scaling * old.B], 1).double()
        apart += max(updates.inner_product(A, B, A, B).item(), 0.0)
        whole += old.frobenius_norm() ** 2
    if whole == 0.0:
        return 0.0 if apart == 0.0 else float("inf")
    error = (apart / whole) ** 0.5
    return error if error > 1e-7 else 0.0  # below this the cancellation of two equal terms is all there is


def _write_scales(writer: BitWriter, largest: list[np.float32]) -> list[np.float32]:
    """Write the largest entry of all in 32 bits and each tensor's scale as a power of 2^(-1/4) of it in 6."""
    top = max(largest, default=np.float32(0))
    writer.float32(float(top))
    steps = [_ZERO if one == 0 else min(int(_STEPS * np.log2(float(top) / float(one))), _ZERO - 1) for one in largest]
    for step in steps:
        writer.fixed(step, _SCALE_BITS)
    return [_scale(top, step) for step in steps]


def _read_scales(reader: BitReader, count: int) -> list[np.float32]:
    top = np.float32(reader.float32())
    return [_scale(top, reader.fixed(_SCALE_BITS)) for _ in range(count)]


def _scale(top: np.float32, step: int) -> np.float32:
    return np.float32(0) if step == _ZERO else np.float32(float(top) * 2.0 ** (-step / _STEPS))


def _difference(tensor: TrainedTensor) -> Float32[np.ndarray, "n"]:
    value = tensor.read().float()
    if tensor.read_initial is not None:
        value = value - tensor.read_initial().to(value)
    if not torch.isfinite(value).all():
        raise AdapterValueError(f"{tensor.key[1]} of {tensor.key[0]} holds NaN or infinity")
    return value.reshape(-1).numpy()


def _largest(tensor: TrainedTensor) -> np.float32:
    difference = _difference(tensor)
    return np.float32(np.abs(difference).max()) if difference.size else np.float32(0)


def _normalized(tensor: TrainedTensor, scale: np.float32) -> Float32[np.ndarray, "n"]:
    return _difference(tensor) / scale


def _codebook(
    group: list[tuple[TrainedTensor, np.float32]], levels: int, placement: Placement
) -> Float32[np.ndarray, "levels"]:
    if placement == "even":
        return even_levels(levels)
    stride = max(1, sum(tensor.size for tensor, _ in group) // 400_000)
    return k_means_levels(np.concatenate([_normalized(*one)[::stride] for one in group]), levels)


def _write_codebook(
    writer: BitWriter, parts: Counter[str], book: Float32[np.ndarray, "levels"] | None, counts: np.ndarray
) -> None:
    before = len(writer)
    for level in book if book is not None else ():
        writer.float16(float(level))
    parts["levels"] += len(writer) - before
    before = len(writer)
    width = int(counts.sum()).bit_length()
    # The last count is what the others leave of the total, which the shapes tell.
    for count in counts[:-1]:
        writer.fixed(int(count), width)
    parts["counts"] += len(writer) - before


def _read_codebook(
    reader: BitReader, levels: int, by_k_means: bool, total: int
) -> tuple[Float32[np.ndarray, "levels"], np.ndarray]:
    book = even_levels(levels)
    if by_k_means:
        book = np.array([reader.float16() for _ in range(levels)], dtype=np.float16).astype(np.float32)
    counts = [reader.fixed(total.bit_length()) for _ in range(levels - 1)]
    return book, np.array([*counts, total - sum(counts)], dtype=np.int64)


def _model(counts: np.ndarray) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


def _rebuild(
    tensor: TrainedTensor,
    symbols: Int32[np.ndarray, "n"] | None,
    book: Float32[np.ndarray, "levels"],
    scale: np.float32,
) -> Tensor:
    """The tensor as encoder and receiver both compute it, in float32 and in this order."""
    difference = np.zeros(tensor.size, np.float32) if symbols is None else book[symbols] * np.float32(scale)
    value = torch.from_numpy(difference).reshape(tensor.shape)
    return value if tensor.read_initial is None else tensor.read_initial().float() + value
