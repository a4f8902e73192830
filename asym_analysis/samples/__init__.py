"""Small real adapters, trained by this project, that ship with it: the families of the paper's Figure 1."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import load_adapter

__all__ = ["sample_adapters"]

_FOLDER = Path(__file__).parent


def sample_adapters() -> AdapterSet:
    """Give the adapters that ship with the package, with one row each on how they were trained.

    Returns
    -------
    AdapterSet
        Rank-8 adapters of the query and value projections of a MiniLM encoder. The table's columns are those of
        `runs.csv`: name, family, task, seed, init_seed, rank, steps, learning_rate, metric, value, baseline. Every
        adapter holds the initial value of A, so `adapter.initial` is known. `samples/README.md` says how they were
        made.

    Examples
    --------
    >>> adapters = sample_adapters()
    >>> adapters.table["family"].nunique(), len(adapters.modules)
    (3, 12)
    """
    table = pd.read_csv(_FOLDER / "runs.csv")
    return AdapterSet([load_adapter(_FOLDER / name) for name in table["name"]], table)
