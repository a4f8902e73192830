"""Tune which projections? Size of the change and share of the trained numbers, by kind of projection."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pandas as pd

from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import table_of
from asym_analysis.results import TableResult, settings_of

__all__ = ["ProjectionTerms", "projection_terms"]


class ProjectionTerms(TableResult):
    """What each kind of projection contributes to an adapter.

    Attributes
    ----------
    frame
        One row a projection:

        - projection, modules
        - parameters: entries of A and B; parameters_share: of all
        - update_norm: root of the summed squared Frobenius norms; update_share: share of the squared norm of the whole
        - even_share: share of the projection's modules in all modules, what an even spread would give
        - relative_norm: median of ||dW||_F / ||W0||_F, where a base is given
        - bound_without: count bound without this projection, over that with all: sqrt(1 - parameters_share)
    settings
        adapter, base, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_projection_terms"


def projection_terms(adapter: Any, base: Base | None = None) -> ProjectionTerms:
    """Compare the projections of an adapter: how much each changed, and what each costs in the count bound.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    base : path, mapping, Module or BaseWeights, optional
        The base model, for sizes relative to its weights.

    Returns
    -------
    ProjectionTerms
        Largest change for its number of modules first.

    Raises
    ------
    AdapterError
        If the adapter has no module, or no weight of the base fits.

    References
    ----------
    .. [1] X. Yao and others, Theoretical insights into fine-tuning attention mechanism, arXiv 2410.02247.
    .. [2] docs/theory.md, section 1.3 (Lemma 4.5), for the count bound.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter
    >>> strong = (torch.eye(1, 4), 2 * torch.eye(4, 1))
    >>> weak = (torch.eye(1, 4), torch.eye(4, 1))
    >>> found = projection_terms(Adapter.from_factors({"layers.0.q_proj": strong, "layers.0.v_proj": weak})).frame
    >>> found[["projection", "update_share", "even_share"]].values.tolist()
    [['q_proj', 0.8, 0.5], ['v_proj', 0.2, 0.5]]
    """
    read = as_adapter(adapter)
    weights = None if base is None else as_base(base)
    rows = []
    for module in read:
        update = read[module]
        relative = math.nan
        if weights is not None:
            size = weights.matrix(module, update.shape, transposed=update.stored_transposed).norm().item()
            relative = update.frobenius_norm() / size if size else math.inf
        rows.append(
            {
                **place(module), "parameters": update.rank * (update.d_in + update.d_out),
                "energy": update.frobenius_norm() ** 2, "relative_norm": relative,
            }
        )  # fmt: skip
    table = table_of(rows, {}, "projections")
    if not table["energy"].sum() > 0:
        raise AdapterError(f"every update of {read.name} is zero: there is nothing to compare")
    grouped = table.groupby("projection", sort=False)
    frame = pd.DataFrame({"modules": grouped.size(), "parameters": grouped["parameters"].sum()})
    frame["parameters_share"] = frame["parameters"] / frame["parameters"].sum()
    frame["update_norm"] = grouped["energy"].sum() ** 0.5
    frame["update_share"] = grouped["energy"].sum() / table["energy"].sum()
    frame["even_share"] = frame["modules"] / len(table)
    frame["relative_norm"] = grouped["relative_norm"].median()
    frame["bound_without"] = (1 - frame["parameters_share"]) ** 0.5
    order = (frame["update_share"] / frame["even_share"]).sort_values(ascending=False, kind="stable").index
    source = None if weights is None else weights.source
    return ProjectionTerms(frame.loc[order].reset_index(), settings_of(adapter=read.name, base=source))
