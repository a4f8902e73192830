"""torch.save's zip archives, opened without reading a tensor: torch tells where each lies in the file."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from asym_analysis.adapters.containers.archive import checked_entries
from asym_analysis.adapters.containers.pickle_opcodes import inspect_pickle
from asym_analysis.adapters.containers.pickled import flatten, weights_only
from asym_analysis.adapters.containers.raw_tensor import Contents, FileStamp, RawTensor
from asym_analysis.errors import AdapterFormatError, NotAnAdapterError

__all__ = ["open_torch_zip"]


def open_torch_zip(path: Path) -> Contents:
    """Read the names, shapes and places of the tensors in a file that `torch.save` wrote.

    Raises
    ------
    NotAnAdapterError
        If it is a TorchScript archive.
    AdapterFormatError
        If the archive is damaged or unsafe, or holds more than tensors and plain values.
    """
    entries = checked_entries(path)
    by_name = {entry.name.rpartition("/")[2]: entry for entry in entries}
    if "constants.pkl" in by_name:
        raise NotAnAdapterError(f"{path} is a TorchScript program: save the adapter's state_dict instead")
    pickles = [entry for entry in entries if entry.name.endswith("data.pkl")]
    if len(pickles) != 1 or "data.pkl" not in by_name or any(entry.compressed for entry in entries):
        raise AdapterFormatError(
            f"{path} is a zip archive but not as torch.save writes one, which packs data.pkl and stores all"
        )
    if "byteorder" in by_name and by_name["byteorder"].read() != b"little":
        raise AdapterFormatError(f"{path} was written on a big-endian machine: save it again as safetensors")
    inspect_pickle(io.BytesIO(by_name["data.pkl"].read()), path)
    tensors, plain = flatten(weights_only(path, map_location="meta"), path)
    sizes = {entry.offset: entry.size for entry in entries}
    raw = {name: _raw(name, tensor, by_name["data.pkl"].stamp, sizes) for name, tensor in tensors.items()}
    return Contents({name: tensor.source() for name, tensor in raw.items()}, plain, "torch zip")


def _raw(name: str, tensor: Tensor, stamp: FileStamp, sizes: dict[int, int]) -> RawTensor:
    begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)  # torch's note for "meta" loads
    first = int(tensor.storage_offset()) * tensor.element_size()
    raw = RawTensor(stamp, (begin or 0) + first, tensor.dtype, tuple(tensor.shape), tensor.stride())
    if begin not in sizes or first + raw.extent * tensor.element_size() > sizes[begin]:
        raise AdapterFormatError(
            f"{stamp.path}: tensor {name!r} of shape {tuple(tensor.shape)} does not fit the bytes stored for it: the "
            "file is damaged; fetch it again"
        )
    return raw
