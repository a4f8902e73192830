"""Scores computed again from what was kept of every development row, on resampled rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

__all__ = ["Outcomes", "read_outcomes", "resampled_scores", "row_weights"]

#: The arrays of one run: "score", or "predicted" and "label"; and "tuning", True for rows that tune.
Outcomes = Mapping[str, np.ndarray]


def read_outcomes(runs: pd.DataFrame, folder: str | Path) -> dict[str, Outcomes]:
    """Read what a sweep kept of every development row.

    Parameters
    ----------
    runs : DataFrame
        The sweep's table, with the column `name`.
    folder : path
        The sweep's folder.

    Returns
    -------
    dict
        Name of a run -> its arrays, for the runs that have them.

    Examples
    --------
    >>> read_outcomes(pd.DataFrame({"name": ["lora-seed-1"]}), "a folder without that run")
    {}
    """
    found: dict[str, Outcomes] = {}
    for name in runs["name"]:
        path = Path(folder) / str(name) / "outcomes.npz"
        if path.is_file():
            with np.load(path) as stored:
                found[str(name)] = dict(stored)
    return found


def row_weights(rows: int, draws: int, seed: int) -> Float[np.ndarray, "draws rows"]:
    """How often each row is drawn in each of several resamples of all rows.

    Parameters
    ----------
    rows, draws
        Numbers of rows and of resamples.
    seed
        Of the draws.

    Returns
    -------
    ndarray
        Whole numbers whose sum in each resample is `rows`.
    """
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(float)


def resampled_scores(
    metric: str, outcomes: Outcomes, weights: Float[np.ndarray, "draws rows"], chosen: np.ndarray
) -> Float[np.ndarray, " draws"]:
    """Score resampled rows.

    Parameters
    ----------
    metric
        "pearson" and "matthews" are computed from predictions and labels; any other is the mean of the rows' scores.
    outcomes
        Of one run.
    weights
        From `row_weights`, for the chosen rows.
    chosen
        Which rows count: a boolean array.

    Returns
    -------
    ndarray
        One score a resample.

    Examples
    --------
    >>> outcomes = {"score": np.array([1.0, 0.0, 1.0, 1.0])}
    >>> float(resampled_scores("accuracy", outcomes, np.ones((1, 3)), np.array([True, True, True, False]))[0])
    0.666...
    """
    total = weights.sum(1)
    if metric not in ("pearson", "matthews"):
        return weights @ outcomes["score"][chosen].astype(float) / total
    # Matthews' coefficient is Pearson's correlation of two binary variables.
    x, y = (outcomes[name][chosen].astype(float) for name in ("predicted", "label"))
    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = weights @ x / total, weights @ y / total
    spread_x, spread_y = weights @ x**2 / total - mean_x**2, weights @ y**2 / total - mean_y**2
    scale = np.sqrt(np.clip(spread_x, 0, None) * np.clip(spread_y, 0, None))
    return np.divide(weights @ (x * y) / total - mean_x * mean_y, scale, out=np.zeros(len(weights)), where=scale > 0)
