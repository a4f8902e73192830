"""Tensors that stay in their file until they are asked for: a path, an offset, a dtype and a shape."""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from io import FileIO

import numpy as np
from jaxtyping import UInt8

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.errors import AdapterFormatError
from asym_analysis.lazy_torch import Tensor, torch

# Smaller tensors are copied: a mapping each would cost as much, and their number is limited.
MAPPED_SIZE, ALIGNMENT = 2**18, 8
Bytes = UInt8[np.ndarray, "size"]
# Bytes of an entry by the dtype's name in torch, of those that a header names: known without torch.
ITEMSIZES = {
    **dict.fromkeys(("float64", "complex64", "int64", "uint64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}

__all__ = ["ITEMSIZES", "FileStamp", "RawTensor", "megabytes"]


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when its header was read: path, size in bytes, time of its last change in nanoseconds."""

    path: str
    size: int
    modified: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileStamp:
        """Stamp a file that exists."""
        status = os.stat(path)
        return cls(os.fspath(path), status.st_size, status.st_mtime_ns)

    def read(self, offset: int, size: int) -> Bytes:
        """Bytes `offset` to `offset + size`; many of them are mapped (privately), as safetensors and torch do.

        Writing to the array does not change the file. Truncating a mapped file ends the process that reads it: write
        adapters to a new file, and then rename it.

        Raises
        ------
        AdapterFormatError
            If the file is gone, or is no longer the one whose header was read.
        """
        try:
            with FileIO(self.path) as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
                    raise AdapterFormatError(f"{self.path} changed after it was opened: load it again")
                if size >= MAPPED_SIZE and offset % ALIGNMENT == 0:
                    before = offset % mmap.ALLOCATIONGRANULARITY
                    mapped = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=offset - before)
                    return np.frombuffer(mapped, np.uint8, offset=before)
                values, done = np.empty(size, np.uint8), 0
                file.seek(offset)
                while done < size:
                    count = file.readinto(values[done:])  # type: ignore[arg-type]
                    if not count:
                        raise AdapterFormatError(f"{self.path} changed after it was opened: load it again")
                    done += count
                return values
        except OSError as error:
            raise AdapterFormatError(f"{self.path} can no longer be read: {error.strerror}") from error


@dataclass(frozen=True)
class RawTensor:
    """Reads one tensor's bytes, and no others; can be pickled, so another process may read it too.

    Parameters
    ----------
    stamp
        The file.
    offset
        Where the tensor's first entry lies, in bytes.
    dtype
        As stored, by torch's name: "float16".
    shape
        As stored.
    stride
        Steps in entries along each axis; None for a contiguous (C-ordered) tensor.
    """

    stamp: FileStamp
    offset: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.stride is None:  # the usual case, which every tensor of every adapter goes through
            entries = math.prod(self.shape)
            if self.offset >= 0 and 0 < entries * self.itemsize <= self.stamp.size - self.offset:
                return
        if self.offset < 0 or self.offset + self.extent * self.itemsize > self.stamp.size:
            raise AdapterFormatError(
                f"{self.stamp.path}: a tensor of shape {self.shape} reaches beyond the file's end "
                f"({megabytes(self.stamp.size)}): the file was cut short or is damaged; fetch it again"
            )
        if math.prod(max(size, 1) for size in self.shape) >= 2**63:
            raise AdapterFormatError(
                f"{self.stamp.path}: no tensor can have the shape {self.shape}: the file is damaged"
            )
        # A stride of zero repeats entries, so that a small file could name a tensor of any size.
        if math.prod(self.shape) * self.itemsize > self.stamp.size:
            raise AdapterFormatError(
                f"{self.stamp.path}: a tensor of shape {self.shape} is larger than the file "
                f"({megabytes(self.stamp.size)}): it repeats its entries; save it contiguous"
            )

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        known = ITEMSIZES.get(self.dtype)
        return getattr(torch, self.dtype).itemsize if known is None else known

    @property
    def extent(self) -> int:
        """Number of entries from the first to the last that the tensor touches."""
        entries = math.prod(self.shape)
        if entries == 0 or self.stride is None:
            return entries
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def __call__(self) -> Tensor:
        """Read the tensor, in its stored dtype."""
        extent = self.extent
        if extent == 0:
            return torch.empty(self.shape, dtype=getattr(torch, self.dtype))
        stored = self.stamp.read(self.offset, extent * self.itemsize)
        values = torch.frombuffer(stored, dtype=getattr(torch, self.dtype))
        if self.stride is None:
            return values.view(self.shape)
        return values.as_strided(self.shape, self.stride)

    def source(self) -> TensorSource:
        """The lazily read tensor that a checkpoint holds."""
        return TensorSource(shape=self.shape, dtype=self.dtype, read=self)


def megabytes(size: int) -> str:
    """A number of bytes for a message: '17 bytes', '3.2 MB', '10 GB'.

    Examples
    --------
    >>> megabytes(17), megabytes(3_200_000), megabytes(10**10)
    ('17 bytes', '3.2 MB', '10 GB')
    """
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"
