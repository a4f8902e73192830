"""Leading directions against leading directions: phi(i, j) of two adapters, module by module."""

from __future__ import annotations

import numpy as np
import pandas as pd

from asym_analysis._deprecated import FormerTable
from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces.angles import overlap_grid

__all__ = ["LeadingOverlaps", "leading_overlaps"]


class LeadingOverlaps(FormerTable, TableResult):
    """Overlap of the leading directions of two updates.

    Attributes
    ----------
    frame
        One row a module, factor and pair of numbers. Columns:

        - module, layer, projection
        - factor: "right", of the input, or "left", of the output
        - i, j: how many leading directions of the first and of the second update
        - value: overlap, from 0 to 1
        - null_mean: of random directions, max(i, j) / d
    settings
        Names of the two adapters, and versions.
    """

    def summary(self) -> pd.DataFrame:
        """Means over the modules for as many directions of both.

        Returns
        -------
        DataFrame
            factor, i, value, null_mean.
        """
        equal = self.frame[self.frame.i == self.frame.j]
        return equal.groupby(["factor", "i"], sort=False)[["value", "null_mean"]].mean().reset_index()


def leading_overlaps(first: Adapter | AdapterSet | Source, second: Adapter | AdapterSet | Source) -> LeadingOverlaps:
    """Overlap of the leading i directions of one update with the leading j of another (Hu et al. 2022, section 7.2).

    The directions are those of the update B·A, in order of its singular values, so that the gauge of the factors does
    not matter.

    Parameters
    ----------
    first, second : Adapter, AdapterSet or source
        Adapters, or anything that `load_adapter` reads.

    Returns
    -------
    LeadingOverlaps
        See there for the columns.

    Raises
    ------
    AdapterError
        If the two share no module, or have one in different sizes.

    Examples
    --------
    >>> import torch
    >>> run = Adapter.from_factors({"q": (torch.eye(2, 5), torch.diag(torch.tensor([2.0, 1.0])))})
    >>> table = leading_overlaps(run, run)
    >>> table.frame[table.frame.factor == "right"].value.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    first, second = as_adapter(first), as_adapter(second)
    modules = [module for module in first if module in second]
    if not modules:
        raise AdapterError(f"{first.name} and {second.name} share no module")
    parts = []
    for module in modules:
        one, two = first[module], second[module]
        common_shape(module, {f"{first.name}, the first": one.shape, f"{second.name}, the second": two.shape})
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
                        **place(module),
                        "factor": factor,
                        "i": i.ravel(),
                        "j": j.ravel(),
                        "value": grid.ravel().astype(np.float64),
                        "null_mean": np.maximum(i, j).ravel() / x.shape[1],
                    }
                )
            )
    frame = pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})
    return LeadingOverlaps(frame, settings_of(first=first.name, second=second.name))
