"""GGUF, as llama.cpp's converter writes adapters: typed metadata, then a table of tensors, then the tensors.

The table is parsed here because PyPI's `gguf` trusts the counts that a file claims; that package (an extra) is used to
turn quantized blocks into numbers.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.raw_tensor import FileStamp, RawTensor, megabytes
from asym_analysis.errors import AdapterError, AdapterFormatError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["open_gguf"]

VERSIONS = (2, 3)
DTYPES = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
# The scalar types of metadata values, as struct names them.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
MOST_DIMENSIONS = 4
# Python needs many times the bytes that an entry of the tables takes: all must fit in twice the file plus this.
BYTES_AN_ENTRY, ALLOWANCE = 2000, 32_000_000


@dataclass(frozen=True)
class QuantizedTensor:
    """Reads one tensor of quantized blocks, as float32."""

    stamp: FileStamp
    offset: int
    size: int
    kind: int
    shape: tuple[int, ...]

    def __call__(self) -> Tensor:
        """Read the blocks and turn them into numbers."""
        from gguf import GGMLQuantizationType, dequantize

        blocks = self.stamp.read(self.offset, self.size).reshape(*self.shape[:-1], -1)
        try:
            values = dequantize(blocks, GGMLQuantizationType(self.kind))
        except NotImplementedError as error:
            raise AdapterFormatError(
                f"{self.stamp.path} is quantized as {GGMLQuantizationType(self.kind).name}, which the gguf package "
                "cannot turn into numbers: convert the adapter to F16"
            ) from error
        return torch.from_numpy(values.reshape(self.shape).copy())


class _Cursor:
    """Reads forward through a file, never beyond its end."""

    def __init__(self, file: BufferedIOBase, stamp: FileStamp) -> None:
        self.file = file
        self.stamp = stamp
        self.entries = 0

    def take(self, size: int) -> bytes:
        self.need(size)
        return self.file.read(size)

    def need(self, size: int) -> None:
        left = self.stamp.size - self.file.tell()
        if size > left:
            raise AdapterFormatError(
                f"{self.stamp.path} claims {megabytes(size)} more of header where {megabytes(left)} are left in the "
                "file: it was cut short or is damaged; fetch it again"
            )

    def charge(self, entries: int, smallest: int) -> None:
        """Account for entries of a table, each at least so many bytes long, before any is read."""
        self.need(entries * smallest)
        self.entries += entries
        if self.entries * BYTES_AN_ENTRY > 2 * self.stamp.size + ALLOWANCE:
            raise AdapterFormatError(
                f"{self.stamp.path} claims {self.entries:,} entries in a file of {megabytes(self.stamp.size)}: far "
                "more than an adapter needs, so they are not read"
            )

    def number(self, form: str) -> int:
        value: int = struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> object:
        """One metadata value; an array is passed over, and None stands for it."""
        if kind in SCALARS:
            value: object = struct.unpack("<" + SCALARS[kind], self.take(struct.calcsize(SCALARS[kind])))[0]
            return value
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise AdapterFormatError(f"{self.stamp.path} has a metadata value of unknown type {kind}: it is damaged")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            size = count * struct.calcsize(SCALARS[inner])
            self.need(size)
            self.file.seek(size, 1)
        elif inner == TEXT:
            self.charge(count, 8)
            for _ in range(count):
                self.text()
        else:
            raise AdapterFormatError(f"{self.stamp.path} has a metadata array of unknown type {inner}: it is damaged")
        return None


def open_gguf(path: Path) -> Checkpoint:
    """Read the metadata and the table of tensors of a GGUF file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Checkpoint
        Its tensors, still in the file, and its own metadata.

    Raises
    ------
    AdapterFormatError
        If the file is damaged, or of a version or byte order that is not read.
    AdapterError
        If it is quantized and the `gguf` package is missing.
    """
    stamp = FileStamp.of(path)
    with open(path, "rb") as file:
        cursor = _Cursor(file, stamp)
        cursor.take(4)
        version = cursor.number("I")
        if version not in VERSIONS:
            raise AdapterFormatError(
                f"{path} is GGUF of version {version & 0xFFFF or version >> 24} (or big-endian); versions 2 and 3, "
                "little-endian, are read: convert it again"
            )
        tensor_count, value_count = cursor.number("Q"), cursor.number("Q")
        cursor.charge(value_count, 13)
        header = {}
        for _ in range(value_count):
            key, value = cursor.text(), cursor.value(cursor.number("I"))
            if value is not None:
                header[key] = value
        cursor.charge(tensor_count, 24)
        rows = [_row(cursor) for _ in range(tensor_count)]
        start = _aligned(file.tell(), header.get("general.alignment", 32), path)
    tensors = {name: _source(name, shape, kind, start + offset, stamp) for name, shape, kind, offset in rows}
    if len(tensors) < len(rows):
        raise AdapterFormatError(f"{path} holds two tensors of one name: it is damaged; fetch it again")
    return Checkpoint(tensors, header=header, container="gguf")


def _row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = cursor.text(), cursor.number("I")
    if dimensions > MOST_DIMENSIONS:
        raise AdapterFormatError(f"{cursor.stamp.path}: tensor {name!r} has {dimensions} dimensions: it is damaged")
    # ggml counts dimensions from the fastest; torch from the slowest.
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _aligned(offset: int, alignment: object, path: Path) -> int:
    if not isinstance(alignment, int) or not 0 < alignment < 2**31:
        raise AdapterFormatError(f"{path} has the alignment {alignment!r}: it is damaged; fetch it again")
    return -(-offset // alignment) * alignment


def _source(name: str, shape: tuple[int, ...], kind: int, offset: int, stamp: FileStamp) -> TensorSource:
    if kind in DTYPES:
        return RawTensor(stamp, offset, DTYPES[kind], shape).source()
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise AdapterError(f"{stamp.path} is quantized: `pip install asym_analysis[gguf]` to read it") from error
    try:
        quantization = GGMLQuantizationType(kind)
    except ValueError as error:
        raise AdapterFormatError(f"{stamp.path}: tensor {name!r} has the unknown type {kind}: it is damaged") from error
    block, block_bytes = GGML_QUANT_SIZES[quantization]
    size = math.prod(shape) // block * block_bytes
    if not size or shape[-1] % block or offset + size > stamp.size:
        raise AdapterFormatError(
            f"{stamp.path}: tensor {name!r} of shape {shape} as {quantization.name} does not fit the file: it was cut "
            "short or is damaged; fetch it again"
        )
    return TensorSource(shape, quantization.name.lower(), QuantizedTensor(stamp, offset, size, kind, shape))
