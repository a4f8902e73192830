"""Leading directions against leading directions: phi(i, j) of two adapters, module by module."""

from __future__ import annotations

import numpy as np
import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError
from asym_analysis.subspaces.angles import overlap_grid

__all__ = ["leading_overlaps"]


def leading_overlaps(first: Adapter, second: Adapter) -> pd.DataFrame:
    """Overlap of the leading i directions of one update with the leading j of another (Hu et al. 2022, section 7.2).

    The directions are those of the update B·A, in order of its singular values, so that the gauge of the factors does
    not matter.

    Returns
    -------
    DataFrame
        module, factor ("right" of the input, "left" of the output), i, j, value, null_mean = max(i, j)/d.

    Raises
    ------
    AdapterError
        If the two share no module, or have one in different sizes.

    Examples
    --------
    >>> import torch
    >>> run = Adapter.from_factors({"q": (torch.eye(2, 5), torch.diag(torch.tensor([2.0, 1.0])))})
    >>> table = leading_overlaps(run, run)
    >>> table[table.factor == "right"].value.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    modules = [module for module in first if module in second]
    if not modules:
        raise AdapterError(f"{first.name} and {second.name} share no module")
    parts = []
    for module in modules:
        one, two = first[module], second[module]
        if one.shape != two.shape:
            raise AdapterError(f"module {module} is {one.shape} in {first.name} and {two.shape} in {second.name}")
        U, S, Vh = one.svd()
        other_U, other_S, other_Vh = two.svd()
        sides = {
            "right": (S[:, None] * Vh, other_S[:, None] * other_Vh.to(Vh)),
            "left": (S[:, None] * U.mT, other_S[:, None] * other_U.mT.to(U)),
        }
        for factor, (x, y) in sides.items():
            grid = overlap_grid(x, y.to(x)).numpy()
            i, j = np.indices(grid.shape) + 1
            parts.append(
                pd.DataFrame(
                    {
                        "module": module,
                        "factor": factor,
                        "i": i.ravel(),
                        "j": j.ravel(),
                        "value": grid.ravel().astype(np.float64),
                        "null_mean": np.maximum(i, j).ravel() / x.shape[1],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)
