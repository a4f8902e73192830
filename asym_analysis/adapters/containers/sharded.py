"""A checkpoint in several files, with an index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.config_files import read_json
from asym_analysis.errors import AdapterFormatError

__all__ = ["inside", "open_sharded"]


def open_sharded(index: Path, open_file: Callable[[Path], Checkpoint]) -> Checkpoint:
    """Open every file that an index names, and gather the tensors in the index's order.

    Parameters
    ----------
    index
        The index: JSON with ``weight_map``, tensor name -> file name.
    open_file
        Opens one file.

    Raises
    ------
    AdapterFormatError
        If the index is damaged, names a file outside its own folder or one that is missing, or disagrees with the
        files.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise AdapterFormatError(f"{index} has no weight_map from tensor names to file names: the index is damaged")
    shards = {file: open_file(inside(index, file)) for file in dict.fromkeys(weight_map.values())}
    tensors: dict[str, TensorSource] = {}
    header: dict[str, Any] = {}
    for name, file in weight_map.items():
        if name not in shards[file].tensors:
            raise AdapterFormatError(f"{index} says that {file} holds {name!r}, which it does not: fetch both again")
        tensors[name] = shards[file].tensors[name]
    for file, shard in shards.items():
        header.update(shard.header)
        for name in shard.tensors:
            if weight_map.get(name) != file:
                raise AdapterFormatError(f"{file} holds {name!r}, which {index} does not place there: fetch both again")
    container = next((shard.container for shard in shards.values()), "safetensors")
    return Checkpoint(tensors, header=header, container=f"sharded {container}")


def inside(index: Path, file: str) -> Path:
    """The path of a shard, after a check that it lies in the index's own folder.

    Parameters
    ----------
    index
        Path of the index.
    file
        File name as the index writes it.

    Raises
    ------
    AdapterFormatError
        If the name is not a plain file name, the file is missing, or it is a link that leaves the folder.
    """
    path = index.parent / file
    plain = file == PurePosixPath(file).name == PureWindowsPath(file).name and file not in ("", ".", "..")
    if not plain or "\0" in file:
        raise AdapterFormatError(f"{index} names the file {file!r}, which is not in its own folder: it is not opened")
    try:
        target, folder = path.resolve(strict=True), index.parent.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise AdapterFormatError(
            f"{index} names the file {file!r}, which is missing: fetch the whole folder"
        ) from error
    # The hub's cache keeps every file of a snapshot as a link to the blobs beside `snapshots`.
    allowed = [folder, *(parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots")]
    if not any(target.is_relative_to(place) for place in allowed):
        raise AdapterFormatError(f"{path} is a link that leaves its folder (to {target}): copy the file there instead")
    return path
