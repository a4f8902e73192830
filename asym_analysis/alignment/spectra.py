"""How an adapter spends its rank: singular values of each update, effective and stable rank, and what A0 explains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.base_change import warn_of_changed_base
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, settings_of
from asym_analysis.subspaces import updates

__all__ = ["AdapterSpectra", "adapter_spectra", "spectrum_statistics"]


@dataclass(frozen=True, eq=False, repr=False)
class AdapterSpectra(Result):
    """Spectra of every module of an adapter.

    Attributes
    ----------
    frame
        One row a module. Columns:

        - adapter, module, layer, projection, rank
        - frobenius_norm, spectral_norm: of scaling · B·A
        - effective_rank, stable_rank, participation, rank_90: see `spectrum_statistics`
        - start_norm: of scaling · B·A0, missing where the initial A0 is not known
        - moved_norm: of scaling · B(A - A0), likewise
    singular_values
        One row a module and index. Columns:

        - adapter, module, layer, projection
        - index: from 1
        - singular_value: of scaling · B·A
        - energy, cumulative: its square over the sum of squares, and the sum of these so far
    settings
        adapter, whether its initial factors are known, and versions.
    """

    frame: pd.DataFrame
    singular_values: pd.DataFrame
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "spectra:plot_spectra"

    def __repr__(self) -> str:
        return f"AdapterSpectra({self.settings['adapter']}, {len(self.frame)} modules)"

    def summary(self) -> pd.DataFrame:
        """One row a projection: modules, and medians of the ranks and of the share that A0 explains.

        Returns
        -------
        DataFrame
            projection, modules, rank, effective_rank, stable_rank, rank_90, frobenius_norm, start_share.
        """
        grouped = self.frame.assign(start_share=self.frame.start_norm / self.frame.frobenius_norm).groupby("projection")
        columns = ["rank", "effective_rank", "stable_rank", "rank_90", "frobenius_norm", "start_share"]
        return pd.concat([grouped.size().rename("modules"), grouped[columns].median()], axis=1).reset_index()


def spectrum_statistics(singular_values: Float[np.ndarray, "k"]) -> dict[str, float]:
    """Four counts of the dimensions that a spectrum uses; NaN for the zero matrix.

    Returns
    -------
    effective_rank
        exp of the entropy of s / sum s (Roy and Vetterli, 2007).
    stable_rank
        sum s^2 / max s^2.
    participation
        (sum s^2)^2 / sum s^4.
    rank_90
        Fewest singular values that hold 90 percent of sum s^2.

    Examples
    --------
    >>> spectrum_statistics(np.array([1.0, 1.0, 1.0, 0.0]))["effective_rank"]
    3.0
    """
    s = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1]
    if not s.size or s[0] <= 0:
        return dict.fromkeys(("effective_rank", "stable_rank", "participation", "rank_90"), np.nan)
    s = s / s[0]
    share, energy = s[s > 0] / s.sum(), s**2 / (s**2).sum()
    return {
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "stable_rank": float((s**2).sum()),
        "participation": float(1 / (energy**2).sum()),
        "rank_90": float(np.searchsorted(np.cumsum(energy), 0.9 - 1e-12) + 1),
    }


def adapter_spectra(
    adapter: Adapter | AdapterSet | Source, initial: Adapter | AdapterSet | Source | None = None
) -> AdapterSpectra:
    """Measure the spectrum of every update, and split it into what the initial A and what its movement carry.

    scaling · B·A = scaling · B·A0 + scaling · B(A - A0): the first part is what a frozen A would have given with this
    B. Everything is computed from the factors in float64 (docs/theory.md, sections 3 and 4.4).

    Parameters
    ----------
    adapter : Adapter, AdapterSet or source
        The trained adapter, or anything that `load_adapter` reads. For DoRA the spectrum is that of scaling · B·A
        alone, without the magnitude.
    initial : Adapter, AdapterSet or source, optional
        The initial factors; by default those that the adapter recorded, if any.

    Returns
    -------
    AdapterSpectra
        See there for the columns.

    Raises
    ------
    AdapterError
        If `initial` lacks a module or has another shape there.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> spectra = adapter_spectra(Adapter.from_factors({"q": (A, B)}))
    >>> spectra.frame.stable_rank.tolist()
    [2.0]
    """
    adapter = as_adapter(adapter)
    if len(adapter) == 0:
        raise AdapterError(f"{adapter.name} has no modules")
    first = as_adapter(initial) if initial is not None else adapter.initial
    warn_of_changed_base(adapter, "norms of dW")
    rows, values = [], []
    for module in adapter:
        update = adapter[module]
        s = abs(update.scaling) * updates.singular_values(update.A.double(), update.B.double()).numpy()
        position = {"adapter": adapter.name} | place(module)
        norms = {"frobenius_norm": float(np.linalg.norm(s)), "spectral_norm": float(s.max(initial=0.0))}
        split = dict.fromkeys(("start_norm", "moved_norm"), np.nan) if first is None else _split(update, first, module)
        rows.append({**position, "rank": update.rank, **norms, **spectrum_statistics(s), **split})
        energy = s**2 / max((s**2).sum(), np.finfo(float).tiny)
        order = np.arange(1, len(s) + 1)
        columns = {"index": order, "singular_value": s, "energy": energy, "cumulative": np.cumsum(energy)}
        values.append(pd.DataFrame({**position, **columns}))
    settings = settings_of(adapter=adapter.name, initial_known=first is not None)
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    return AdapterSpectra(frame, pd.concat(values, ignore_index=True).astype({"layer": "Int64"}), settings)


def _split(update: LowRankUpdate, initial: Adapter, module: str) -> dict[str, float]:
    if module not in initial:
        raise AdapterError(f"module {module}: it is missing among the initial factors")
    start = initial[module].A.double()
    if start.shape != update.A.shape:
        raise AdapterError(
            f"module {module}: A has shape {tuple(update.A.shape)}, its initialization {tuple(start.shape)}"
        )
    A, B, scale = update.A.double(), update.B.double(), abs(update.scaling)
    return {
        "start_norm": scale * updates.frobenius_norm(start, B).item(),
        "moved_norm": scale * updates.frobenius_norm(A - start, B).item(),
    }
