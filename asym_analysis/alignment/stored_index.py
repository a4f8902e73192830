"""An index of adapters in a folder: written once, opened without opening any adapter, refused where it does not fit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapters, load_adapter
from asym_analysis.alignment.adapter_index import AdapterIndex, Collection
from asym_analysis.alignment.random_features import probe
from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.results import plain

__all__ = ["load_index", "save_index"]

NOTE, VECTORS, LEVELS, SPREADS = "index.json", "vectors.npy", "levels.npy", "spreads.npy"


@dataclass(frozen=True)
class _OnDisk(Sequence[Adapter]):
    """Adapters that are opened when they are asked for, each refused where its file has changed."""

    names: tuple[str, ...]
    files: tuple[tuple[str, int, int] | None, ...]  # path, size, time of the last change

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: Any) -> Any:
        name, file = self.names[place], self.files[place]
        if file is None:
            raise AdapterError(f"{name} was indexed from memory: give the collection to load_index, with adapters=")
        path, *stamp = file
        status = os.stat(path) if os.path.exists(path) else None
        if status is None or [status.st_size, status.st_mtime_ns] != stamp:
            raise AdapterError(f"{path} has changed since it was indexed, or is gone: make the index again")
        return load_adapter(path, name=name)


def save_index(index: AdapterIndex, folder: str | os.PathLike[str]) -> None:
    """Write an index to a folder: its vectors, names and settings, and where its adapters lie.

    Parameters
    ----------
    index : AdapterIndex
        From `index_adapters`.
    folder : path
        Made where it does not exist. An index that it holds is replaced.

    Examples
    --------
    >>> import tempfile, torch
    >>> from asym_analysis import index_adapters
    >>> run = Adapter.from_factors({"q": (torch.eye(2, 8), torch.ones(4, 2))}, name="toy")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_index(index_adapters(run, features=64), folder)
    ...     load_index(folder, adapters=run)
    AdapterIndex(1 adapters by B, 64 features of 1 modules)
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, values in ((VECTORS, index.vectors), (LEVELS, index.levels), (SPREADS, index.spreads)):
        with replacing(place / name) as part, open(part, "wb") as file:
            np.save(file, values)
    held = index.adapters
    files = [_file(held, at) for at in range(len(held))]
    note = {
        "names": list(index.names),
        "modules": list(index.modules),
        "files": files,
        "settings": plain(index.settings),
        "probe": probe(index.settings["seed"]),
        "digest": _digest(index.vectors),
    }
    with replacing(place / NOTE) as part:
        part.write_text(json.dumps(note), encoding="utf-8")


def load_index(
    folder: str | os.PathLike[str],
    *,
    adapters: Collection | None = None,
    by: str | None = None,
    features: int | None = None,
    seed: int | None = None,
) -> AdapterIndex:
    """Open an index that `save_index` wrote.

    Parameters
    ----------
    folder : path
        The folder.
    adapters : AdapterSet, source or iterable of these, optional
        The collection, in the order in which it was indexed. Without it adapters are opened from the files that they
        were indexed from, as they are asked for; those that were in memory, or read with options of `load_adapter`,
        must be given.
    by, features, seed : optional
        What the index must have been made with.

    Returns
    -------
    AdapterIndex
        The vectors stay on the disk.

    Raises
    ------
    AdapterError
        If the folder holds no index, a damaged one, one of other adapters, or one whose random vectors this version
        of torch does not draw again.
    ValueError
        If the index was made with other settings than those asked for.

    Examples
    --------
    >>> import tempfile, torch
    >>> from asym_analysis import index_adapters
    >>> run = Adapter.from_factors({"q": (torch.eye(2, 8), torch.ones(4, 2))}, name="toy")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_index(index_adapters(run, features=64), folder)
    ...     load_index(folder, adapters=run, by="B").names
    ('toy',)
    """
    place = Path(folder)
    try:
        note = json.loads((place / NOTE).read_text(encoding="utf-8"))
        vectors = np.load(place / VECTORS, mmap_mode="r")
        levels, spreads = np.load(place / LEVELS), np.load(place / SPREADS)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{place} holds no index of adapters that can be read: make it again") from error
    settings: dict[str, Any] = note["settings"]
    for name, asked in (("by", by), ("features", features), ("seed", seed)):
        if asked is not None and asked != settings[name]:
            raise ValueError(f"the index was made with {name} {settings[name]}, not {asked}: make another")
    if len(vectors) != len(note["names"]) or _digest(vectors) != note["digest"]:
        raise AdapterError(f"{place} is damaged: its vectors are not those that were written; make it again")
    if probe(settings["seed"]) != note["probe"]:
        raise AdapterError(f"{place} was made with random vectors that this version of torch draws otherwise")
    names = tuple(note["names"])
    held: Sequence[Adapter]
    if adapters is None:
        held = _OnDisk(names, tuple(None if file is None else tuple(file) for file in note["files"]))
    else:
        given = as_adapters(adapters)
        if given.names != names:
            raise AdapterError(f"{place} is an index of other adapters than those given, or in another order")
        held = list(given)
    return AdapterIndex(held, names, tuple(note["modules"]), vectors, levels, spreads, settings)


def _file(held: Sequence[Adapter], at: int) -> tuple[str, int, int] | None:
    if isinstance(held, _OnDisk):
        return held.files[at]
    path = getattr(held[at].metadata, "weights", None)
    if path is None:
        return None
    status = os.stat(path)
    return (os.path.abspath(path), status.st_size, status.st_mtime_ns)


def _digest(vectors: np.ndarray) -> str:
    found = hashlib.blake2b(digest_size=16)
    for start in range(0, len(vectors), 1024):
        found.update(np.ascontiguousarray(vectors[start : start + 1024]).tobytes())
    return found.hexdigest()
