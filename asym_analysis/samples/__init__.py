"""Small real adapters and tables of runs, made by this project, that ship with it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import load_adapter

__all__ = ["sample_adapters", "sample_runs"]

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


def sample_runs(family: str | None = None) -> pd.DataFrame:
    """Give the tables of the fine-tuning sweeps that ship with the package: every variant, at every rate and seed.

    Parameters
    ----------
    family
        One of "encoder", "sequence to sequence", "decoder" and "vision"; all if None.

    Returns
    -------
    DataFrame
        One row a run, in the columns of `run_sweep`'s table, with `family` before them. `samples/README.md` says how
        they were made.

    Raises
    ------
    ValueError
        If there is no such family.

    Examples
    --------
    >>> sample_runs("decoder")["metric"].unique().tolist()
    ['loss']
    """
    tables = {path.stem.replace("_", " "): path for path in sorted((_FOLDER / "variants").glob("*.csv"))}
    if family is not None and family not in tables:
        raise ValueError(f"there are no runs of family {family!r}; there are {', '.join(tables)}")
    chosen = tables if family is None else {family: tables[family]}
    parts = []
    for name, path in chosen.items():
        table = pd.read_csv(path)
        table.insert(0, "family", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)
