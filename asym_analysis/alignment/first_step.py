"""What one gradient step explains: similar B from independent A, with nothing learned in A.

After its first step a run has B = -eta G A^T, with G the gradient of the loss in the weight: B spans a random sketch
of G's column space, and two sketches overlap the more the faster G's spectrum decays (docs/theory.md, section
6.6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

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
          fewer singular values
        - predicted: expected overlap after one step, from 0 to 1; missing where it depends on singular values that may
          be rounding of the gradient
        - null_mean: mean overlap of random subspaces of that dimension
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
        gradient is zero.

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
        U, S, Vh = torch.linalg.svd(gradient.double(), full_matrices=False)
        # A singular value below the rounding of the gradient's own dtype is no direction that B could take.
        tolerance = torch.finfo(gradient.dtype).eps * max(gradient.shape)
        overlap = partial(mean_sketch_overlap, S.numpy(), rank)
        if others is None:
            predicted = dict.fromkeys(("B", "A"), _told(overlap, tolerance))
        else:
            other_U, other_S, other_Vh = torch.linalg.svd(others[module].double(), full_matrices=False)
            cosines = {"B": (U.mT @ other_U).square().numpy(), "A": (Vh @ other_Vh.mT).square().numpy()}
            predicted = {
                name: _told(partial(overlap, other=other_S.numpy(), squared_cosines=c), tolerance)
                for name, c in cosines.items()
            }
        reached = _reached(S.numpy(), rank, tolerance)
        for factor, size in (("B", gradient.shape[0]), ("A", gradient.shape[1])):
            row = {"factor": factor, "rank": reached, "predicted": predicted[factor], "null_mean": reached / size}
            rows.append({**place(module), **row})
    columns = ["module", "layer", "projection", "factor", "rank", "predicted", "null_mean"]
    frame = pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})
    return FirstStepOverlap(frame, settings_of(rank=rank, two_tasks=others is not None))


def _told(overlap: Callable[..., float], tolerance: float) -> float:
    """The overlap, unless it depends on what is taken for rounding."""
    strict, loose = overlap(tolerance=tolerance), overlap(tolerance=tolerance * LOOSE)
    return strict if abs(strict - loose) <= MOST_DOUBT else float("nan")


def _reached(singular_values: Float[np.ndarray, "n"], rank: int, tolerance: float) -> int:
    return min(rank, int((singular_values > tolerance * singular_values.max(initial=0.0)).sum()))
