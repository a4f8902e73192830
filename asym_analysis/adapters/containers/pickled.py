"""Pickles by torch.save: read only through `torch.load(weights_only=True)`, and only after a look at their opcodes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.pickle_opcodes import inspect_pickle
from asym_analysis.adapters.containers.raw_tensor import FileStamp, megabytes
from asym_analysis.errors import AdapterFormatError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["InMemoryTensor", "flatten", "open_legacy_pickle", "weights_only"]

LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the storages' keys
MOST_NODES, MOST_LEVELS = 500_000, 16


class InMemoryTensor:
    """Reads a tensor that is already in memory; every read gives a copy, so that nobody changes what others read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __call__(self) -> Tensor:
        """Give a copy of the tensor."""
        return self.tensor.clone()

    def snapshot(self) -> None:
        """Keep the values of this moment, whatever becomes of the tensor that was given."""
        self.tensor = self.tensor.detach().clone()

    @classmethod
    def source(cls, tensor: Tensor) -> TensorSource:
        """The tensor as a checkpoint holds it."""
        return TensorSource(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), cls(tensor))


def open_legacy_pickle(path: Path) -> Checkpoint:
    """Read a file in the form that `torch.save` wrote before version 1.6. Its tensors are read at once.

    Raises
    ------
    AdapterFormatError
        If the pickle is unsafe, claims more than the file holds, or holds more than tensors and plain values.
    """
    stamp = FileStamp.of(path)
    with open(path, "rb") as file:
        for _ in range(LEGACY_PICKLES):
            storage_keys = inspect_pickle(file, path)
    tensors, plain = flatten(weights_only(lambda: torch.load(path, map_location="cpu", weights_only=True), path), path)
    if len(storage_keys) < len({tensor.untyped_storage()._cdata for tensor in tensors.values()}):
        # torch would leave them as it found the memory.
        raise AdapterFormatError(f"{path} does not hold the numbers of all its tensors: it is damaged; fetch it again")
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > stamp.size:
            raise AdapterFormatError(
                f"{path}: tensor {name!r} of shape {tuple(tensor.shape)} is larger than the file "
                f"({megabytes(stamp.size)}): it repeats its entries; save it contiguous"
            )
    return Checkpoint(
        {name: InMemoryTensor.source(tensor) for name, tensor in tensors.items()},
        header=plain,
        container="legacy pickle",
    )


def weights_only(load: Callable[[], Any], path: Path) -> Any:
    """What `load` returns; the many exceptions of torch's readers turned into one that names `path`.

    Raises
    ------
    AdapterFormatError
        If torch refuses the file for any reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load()
    except Exception as error:  # hostile bytes reach torch's own parsers, which raise whatever they like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AdapterFormatError(f"{path} cannot be read as a torch checkpoint: {reason[:200]}") from error


def flatten(loaded: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors of a nested checkpoint by their dotted names, and its plain values likewise.

    A mapping that wraps the state dict alone (``{"state_dict": {...}, "epoch": 3}``) is taken off the names. Entries
    of a list are named by their number.

    Raises
    ------
    AdapterFormatError
        If two tensors have one name, a tensor is sparse or quantized, or the nesting has no end.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, object] = {}
    for name, value in _leaves(loaded, path):
        if not isinstance(value, Tensor):
            plain[name] = value
        elif name in tensors:
            raise AdapterFormatError(f"{path} holds two tensors of the name {name!r}: save them under different names")
        elif value.layout != torch.strided or value.is_quantized:
            raise AdapterFormatError(f"{path}: tensor {name!r} is sparse or quantized: save it as a dense float tensor")
        else:
            tensors[name] = value.detach()
    return _unwrapped(loaded, tensors), plain


def _leaves(root: Any, path: Path) -> Iterator[tuple[str, object]]:
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while waiting:
        name, value, level = waiting.pop()
        seen += 1
        if seen > MOST_NODES or level > MOST_LEVELS:
            raise AdapterFormatError(f"{path} nests its tensors too deep to be a state dict: save the state_dict alone")
        if isinstance(value, Mapping):
            children = [(_text(key), child) for key, child in value.items()]
        elif isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            children = [(str(number), child) for number, child in enumerate(value)]
        else:
            if isinstance(value, Tensor | str | int | float | bool):
                yield name, value
            continue
        waiting.extend((f"{name}.{key}" if name else key, child, level + 1) for key, child in reversed(children))


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)[:1000]


def _unwrapped(root: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(root, Mapping) or any(isinstance(value, Tensor) for value in root.values()):
        return tensors
    heads = {name.split(".", 1)[0] for name in tensors}
    wrapper = next(iter(heads)) if len(heads) == 1 else None
    if wrapper is None or not isinstance(root.get(wrapper), Mapping):
        return tensors
    return _unwrapped(root[wrapper], {name.removeprefix(f"{wrapper}."): value for name, value in tensors.items()})
