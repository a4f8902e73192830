"""torch.save's zip archives, opened without reading a tensor.

torch is given the pickle in a small archive of our own, whose records are empty, and asked to load to the "meta"
device: it notes for each tensor the place of its record there, and so names the record in the real file. Nothing of the
real archive but the inspected pickle reaches torch's readers.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.archive import ArchiveEntry
from asym_analysis.adapters.containers.pickle_opcodes import inspect_pickle
from asym_analysis.adapters.containers.pickled import flatten, weights_only
from asym_analysis.adapters.containers.raw_tensor import RawTensor
from asym_analysis.errors import AdapterFormatError, NotAnAdapterError

__all__ = ["open_torch_zip"]

LOCAL_HEADER_SIZE = 30


def open_torch_zip(path: Path, listed: Sequence[ArchiveEntry]) -> Checkpoint:
    """Read the names, shapes and places of the tensors in a file that `torch.save` wrote, given its checked entries.

    Raises
    ------
    NotAnAdapterError
        If it is a TorchScript archive.
    AdapterFormatError
        If the archive is damaged or unsafe, or holds more than tensors and plain values.
    """
    entries = {entry.name: entry for entry in listed}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in entries):
        raise NotAnAdapterError(f"{path} is a TorchScript program: save the adapter's state_dict instead")
    if len(pickles) != 1 or any(entry.compressed for entry in entries.values()):
        raise AdapterFormatError(
            f"{path} is a zip archive but not as torch.save writes one: a single data.pkl, and nothing compressed"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and entries[f"{folder}byteorder"].read() != b"little":
        raise AdapterFormatError(f"{path} was written on a big-endian machine: save it again as safetensors")
    pickle = bytes(entries[pickles[0]].read())
    inspect_pickle(io.BytesIO(pickle), path)
    records = {name.removeprefix(folder): entry for name, entry in entries.items() if name.startswith(f"{folder}data/")}
    outline, places = _outline(pickle, list(records))
    tensors, plain = flatten(weights_only(outline, path, map_location="meta"), path)
    raw = {name: _raw(name, tensor, records, places, path) for name, tensor in tensors.items()}
    return Checkpoint({name: tensor.source() for name, tensor in raw.items()}, header=plain, container="torch zip")


def _outline(pickle: bytes, records: list[str]) -> tuple[io.BytesIO, dict[int, str]]:
    """An archive of the pickle and of empty records, and where each of those begins in it."""
    archive, places = io.BytesIO(), {}
    with zipfile.ZipFile(archive, "w") as outline:
        outline.writestr("archive/data.pkl", pickle)
        outline.writestr("archive/version", "3\n")
        for record in records:
            begin = archive.tell()
            outline.writestr(f"archive/{record}", b"")
            places[begin + LOCAL_HEADER_SIZE + len(f"archive/{record}".encode())] = record
    archive.seek(0)
    return archive, places


def _raw(name: str, tensor: Tensor, records: dict[str, ArchiveEntry], places: dict[int, str], path: Path) -> RawTensor:
    storage = tensor.untyped_storage()
    record = records.get(places.get(getattr(storage, "_checkpoint_offset", -1), ""))
    first = int(tensor.storage_offset()) * tensor.element_size()
    if record is not None and storage.nbytes() == record.size:
        raw = RawTensor(record.stamp, record.offset + first, tensor.dtype, tuple(tensor.shape), tensor.stride())
        if first + raw.extent * tensor.element_size() <= record.size:
            return raw
    raise AdapterFormatError(
        f"{path}: tensor {name!r} of shape {tuple(tensor.shape)} does not fit the bytes stored for it: the file is "
        "damaged; fetch it again"
    )
