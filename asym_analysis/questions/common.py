"""Shared pieces of the questions: double-precision factors, second moments, medians by projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.chance import Null
from asym_analysis.chance.tabulated import LEAST
from asym_analysis.errors import AdapterError
from asym_analysis.prediction.by_module import ByModule
from asym_analysis.subspaces import updates

__all__ = ["Moments", "additive", "by_projection", "cumulative_energies", "factors_of", "gradient_of", "moment_of",
           "p_value_of", "random_rows", "row_basis", "spectrum_of", "table_of", "turned",
           "turned_adapter", "unit"]  # fmt: skip


#: Module -> second moment, as `input_covariances` and `output_sensitivities` give them, or matrices by name.
Moments = Mapping[str, Any] | ByModule[Any]


def factors_of(update: LowRankUpdate) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """A and B in float64, with the scaling folded into B."""
    return update.A.double(), update.scaling * update.B.double()


def additive(update: LowRankUpdate) -> LowRankUpdate:
    """The update itself, where W0 becomes W0 + s·B·A.

    Raises
    ------
    AdapterError
        For DoRA, whose change of the weight depends on W0 as well.
    """
    if not update.is_low_rank:
        raise AdapterError("it is DoRA, whose change of the weight is not s·B·A: this question is about W0 + s·B·A")
    return update


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


def moment_of(moments: Moments, module: str, width: int) -> Float[Tensor, "d d"]:
    """The second moment E[x x^T] of a module's inputs, from an `InputMoment`, or a matrix.

    Raises
    ------
    AdapterError
        If the module has none, it is of another width, or it is no second moment.
    """
    if not isinstance(moments, (Mapping, ByModule)):
        raise AdapterError(f"second moments are a mapping from modules to matrices, not a {type(moments).__name__}")
    if module not in moments:
        raise AdapterError(f"there is no second moment for module {module}: measure it with input_covariances")
    found = moments[module]
    matrix = torch.as_tensor(getattr(found, "second_moment", found)).double()
    if tuple(matrix.shape) != (width, width):
        raise AdapterError(
            f"the second moment of module {module} has shape {tuple(matrix.shape)}, its inputs have width {width}"
        )
    _check_second_moment(matrix, module)
    return matrix


def _check_second_moment(matrix: Float[Tensor, "d d"], module: str) -> None:
    """Refuse what is no mean of x x^T: numbers that are not finite, no symmetry, a negative energy."""
    what = f"the second moment of module {module}"
    if not bool(matrix.isfinite().all()):
        raise AdapterError(f"{what} holds NaN or infinity: measure it again")
    size = float(matrix.abs().max())
    if float((matrix - matrix.mT).abs().max()) > 1e-4 * size:
        raise AdapterError(f"{what} is not symmetric: it is E[x x^T], a matrix over the inputs' directions")
    if float(matrix.diagonal().min()) < -1e-4 * size:
        raise AdapterError(f"{what} has a negative energy on its diagonal: it is E[x x^T], which has none")


def table_of(
    rows: list[dict[str, Any]], refused: Mapping[str, str], what: str, otherwise: str = "it has no module"
) -> pd.DataFrame:
    """The rows as a table.

    Raises
    ------
    AdapterError
        If there is none; the message gives the first reason, or `otherwise` where no module was refused.
    """
    if not rows:
        reason = next((f"{module}: {reason}" for module, reason in refused.items()), otherwise)
        raise AdapterError(f"{what} could be measured in no module ({reason})")
    frame = pd.DataFrame(rows)
    return frame.astype({"layer": "Int64"}) if "layer" in frame else frame


def by_projection(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Medians of some columns over the modules of each projection, with their number."""
    grouped = frame.groupby("projection", sort=False)
    return pd.concat([grouped.size().rename("modules"), grouped[columns].median()], axis=1).reset_index()


def gradient_of(gradients: Mapping[str, Tensor], module: str, update: LowRankUpdate) -> Float[Tensor, "d_out d_in"]:
    """The gradient of a module's weight, in the layout (d_out, d_in), in float64.

    Gradients come in the layout of the stored weight, as `weight_gradients` gives them, or as (d_out, d_in). The two
    differ for weights that are stored transposed; where those are square, the stored layout is taken.

    Raises
    ------
    AdapterError
        If the module has none, it has another shape, or holds a number that is not finite.
    """
    if module not in gradients:
        raise AdapterError(f"there is no gradient for module {module}")
    G, shape = torch.as_tensor(gradients[module]).double(), update.shape
    if tuple(G.shape) not in (shape, shape[::-1]):
        raise AdapterError(f"the gradient of module {module} has shape {tuple(G.shape)}, its weight {shape}")
    if not bool(G.isfinite().all()):
        raise AdapterError(f"the gradient of module {module} has numbers that are not finite")
    square = shape[0] == shape[1]
    return G.mT if (update.stored_transposed if square else tuple(G.shape) != shape) else G


def unit(factor: Tensor) -> Tensor:
    """The factor over its Frobenius norm; zero stays zero."""
    norm = factor.norm()
    return factor / norm if norm > 0 else factor


def cumulative_energies(parts: list[Tensor]) -> np.ndarray:
    """Share of the energy in the best common space of each dimension."""
    values = torch.linalg.svdvals(torch.cat(parts)).square().numpy()
    return np.cumsum(values) / max(values.sum(), np.finfo(float).tiny)


def turned(factor: Tensor, generator: torch.Generator) -> Tensor:
    """The same singular values in random directions."""
    strengths = torch.linalg.svdvals(factor)
    return strengths[:, None] * random_rows(len(strengths), factor.shape[1], generator)


def p_value_of(null: Null, value: float) -> float:
    """Probability of a value at least as large, no less than what is checked of a null distribution (a millionth).

    1 where chance leaves one value only, as for a whole space.
    """
    return max(float(null.p_value(np.array([value]))[0]), LEAST) if float(null.std) > 1e-9 else 1.0


def random_rows(count: int, d: int, generator: torch.Generator) -> Float[Tensor, "count d"]:
    """Orthonormal rows, uniform among all."""
    return torch.linalg.qr(torch.randn(d, count, generator=generator, dtype=torch.float64))[0].mT


def turned_adapter(adapter: Adapter, generator: torch.Generator) -> Adapter:
    """The same singular values in random input and output directions."""
    changed = {}
    for module in adapter:
        update = adapter[module]
        A, B = factors_of(update)
        strengths = updates.singular_values(A, B)
        rows, columns = (random_rows(len(strengths), d, generator) for d in (A.shape[1], len(B)))
        kind = update.A.dtype
        changed[module] = replace(update, A=(strengths[:, None] * rows).to(kind), B=columns.mT.to(kind), scaling=1.0)
    return adapter.with_updates(changed)
