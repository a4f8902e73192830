"""What one gradient step explains: similar B from independent A, with nothing learned in A.

A run that has hardly begun has B = -eta G A^T, with G the gradient of the loss in the weight: B spans a random sketch
of G's column space, and two sketches overlap the more the faster G's spectrum decays (theory notes, section 6.6).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

__all__ = ["first_step_overlap", "sketch_inclusion"]


def sketch_inclusion(spectrum: Float[np.ndarray, "n"], rank: int) -> Float[np.ndarray, "n"]:
    """How much of each singular direction a random sketch of some rank holds, on average.

    p_i = s_i^2 / (s_i^2 + c) with c such that the p_i sum to the rank (Derezinski et al. 2020): a deterministic
    equivalent, a few per cent high at small ranks and steep spectra.

    Raises
    ------
    ValueError
        If the rank is not positive, or the spectrum is zero.

    Examples
    --------
    >>> sketch_inclusion(np.ones(8), 2).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    squares = np.asarray(spectrum, dtype=np.float64) ** 2
    if rank < 1 or not squares.any():
        raise ValueError(f"a sketch of rank {rank} of a spectrum with {np.count_nonzero(squares)} entries is empty")
    if np.count_nonzero(squares) <= rank:
        return (squares > 0).astype(np.float64)
    squares = squares / squares.max()
    # At c = sum of squares / rank the p_i sum to less than the rank, at c = 0 to more.
    exponent = brentq(lambda c: (squares / (squares + np.exp(c))).sum() - rank, -700.0, np.log(squares.sum() / rank))
    return squares / (squares + np.exp(exponent))


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
    ([0.476, 0.476], [0.03125, 0.03125])
    """
    rows = []
    for module, gradient in gradients.items():
        if others is not None and module not in others:
            raise ValueError(f"the other task has no gradient of {module}")
        U, S, Vh = torch.linalg.svd(gradient.double(), full_matrices=False)
        p = torch.from_numpy(sketch_inclusion(S.numpy(), rank))
        if others is None:
            predicted = {"B": p.square().sum(), "A": p.square().sum()}
        else:
            other_U, other_S, other_Vh = torch.linalg.svd(others[module].double(), full_matrices=False)
            q = torch.from_numpy(sketch_inclusion(other_S.numpy(), rank))
            # Tr E[P_1] E[P_2], each mean projector diagonal in its own gradient's singular directions.
            predicted = {"B": p @ (U.mT @ other_U).square() @ q, "A": p @ (Vh @ other_Vh.mT).square() @ q}
        for factor, size in (("B", gradient.shape[0]), ("A", gradient.shape[1])):
            rows.append((module, factor, predicted[factor].item() / rank, rank / size))
    return pd.DataFrame(rows, columns=["module", "factor", "predicted", "null_mean"])
