"""The exact values of an adapter as a message: where entries take few values, a table of them and a symbol for each.

Training on a b-bit grid (quantization-aware training, adapters kept in fp8) leaves tensors, or rows of them, whose
entries take few values. What a message then needs is seen in the values themselves: for each tensor the encoder says in
two bits whether it sends raw entries, one table for the tensor with coded symbols, or a table for each row with symbols
of fixed width; it takes the shortest. Nothing is rounded, so that the bound is for the adapter itself. A base model
that is kept in 4 bits, as in QLoRA, changes nothing: only what was trained is sent.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import constriction
import numpy as np
import torch
from jaxtyping import Int64, UInt64
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.bits import BitReader, BitWriter
from asym_analysis.bounds.trained import TensorKey, TrainedTensor, trained_tensors, with_tensors
from asym_analysis.vocabulary import TUNED, Tuned

__all__ = ["ExactCode", "decode_values", "encode_values", "values_length"]

RAW, WHOLE, ROWS, DOUBLE = 0, 1, 2, 3
_LOOKED_AT, _MANY = 1 << 16, 0.5  # entries looked at first, and the share of distinct ones above which raw is sent


@dataclass(frozen=True)
class ExactCode:
    """A message from which `decode_values` rebuilds every trained value exactly.

    Attributes
    ----------
    message
        The bytes.
    bits
        Length that a bound charges, in bits.
    kinds
        How many tensors were sent in each way: "raw", "one table", "a table for each row".
    """

    message: bytes = field(repr=False)
    bits: int
    kinds: dict[str, int]

    @property
    def nats(self) -> float:
        """The length in nats."""
        return self.bits * math.log(2.0)


@dataclass(frozen=True)
class _Plan:
    """One tensor's shortest way: its length and what it needs."""

    kind: int
    bits: int


_NAMES = ("raw", "one table", "a table for each row", "raw, in double precision")


def values_length(adapter: Adapter, tuned: Tuned = "both", *, include_head: bool = True) -> tuple[int, dict[str, int]]:
    """Length of the message of an adapter's exact values, without writing it.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    tuned : {"B", "A", "both"}, default "both"
        Factors that the message carries; the other is known to the receiver.
    include_head : bool, default True
        Also carry the trained tensors outside the modules.

    Returns
    -------
    bits, kinds
        The length, and how many tensors are sent in each way.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(4, 64).sign(), torch.randn(32, 4).sign())})
    >>> bits, kinds = values_length(adapter)
    >>> bits < 700, kinds  # one bit an entry, tables and counts; 12,288 as they are stored
    (True, {'one table': 2})
    """
    total, kinds = _SETTINGS, Counter[str]()
    for tensor in trained_tensors(adapter, tuned, include_head=include_head):
        plan = _plan_of(tensor)[0]
        total += 2 + plan.bits
        kinds[_NAMES[plan.kind]] += 1
    return total, dict(kinds)


def encode_values(adapter: Adapter, tuned: Tuned = "both", *, include_head: bool = True) -> ExactCode:
    """Write the exact values of an adapter's trained tensors into one prefix-free message.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    tuned : {"B", "A", "both"}, default "both"
        Factors that the message carries; the other is known to the receiver.
    include_head : bool, default True
        Also carry the trained tensors outside the modules.

    Returns
    -------
    ExactCode
        The message and its length.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(4, 64).sign(), torch.randn(32, 4))})
    >>> code = encode_values(adapter)
    >>> torch.equal(decode_values(code.message, adapter)["q"].B, adapter["q"].B)
    True
    """
    writer, kinds = BitWriter(), Counter[str]()
    writer.fixed(TUNED.index(tuned), 2)
    writer.fixed(int(include_head), 1)
    for tensor in trained_tensors(adapter, tuned, include_head=include_head):
        plan, codes, width = _plan_of(tensor)
        writer.fixed(plan.kind, 2)
        before = len(writer)
        if plan.kind in (RAW, DOUBLE):
            for code in codes.reshape(-1).tolist():
                writer.fixed(code, width)
        elif plan.kind == WHOLE:
            table, symbols = np.unique(codes, return_inverse=True)
            _write_table(writer, table, width)
            counts = np.bincount(symbols.reshape(-1))
            for count in counts[:-1]:
                writer.fixed(int(count), codes.size.bit_length())
            writer.words(_compressed(symbols.reshape(-1), counts))
        else:
            for row in codes:
                table, symbols = np.unique(row, return_inverse=True)
                _write_table(writer, table, width)
                for symbol in symbols.reshape(-1).tolist():
                    writer.fixed(symbol, _symbol_width(len(table)))
        assert len(writer) - before == plan.bits
        kinds[_NAMES[plan.kind]] += 1
    return ExactCode(writer.to_bytes(), len(writer), dict(kinds))


