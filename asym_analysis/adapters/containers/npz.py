"""NumPy archives (MLX's adapters.npz): each array is read on its own, and never with pickles."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.archive import ArchiveEntry
from asym_analysis.errors import AdapterFormatError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["open_npz"]

# MLX stores bfloat16, which NumPy lacks, as two plain bytes.
BFLOAT16 = np.dtype("V2")
LONGEST_HEADER = 10_012  # what NumPy itself reads


@dataclass(frozen=True)
class NpzTensor:
    """Reads one array of an npz archive."""

    entry: ArchiveEntry

    def __call__(self) -> Tensor:
        """Unpack the array, in its stored dtype."""
        data = self.entry.read()
        shape, fortran_order, dtype, begin = _parse_header(data, self.entry)
        values = np.frombuffer(data, dtype=dtype, offset=begin).reshape(shape, order="F" if fortran_order else "C")
        if dtype == BFLOAT16:
            return torch.from_numpy(np.ascontiguousarray(values).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(values, dtype=dtype.newbyteorder("="), order="C"))


def open_npz(entries: Sequence[ArchiveEntry]) -> Checkpoint:
    """Read the headers of the arrays in an npz archive, given its entries, all of which end in .npy.

    Raises
    ------
    AdapterFormatError
        If the archive is damaged or unsafe, or an array holds Python objects.
    """
    tensors = {}
    for entry in entries:
        shape, _, dtype, _ = _parse_header(entry.head(LONGEST_HEADER), entry)
        kind = "bfloat16" if dtype == BFLOAT16 else dtype.name
        tensors[entry.name.removesuffix(".npy")] = TensorSource(shape, kind, NpzTensor(entry))
    return Checkpoint(tensors, container="npz")


def _parse_header(data: bytes | bytearray, entry: ArchiveEntry) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    where = f"{entry.stamp.path}: array {entry.name!r}"
    file = io.BytesIO(data[:LONGEST_HEADER])
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except Exception as error:  # NumPy evaluates the header as a Python literal, which fails in many ways
        raise AdapterFormatError(
            f"{where} has a damaged header ({type(error).__name__}); fetch the file again"
        ) from error
    if dtype.hasobject or dtype.itemsize > 8 or (dtype.kind not in "fiub" and dtype != BFLOAT16):
        raise AdapterFormatError(f"{where} holds {dtype}, not numbers that torch can hold: save it as floats")
    stored = entry.size - file.tell()
    if len(shape) > 32 or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != stored:
        raise AdapterFormatError(
            f"{where} has {stored} bytes where shape {shape} of {dtype} needs another number: the file is damaged"
        )
    return shape, fortran_order, dtype, file.tell()
