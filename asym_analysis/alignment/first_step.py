"""What one gradient step explains: similar B from independent A, with nothing learned in A.

After its first step a run has B = -eta G A^T, with G the gradient of the loss in the weight: B spans a random sketch
of G's column space, and two sketches overlap the more the faster G's spectrum decays (docs/theory.md, section
6.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis._deprecated import FormerTable
from asym_analysis.adapters.module_names import place
from asym_analysis.chance.first_step import mean_sketch_overlap
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["FirstStepOverlap", "first_step_overlap"]

COARSEST = 0.05  # part of the largest singular value above which nothing is rounding of bfloat16
LOOSE = 1 / 30  # part of the usual tolerance above which nothing is rounding of a single product
MOST_DOUBT = 0.02  # difference between two tolerances up to which the overlap is told


class FirstStepOverlap(FormerTable, TableResult):
    """What one gradient step gives two runs in common.

    Attributes
    ----------
    frame
        Two rows a module. Columns:

        - module, layer, projection
        - factor: "B" where A was random and B zero; "A" for the reverse
        - rank: dimension of the subspace that one step reaches, less than the adapters' rank where the gradient has
          fewer singular values; the smaller one of two tasks
        - predicted: expected overlap after one step, from 0 to 1
        - null_mean: mean overlap of random subspaces of those dimensions

        The last three are missing where they depend on singular values that may be rounding of the gradient, of which
        the overlap alone does where only its value depends on them.
    settings
        rank, whether there were two tasks, and versions.
    """

    def summary(self) -> pd.DataFrame:
        """One row a factor: number of modules, and medians over them of predicted and null_mean.

        Returns
        -------
        DataFrame
            factor, modules, predicted, null_mean.
        """
        grouped = self.frame.groupby("factor", sort=False)
        medians = grouped[["predicted", "null_mean"]].median()
        return pd.concat([grouped.size().rename("modules"), medians], axis=1).reset_index()


def first_step_overlap(
    gradients: Mapping[str, Float[Tensor, "d_out d_in"]],
    rank: int,
    others: Mapping[str, Float[Tensor, "d_out d_in"]] | None = None,
) -> FirstStepOverlap:
    """Predict the overlap of B between runs with independent random A, and of A between runs with independent random B.

    Parameters
    ----------
    gradients : mapping of str to float Tensor of shape (d_out, d_in)
        Module -> gradient of the loss in the weight, at the initialization.
    rank : int
        Of both adapters.
    others : mapping of str to float Tensor of shape (d_out, d_in), optional
        Gradients of another task; those of the same one by default.

    Returns
    -------
    FirstStepOverlap
        Two rows a module; see there for the columns.

    Raises
    ------
    ValueError
        If the rank is not a positive whole number, a module is missing among `others` or has another shape there, or a
        gradient is zero or not finite.

    References
    ----------
    docs/theory.md, section 6.6.

    Examples
    --------
    >>> table = first_step_overlap({"q": torch.diag(1.0 / torch.arange(1, 257))}, rank=8)
    >>> table.frame.predicted.round(3).tolist(), table.frame.null_mean.tolist()
    ([0.462, 0.462], [0.03125, 0.03125])
    """
    rank = whole(rank, "rank", least=1)
    rows = []
    for module, gradient in gradients.items():
        if others is not None and module not in others:
            raise ValueError(f"the other task has no gradient of {module}")
        if others is not None and others[module].shape != gradient.shape:
            shapes = tuple(gradient.shape), tuple(others[module].shape)
            raise ValueError(f"the gradients of {module} have the shapes {shapes[0]} and {shapes[1]}")
        other = gradient if others is None else others[module]
        for each in (gradient, other):
            if not torch.isfinite(each).all() or not each.any():
                raise ValueError(f"the gradient of {module} {'is zero' if each.isfinite().all() else 'is not finite'}")
        U, S, Vh = one = torch.linalg.svd(gradient.double(), full_matrices=False)
        other_U, other_S, other_Vh = one if others is None else torch.linalg.svd(other.double(), full_matrices=False)
        spectra = S.numpy(), other_S.numpy()
        # A singular value below the rounding of the gradient's own dtype is no direction that B could take.
        rounding = max(torch.finfo(each.dtype).eps for each in (gradient, other))
        tolerance = min(rounding * max(gradient.shape), COARSEST)
        loose = max(tolerance * LOOSE, torch.finfo(torch.float64).eps * max(gradient.shape))  # and of the SVD itself
        reached = _reached(spectra, rank, tolerance, loose)
        overlap = partial(mean_sketch_overlap, S.numpy(), rank)
        if others is None:
            predicted = dict.fromkeys(("B", "A"), _told(overlap, tolerance, loose))
        else:
            cosines = {"B": (U.mT @ other_U).square().numpy(), "A": (Vh @ other_Vh.mT).square().numpy()}
            predicted = {
                name: _told(partial(overlap, other=other_S.numpy(), squared_cosines=c), tolerance, loose)
                for name, c in cosines.items()
            }
        for factor, size in (("B", gradient.shape[0]), ("A", gradient.shape[1])):
            row: dict[str, Any] = {"factor": factor, "rank": None, "predicted": math.nan, "null_mean": math.nan}
            if reached is not None:
                row |= {"rank": min(reached), "predicted": predicted[factor], "null_mean": max(reached) / size}
            rows.append({**place(module), **row})
    columns = ["module", "layer", "projection", "factor", "rank", "predicted", "null_mean"]
    frame = pd.DataFrame(rows, columns=columns).astype(
        {"layer": "Int64", "rank": "Int64", "predicted": float, "null_mean": float}
    )
    return FirstStepOverlap(frame, settings_of(rank=rank, two_tasks=others is not None))


def _told(overlap: Callable[..., float], tolerance: float, loose: float) -> float:
    """The overlap, unless it depends on what is taken for rounding."""
    told = overlap(tolerance=tolerance)
    return told if abs(told - overlap(tolerance=loose)) <= MOST_DOUBT else math.nan


def _reached(
    spectra: tuple[Float[np.ndarray, "n"], ...], rank: int, tolerance: float, loose: float
) -> list[int] | None:
    """Dimension that a step reaches in each task; None where it depends on what is taken for rounding."""
    found = [
        [min(rank, int((values > part * values.max()).sum())) for values in spectra] for part in (tolerance, loose)
    ]
    return found[0] if found[0] == found[1] else None