def decode_values(message: bytes, known: Adapter) -> Adapter:
    """Rebuild an adapter from the message of its values.

    Parameters
    ----------
    message : bytes
        From `encode_values`.
    known : Adapter
        An adapter with the same modules, shapes, dtypes and frozen factors. Its trained tensors are never read.

    Returns
    -------
    Adapter
        With the trained tensors of the message.

    Raises
    ------
    ValueError
        If the message ends too soon.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 8), torch.ones(4, 1))})
    >>> decode_values(encode_values(adapter).message, adapter)["q"].B.unique()
    tensor([1.])
    """
    reader = BitReader(message)
    tuned, include_head = TUNED[reader.fixed(2)], bool(reader.fixed(1))
    values: dict[TensorKey, Tensor] = {}
    for tensor in trained_tensors(known, tuned, include_head=include_head):
        kind = reader.fixed(2)
        dtype = torch.float64 if kind == DOUBLE else _dtype(tensor)
        width = 8 * dtype.itemsize
        rows, columns = _as_rows(tensor.shape)
        if kind in (RAW, DOUBLE):
            codes = np.array([reader.fixed(width) for _ in range(tensor.size)], dtype=np.uint64)
        elif kind == WHOLE:
            table = _read_table(reader, width)
            counts = [reader.fixed(tensor.size.bit_length()) for _ in range(len(table) - 1)]
            counts.append(tensor.size - sum(counts))
            codes = table[_expanded(reader.words(), np.array(counts))]
        else:
            found = []
            for _ in range(rows):
                table = _read_table(reader, width)
                found.append(table[[reader.fixed(_symbol_width(len(table))) for _ in range(columns)]])
            codes = np.concatenate(found)
        values[tensor.key] = _from_codes(codes, tensor.shape, dtype)
    return with_tensors(known, values)


_SETTINGS = 3


def _plan(codes: UInt64[np.ndarray, "rows columns"], width: int) -> _Plan:
    """The shortest way to send entries."""
    raw = _Plan(RAW, codes.size * width)
    first = codes.reshape(-1)[:_LOOKED_AT]
    if codes.size == 0 or (codes.size > 64 and len(np.unique(first)) > _MANY * len(first)):
        return raw
    table, symbols = np.unique(codes, return_inverse=True)
    counts = np.bincount(symbols.reshape(-1))
    head = _integer_bits(len(table)) + len(table) * width + (len(table) - 1) * codes.size.bit_length()
    # The entropy first: the coder itself is run only where it can win.
    entropy = float(-(counts * np.log2(counts / codes.size)).sum())
    plans = [raw]
    if head + entropy < raw.bits:
        words = len(_compressed(symbols.reshape(-1), counts))
        plans.append(_Plan(WHOLE, head + _integer_bits(words + 1) + 32 * words))
    sizes = [len(np.unique(row)) for row in codes]
    each = sum(_integer_bits(size) + size * width + codes.shape[1] * _symbol_width(size) for size in sizes)
    plans.append(_Plan(ROWS, each))
    return min(plans, key=lambda plan: plan.bits)


def _write_table(writer: BitWriter, table: UInt64[np.ndarray, "k"], width: int) -> None:
    writer.integer(len(table))
    for code in table.tolist():
        writer.fixed(code, width)


def _read_table(reader: BitReader, width: int) -> UInt64[np.ndarray, "k"]:
    return np.array([reader.fixed(width) for _ in range(reader.integer())], dtype=np.uint64)


def _compressed(symbols: Int64[np.ndarray, "n"], counts: np.ndarray) -> np.ndarray:
    encoder = constriction.stream.queue.RangeEncoder()
    if len(counts) > 1:
        encoder.encode(symbols.astype(np.int32), _model(counts))
    return encoder.get_compressed()


def _expanded(words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if len(counts) == 1:
        return np.zeros(int(counts[0]), dtype=np.int64)
    return constriction.stream.queue.RangeDecoder(words).decode(_model(counts), int(counts.sum()))


def _model(counts: np.ndarray) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


def _symbol_width(size: int) -> int:
    return (size - 1).bit_length()


def _integer_bits(value: int) -> int:
    writer = BitWriter()
    writer.integer(value)
    return len(writer)


def _as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    size = math.prod(shape)
    return (shape[0], size // shape[0]) if len(shape) > 1 and shape[0] else (1, size)


def _dtype(tensor: TrainedTensor) -> torch.dtype:
    found = getattr(torch, tensor.dtype, None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _plan_of(tensor: TrainedTensor) -> tuple[_Plan, UInt64[np.ndarray, "rows columns"], int]:
    """The shortest way to send a tensor, its entries' stored bits as whole numbers, and their width."""
    value, dtype = tensor.read(), _dtype(tensor)
    stored = value.to(dtype)
    if not torch.equal(stored.to(value.dtype), value):  # a reader that scales: what it gives is not what is stored
        return _Plan(DOUBLE, 64 * tensor.size), _codes(value.double(), tensor.shape), 64
    codes = _codes(stored, tensor.shape)
    return _plan(codes, 8 * dtype.itemsize), codes, 8 * dtype.itemsize


def _codes(value: Tensor, shape: tuple[int, ...]) -> UInt64[np.ndarray, "rows columns"]:
    size = value.dtype.itemsize
    flat = value.contiguous().reshape(-1)
    stored = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    words = stored.reshape(-1, size).astype(np.uint64)
    codes = (words << (8 * np.arange(size, dtype=np.uint64))).sum(1, dtype=np.uint64)
    return codes.reshape(_as_rows(shape))


def _from_codes(codes: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    stored = codes.reshape(-1).astype("<u8").view(np.uint8).reshape(-1, 8)[:, : dtype.itemsize]
    value = torch.from_numpy(np.ascontiguousarray(stored)).reshape(-1).view(dtype).reshape(shape)
    return value if value.dtype in (torch.float32, torch.float64) else value.float()
