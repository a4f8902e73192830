"""safetensors: a JSON header that says where every tensor lies, then the tensors.

The header is read here rather than through the library so that a tensor is known by its offset, which another process
can read, and so that every refusal says what is wrong. The rules are the library's own: tensors lie end to end, in
any order, without holes, up to the file's last byte.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.raw_tensor import ITEMSIZES, FileStamp, RawTensor, megabytes
from asym_analysis.errors import AdapterFormatError

__all__ = ["open_safetensors"]

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

# Parsed JSON may take many times its text's memory (a list of empty lists: twenty times). A header's values are
# counted before it is parsed, each charged this many bytes, and all must fit in twice the file plus this allowance.
BYTES_A_VALUE, ALLOWANCE = 200, 32_000_000
LONGEST_KEPT = 2**20  # bytes of a header that is remembered


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
    text = _header_text(stamp)
    read = _layout if len(text) <= LONGEST_KEPT else _layout.__wrapped__
    try:
        header, laid_out = read(text, stamp.size)
    except AdapterFormatError as error:
        raise AdapterFormatError(f"{path}{error}") from error
    tensors = {name: RawTensor(stamp, *where).source() for name, where in laid_out.items()}
    return Checkpoint(tensors, header=dict(header), container="safetensors")


def _header_text(stamp: FileStamp) -> bytes:
    with open(stamp.path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > stamp.size - 8:
            raise AdapterFormatError(
                f"{stamp.path} claims a header of {megabytes(size)} in a file of {megabytes(stamp.size)}: "
                "it was cut short or is not a safetensors file; fetch it again"
            )
        return file.read(size)


Where = tuple[int, str, tuple[int, ...]]  # offset in the file, dtype, shape


@lru_cache(maxsize=64)  # adapters of one family have the same header
def _layout(text: bytes, file_size: int) -> tuple[dict[str, str], dict[str, Where]]:
    """What a header says of its file: the texts under `__metadata__`, and where each tensor lies.

    Raises
    ------
    AdapterFormatError
        If it does not fit the file; the message is to be written after the file's name.
    """
    entries = _parsed(text, file_size)
    header = _text_metadata(entries.pop("__metadata__", None))
    data_start, end = 8 + len(text), 0
    found = {name: _tensor(name, entry, data_start, file_size) for name, entry in entries.items()}
    for name, (begin, stop, _) in sorted(found.items(), key=lambda item: item[1][:2]):
        if begin != end:
            raise AdapterFormatError(
                f": tensor {name!r} begins at byte {begin} of the data where {end} was expected: "
                "the header is damaged; fetch the file again"
            )
        end = stop
    if data_start + end != file_size:
        problem = "cut short; fetch it again" if data_start + end > file_size else "followed by bytes of no tensor"
        raise AdapterFormatError(
            f" has {file_size} bytes where its header describes {data_start + end}: it is {problem}"
        )
    return header, {name: where for name, (_, _, where) in found.items()}


def _parsed(text: bytes, file_size: int) -> dict[str, Any]:
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if 4 * len(text) + BYTES_A_VALUE * values > 2 * file_size + ALLOWANCE:
        raise AdapterFormatError(
            f" has a header of {megabytes(len(text))} with {values:,} values in a file of "
            f"{megabytes(file_size)}: far more than its tensors need, so it is not parsed"
        )
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(
            f": the safetensors header is not valid JSON ({type(error).__name__}): the file is damaged; fetch it again"
        ) from error
    if not isinstance(entries, dict) or not text.startswith(b"{"):
        raise AdapterFormatError(": the safetensors header is not a JSON object: the file is damaged")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name stands twice")
    return entries


def _text_metadata(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterFormatError(": __metadata__ in the header must map names to texts: the file is damaged")
    return metadata


def _tensor(name: str, entry: Any, data_start: int, file_size: int) -> tuple[int, int, Where]:
    """Where a tensor begins and stops in the data, and what is needed to read it."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(name, "is not described by dtype, shape and data_offsets: the header is damaged")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape, 64) or not _naturals(offsets, 2) or len(offsets) != 2 or type(entry["dtype"]) is not str:
        raise _malformed(name, "has a malformed dtype, shape or data_offsets: the header is damaged")
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise _malformed(
            name, f"is stored as {entry['dtype']}, which torch cannot hold entry by entry: save it as a float type"
        )
    begin, stop = offsets
    if stop - begin != math.prod(shape) * ITEMSIZES[dtype]:
        raise _malformed(
            name,
            f"has {stop - begin} bytes where {entry['dtype']} of shape {shape} needs "
            f"{math.prod(shape) * ITEMSIZES[dtype]}: the header is damaged; fetch the file again",
        )
    if data_start + stop > file_size:
        raise _malformed(
            name,
            f"claims {megabytes(stop - begin)} up to byte {data_start + stop} of a file of "
            f"{megabytes(file_size)}: the file was cut short; fetch it again",
        )
    return begin, stop, (data_start + begin, dtype, tuple(shape))


def _malformed(name: str, problem: str) -> AdapterFormatError:
    return AdapterFormatError(f": tensor {name!r} {problem}")


def _naturals(values: Any, most: int) -> bool:
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)
