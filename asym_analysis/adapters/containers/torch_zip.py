"""torch.save's zip archives, opened without reading a tensor.

torch's unpickler for weights alone is given the inspected pickle, and storages on the "meta" device for those that the
pickle names: the tensors that it builds from them say which record of the archive they lie in, and where. Nothing of
the archive but the pickle reaches torch's readers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch._utils import _validate_loaded_sparse_tensors
from torch._weights_only_unpickler import Unpickler
from torch.storage import TypedStorage, UntypedStorage
from typing_extensions import override

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.archive import ArchiveEntry
from asym_analysis.adapters.containers.pickle_opcodes import inspect_pickle
from asym_analysis.adapters.containers.pickled import flatten, weights_only
from asym_analysis.adapters.containers.raw_tensor import RawTensor
from asym_analysis.errors import AdapterFormatError, NotAnAdapterError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["open_torch_zip"]


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
    described = _Described(pickle)
    tensors, plain = flatten(weights_only(described.load, path), path)
    raw = {name: _raw(name, tensor, records, described.places, path) for name, tensor in tensors.items()}
    return Checkpoint({name: tensor.source() for name, tensor in raw.items()}, header=plain, container="torch zip")


class _Described(Unpickler):
    """What a pickle holds, on the meta device, and the record of each storage by the storage's address."""

    def __init__(self, pickle: bytes) -> None:
        super().__init__(io.BytesIO(pickle), encoding="utf-8")
        self.storages: dict[str, TypedStorage] = {}
        self.places: dict[int, str] = {}

    @override
    def persistent_load(self, pid: tuple[str, Any, str, str, int]) -> TypedStorage:
        _, kind, key, _, length = pid
        if key not in self.storages:
            dtype = torch.uint8 if kind is UntypedStorage else kind.dtype
            bare = UntypedStorage(length * dtype.itemsize, device="meta")
            self.storages[key] = TypedStorage(wrap_storage=bare, dtype=dtype, _internal=True)
            self.places[bare._cdata] = f"data/{key}"
        return self.storages[key]

    @override
    def load(self) -> Any:
        loaded = super().load()
        _validate_loaded_sparse_tensors()  # torch keeps a list of them until this is called
        return loaded


def _raw(name: str, tensor: Tensor, records: dict[str, ArchiveEntry], places: dict[int, str], path: Path) -> RawTensor:
    storage = tensor.untyped_storage()
    record = records.get(places.get(storage._cdata, ""))
    first = int(tensor.storage_offset()) * tensor.element_size()
    if record is not None and storage.nbytes() == record.size:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raw = RawTensor(record.stamp, record.offset + first, dtype, tuple(tensor.shape), tensor.stride())
        if first + raw.extent * tensor.element_size() <= record.size:
            return raw
    raise AdapterFormatError(
        f"{path}: tensor {name!r} of shape {tuple(tensor.shape)} does not fit the bytes stored for it: the file is "
        "damaged; fetch it again"
    )
