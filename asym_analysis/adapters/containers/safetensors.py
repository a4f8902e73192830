"""safetensors: a JSON header that says where every tensor lies, then the tensors.

The header is read here rather than through the library so that a tensor is known by its offset, which another process
can read, and so that every refusal says what is wrong. The rules are the library's own: tensors lie end to end, in
any order, without holes, up to the file's last byte.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.raw_tensor import FileStamp, RawTensor, megabytes
from asym_analysis.errors import AdapterFormatError

__all__ = ["open_safetensors"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7
    DTYPES["F8_E8M0"] = torch.float8_e8m0fnu

# Parsed JSON may take many times its text's memory (a list of empty lists: twenty times). A header's values are
# counted before it is parsed, each charged this many bytes, and all must fit in twice the file plus this allowance.
BYTES_A_VALUE, ALLOWANCE = 200, 32_000_000


def open_safetensors(path: Path) -> Checkpoint:
    """Read the header of a safetensors file.

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
        If the header does not fit the file, is malformed, or the tensors do not fill the file exactly.
    """
    stamp = FileStamp.of(path)
    entries, data_start = _read_header(stamp)
    header = _text_metadata(entries.pop("__metadata__", None), path)
    tensors, end = {}, 0
    for name, (begin, stop, tensor) in sorted(
        ((name, _tensor(name, entry, stamp, data_start)) for name, entry in entries.items()),
        key=lambda item: item[1][:2],
    ):
        if begin != end:
            raise AdapterFormatError(
                f"{path}: tensor {name!r} begins at byte {begin} of the data where {end} was expected: "
                "the header is damaged; fetch the file again"
            )
        tensors[name], end = tensor, stop
    if data_start + end != stamp.size:
        problem = "cut short; fetch it again" if data_start + end > stamp.size else "followed by bytes of no tensor"
        raise AdapterFormatError(
            f"{path} has {stamp.size} bytes where its header describes {data_start + end}: it is {problem}"
        )
    return Checkpoint({name: tensors[name] for name in entries}, header=header, container="safetensors")


def _read_header(stamp: FileStamp) -> tuple[dict[str, Any], int]:
    with open(stamp.path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > stamp.size - 8:
            raise AdapterFormatError(
                f"{stamp.path} claims a header of {megabytes(size)} in a file of {megabytes(stamp.size)}: "
                "it was cut short or is not a safetensors file; fetch it again"
            )
        text = file.read(size)
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if 4 * size + BYTES_A_VALUE * values > 2 * stamp.size + ALLOWANCE:
        raise AdapterFormatError(
            f"{stamp.path} has a header of {megabytes(size)} with {values:,} values in a file of "
            f"{megabytes(stamp.size)}: far more than its tensors need, so it is not parsed"
        )
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(
            f"{stamp.path}: the safetensors header is not valid JSON ({type(error).__name__}): the file is damaged; "
            "fetch it again"
        ) from error
    if not isinstance(entries, dict) or not text.startswith(b"{"):
        raise AdapterFormatError(f"{stamp.path}: the safetensors header is not a JSON object: the file is damaged")
    return entries, 8 + size


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name stands twice")
    return entries


def _text_metadata(metadata: Any, path: Path) -> dict[str, object]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterFormatError(f"{path}: __metadata__ in the header must map names to texts: the file is damaged")
    return metadata


def _tensor(name: str, entry: Any, stamp: FileStamp, data_start: int) -> tuple[int, int, TensorSource]:
    where = _Where(stamp, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise AdapterFormatError(f"{where} is not described by dtype, shape and data_offsets: the header is damaged")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape, 64) or not _naturals(offsets, 2) or len(offsets) != 2 or type(entry["dtype"]) is not str:
        raise AdapterFormatError(f"{where} has a malformed dtype, shape or data_offsets: the header is damaged")
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise AdapterFormatError(
            f"{where} is stored as {entry['dtype']}, which torch cannot hold entry by entry: save it as a float type"
        )
    begin, stop = offsets
    if stop - begin != math.prod(shape) * dtype.itemsize:
        raise AdapterFormatError(
            f"{where} has {stop - begin} bytes where {entry['dtype']} of shape {shape} needs "
            f"{math.prod(shape) * dtype.itemsize}: the header is damaged; fetch the file again"
        )
    if data_start + stop > stamp.size:
        raise AdapterFormatError(
            f"{where} claims {megabytes(stop - begin)} up to byte {data_start + stop} of a file of "
            f"{megabytes(stamp.size)}: the file was cut short; fetch it again"
        )
    return begin, stop, RawTensor(stamp, data_start + begin, dtype, tuple(shape)).source()


@dataclass(frozen=True)
class _Where:
    """Names a tensor in a message, and costs nothing without one."""

    stamp: FileStamp
    name: str

    def __str__(self) -> str:
        return f"{self.stamp.path}: tensor {self.name!r}"


def _naturals(values: Any, most: int) -> bool:
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)
