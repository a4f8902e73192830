"""Shared pieces of the questions: double-precision factors, second moments, medians by projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError
from asym_analysis.subspaces import updates

__all__ = ["by_projection", "factors_of", "moment_of", "row_basis", "spectrum_of", "table_of"]


def factors_of(update: LowRankUpdate) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """A and B in float64, with the scaling folded into B."""
    return update.A.double(), update.scaling * update.B.double()


def row_basis(rows: Float[Tensor, "rank d"]) -> Float[Tensor, "k d"]:
    """Orthonormal rows that span the row space; none for a zero matrix."""
    if not rows.numel():
        return rows
    found = torch.linalg.svd(rows, full_matrices=False)
    return found.Vh[found.S.max() * 1e-10 < found.S]


def spectrum_of(
    update: LowRankUpdate,
) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, "k"], Float[Tensor, "k d_in"]]:
    """U, S, Vh of the update in float64, without its null directions.

    Raises
    ------
    AdapterError
        If the update is zero.
    """
    U, S, Vh = updates.thin_svd(*factors_of(update))
    kept = S.max() * 1e-12 < S if len(S) else S > 0
    if not bool((S[kept] > 0).any()):
        raise AdapterError("the update is zero: it has no directions")
    return U[:, kept], S[kept], Vh[kept]


def moment_of(moments: Mapping[str, Any], module: str, width: int) -> Float[Tensor, "d d"]:
    """The second moment E[x x^T] of a module's inputs, from an `InputMoment`, or a matrix.

    Raises
    ------
    AdapterError
        If the module has none, or it is of another width.
    """
    if module not in moments:
        raise AdapterError(f"there is no second moment for module {module}: measure it with input_covariances")
    found = moments[module]
    matrix = torch.as_tensor(getattr(found, "second_moment", found)).double()
    if tuple(matrix.shape) != (width, width):
        raise AdapterError(
            f"the second moment of module {module} has shape {tuple(matrix.shape)}, its inputs have width {width}"
        )
    return matrix


def table_of(rows: list[dict[str, Any]], refused: Mapping[str, str], what: str) -> pd.DataFrame:
    """The rows as a table.

    Raises
    ------
    AdapterError
        If there is none; the message gives the first reason.
    """
    if not rows:
        module, reason = next(iter(refused.items()), ("the adapter", "it has no module"))
        raise AdapterError(f"{what} could be measured in no module ({module}: {reason})")
    frame = pd.DataFrame(rows)
    return frame.astype({"layer": "Int64"}) if "layer" in frame else frame


def by_projection(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Medians of some columns over the modules of each projection, with their number."""
    grouped = frame.groupby("projection", sort=False)
    return pd.concat([grouped.size().rename("modules"), grouped[columns].median()], axis=1).reset_index()
