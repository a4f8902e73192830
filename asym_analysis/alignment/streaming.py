"""Comparisons too large for memory, or too long to lose: each module is written as it is done.

A folder holds `comparison.json`, which says what is compared, `values.npy`, mapped into memory rather than read, and
one small file a module that marks it as done, with a digest of every adapter that it was made from. An interrupted
comparison goes on where it stopped; one whose inputs have changed is refused, by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asym_analysis.alignment.module_pairs import ModulePairs
from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.results import plain

__all__ = ["ComparisonStore"]

SMALL = ("ranks", "shape", "spectra", "initialization")


class ComparisonStore:
    """A folder that a comparison is written to, module by module.

    Parameters
    ----------
    folder
        Made where it does not exist.
    description
        Everything that decides the values. Another description in the folder is an error, never a mixture.
    shape, dtype
        Of all values: modules x factors x pairs.

    Raises
    ------
    AdapterError
        If the folder holds another comparison.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        description: Mapping[str, Any],
        shape: tuple[int, int, int],
        dtype: np.dtype,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {**plain(description), "shape": list(shape), "dtype": str(dtype)}
        note = self.folder / "comparison.json"
        if note.exists():
            if json.loads(note.read_text(encoding="utf-8")) != whole:
                raise AdapterError(f"{self.folder} holds another comparison: give an empty folder, or delete this one")
        else:
            with replacing(note) as part:
                part.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        values = self.folder / "values.npy"
        mode = "r+" if values.exists() else "w+"
        self.values = np.lib.format.open_memmap(values, mode=mode, dtype=dtype, shape=shape)

    def __contains__(self, index: int) -> bool:
        return self._mark(index).exists()

    def write(self, index: int, found: ModulePairs, digests: Sequence[str]) -> None:
        """Keep one module; the mark is written last, once the values are on the disk.

        Parameters
        ----------
        index
            Place of the module.
        found
            Its result.
        digests
            One an adapter, from `module_digests`.
        """
        self.values[index] = found.values
        self.values.flush()
        small = {name: getattr(found, name) for name in SMALL}
        with replacing(self._mark(index)) as part, open(part, "wb") as file:
            np.savez(file, digests=np.array(digests), **small)

    def read(self, index: int) -> ModulePairs:
        """One module that was written; its values stay on the disk.

        Parameters
        ----------
        index
            Place of the module.

        Returns
        -------
        ModulePairs
            As it was written.
        """
        with np.load(self._mark(index)) as small:
            return ModulePairs(self.values[index], **{name: small[name] for name in SMALL})

    def changed(self, index: int, digests: Sequence[str]) -> list[int]:
        """Places of the adapters of which the module was written with another digest.

        Parameters
        ----------
        index
            Place of the module.
        digests
            One an adapter, as they are now.

        Returns
        -------
        list
            Empty where nothing has changed.
        """
        with np.load(self._mark(index)) as small:
            kept = small["digests"].tolist() if "digests" in small else [None] * len(digests)
        return [place for place, (old, new) in enumerate(zip(kept, digests, strict=True)) if old != new]

    def _mark(self, index: int) -> Path:
        return self.folder / f"module-{index:05d}.npz"
