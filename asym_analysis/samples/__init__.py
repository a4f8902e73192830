"""Small real adapters and tables of runs, made by this project, that ship with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from asym_analysis.vocabulary import choose

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter_set import AdapterSet

__all__ = ["sample_adapters", "sample_predictions", "sample_runs", "sample_sweep", "sample_sweeps"]

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
    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.adapters.load import load_adapter

    return AdapterSet([load_adapter(_FOLDER / name) for name in table["name"]], table)


def sample_runs(family: str | None = None) -> pd.DataFrame:
    """Give the tables of the fine-tuning sweeps that ship with the package: every variant, at every rate and seed.

    Parameters
    ----------
    family : str, optional
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
    parts = []
    for name, path in _tables("variants", family).items():
        table = pd.read_csv(path)
        table.insert(0, "family", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def sample_predictions() -> pd.DataFrame:
    """Give what the asymmetry index predicted for those sweeps, and what was measured.

    Returns
    -------
    DataFrame
        A row a task, module ("all" is the whole model) and kind of prediction; `advantage` is by how much training B
        alone beat training A alone, as log(loss A-only / loss B-only), where that was measured.

    Examples
    --------
    >>> sorted(sample_predictions()["kind"].unique())
    ['centred inputs', 'inputs', 'inputs and outputs']
    """
    return pd.concat([pd.read_csv(path) for path in _tables("predictions").values()], ignore_index=True)


def sample_sweep(name: str) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """Give a sweep that ships with the package, with what every development row got.

    Parameters
    ----------
    name : str
        Of the shipped config that made it. `samples/README.md` lists the sweeps, and says of each what it is part of.

    Returns
    -------
    tuple
        The table of `run_sweep`, and outcomes as `score_variants` takes them: name of a run -> its arrays.

    Raises
    ------
    ValueError
        If there is no such sweep.

    Examples
    --------
    >>> runs, outcomes = sample_sweep("regime-map")
    >>> name = runs["name"].iloc[-1]
    >>> name in outcomes, sorted(outcomes[name])
    (True, ['score', 'tuning'])
    """
    folder = _FOLDER / "sweeps"
    choose(name, sample_sweeps(), "name")
    outcomes: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / name / "rows.npz") as stored:
        for key in stored.files:
            run, array = key.rsplit("/", 1)
            outcomes.setdefault(run, {})[array] = stored[key]
    return pd.read_csv(folder / name / "runs.csv"), outcomes


def sample_sweeps() -> list[str]:
    """Name the sweeps that ship with the package.

    Returns
    -------
    list of str
        Each the name of a shipped config.

    Examples
    --------
    >>> "regime-map" in sample_sweeps()
    True
    """
    return sorted(path.name for path in (_FOLDER / "sweeps").glob("*") if path.is_dir())


def _tables(folder: str, family: str | None = None) -> dict[str, Path]:
    """Family -> its table; the one asked for, or all."""
    tables = {path.stem.replace("_", " "): path for path in sorted((_FOLDER / folder).glob("*.csv"))}
    if family is not None and family not in tables:
        raise ValueError(f"there are no runs of family {family!r}; there are {', '.join(tables)}")
    return tables if family is None else {family: tables[family]}
