"""What one gradient step explains: similar B from independent A, with nothing learned in A.

A run that has hardly begun has B = -eta G A^T, with G the gradient of the loss in the weight: B spans a random sketch
of G's column space, and two sketches overlap the more the faster G's spectrum decays (docs/theory.md, section
6.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.first_step import mean_sketch_overlap

__all__ = ["first_step_overlap"]


def first_step_overlap(
    gradients: Mapping[str, Float[Tensor, "d_out d_in"]],
    rank: int,
    others: Mapping[str, Float[Tensor, "d_out d_in"]] | None = None,
) -> pd.DataFrame:
    """Predict the overlap of B between runs with independent random A, and of A between runs with independent random B.

    Parameters
    ----------
    gradients
        Module -> gradient of the loss in the weight, at the start.
    rank
        Of both adapters.
    others
        Gradients of another task; those of the same one by default.

    Returns
    -------
    DataFrame
        module, factor ("B": A was random and B started at zero; "A": the reverse), predicted, null_mean.

    Raises
    ------
    ValueError
        If a module is missing among `others`, or a gradient is zero.

    Examples
    --------
    >>> table = first_step_overlap({"q": torch.diag(1.0 / torch.arange(1, 257))}, rank=8)
    >>> table.predicted.round(3).tolist(), table.null_mean.tolist()
    ([0.462, 0.462], [0.03125, 0.03125])
    """
    rows = []
    for module, gradient in gradients.items():
        if others is not None and module not in others:
            raise ValueError(f"the other task has no gradient of {module}")
        U, S, Vh = torch.linalg.svd(gradient.double(), full_matrices=False)
        # A singular value below the rounding of the gradient's own dtype is no direction that B could take.
        tolerance = torch.finfo(gradient.dtype).eps * max(gradient.shape)
        overlap = partial(mean_sketch_overlap, S.numpy(), rank, tolerance=tolerance)
        if others is None:
            predicted = dict.fromkeys(("B", "A"), overlap())
        else:
            other_U, other_S, other_Vh = torch.linalg.svd(others[module].double(), full_matrices=False)
            cosines = {"B": (U.mT @ other_U).square().numpy(), "A": (Vh @ other_Vh.mT).square().numpy()}
            predicted = {name: overlap(other=other_S.numpy(), squared_cosines=c) for name, c in cosines.items()}
        for factor, size in (("B", gradient.shape[0]), ("A", gradient.shape[1])):
            rows.append((module, factor, predicted[factor], rank / size))
    return pd.DataFrame(rows, columns=["module", "factor", "predicted", "null_mean"])
