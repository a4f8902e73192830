"""Will it forget? Energy of an adapter in the directions that general inputs hardly use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_weights import Base, BaseWeights, as_base
from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.chance import captured_energy_moments, overlap_null, rotated_trace_moments
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import (
    Moments,
    additive,
    by_projection,
    factors_of,
    moment_of,
    p_value_of,
    spectrum_of,
    table_of,
)
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import finite

__all__ = ["NullSpaceEnergy", "null_space_energy"]


@dataclass(frozen=True, eq=False, repr=False)
class NullSpaceEnergy(Result):
    """How an adapter's factors lie to the inputs of general text.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection
        - k: number of weak directions, those of least variance
        - weak_share: share of A's row space in them, sum of squared cosines over the rank
        - weak_null_mean, weak_null_std: of a random row space, mean k/d
        - weak_p_value: probability that a random row space lies in them as much or more
        - update_weak_share: share of ||dW||^2 in them; update_weak_null_std: of a randomly turned dW (mean k/d)
        - energy: E||A x||^2 over that of a random A of the same singular values; null_std
        - update_energy: E||dW x||^2 over that of a randomly turned dW; update_null_std
        - response: (E||dW x||^2 / E||W0 x||^2)^(1/2), how much the update changes what the module computes on general
          inputs; response_null: of a randomly turned dW, root mean square. NaN without a base
        - task_ratio: relative energy of dW on task inputs over that on general inputs; NaN without task moments
    refused
        Module -> why it could not be measured.
    settings
        k, adapter, versions.
    """

    frame: pd.DataFrame
    refused: Mapping[str, str]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_null_space"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules of each projection.

        Returns
        -------
        DataFrame
            `projection`, then `weak_share, weak_null_mean, update_weak_share, energy, update_energy, response,
            task_ratio`.
        """
        columns = ["weak_share", "weak_null_mean", "update_weak_share", "energy", "update_energy", "response",
                   "task_ratio"]  # fmt: skip
        return by_projection(self.frame, columns)

    def __repr__(self) -> str:
        return (
            f"NullSpaceEnergy({len(self.frame)} modules, median update_energy {self.frame.update_energy.median():.3g})"
        )


def null_space_energy(
    adapter: Any,
    moments: Moments,
    *,
    weak: float = 0.5,
    task_moments: Moments | None = None,
    base: Base | None = None,
) -> NullSpaceEnergy:
    """Measure how much an adapter acts on general inputs: its energy in their weak directions, against chance.

    An update whose row space lies in the weak directions of general inputs changes little of what the model computes
    on them. A random row space has energy 1 and weak share k/d.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    moments : mapping
        Module -> second moment E[x x^T] of the module's inputs on general text, as `input_covariances` gives it.
    weak : float, default 0.5
        Share of the directions that count as weak: k = round(weak · d), at least 1.
    task_moments : mapping, optional
        The same on the task's inputs, for `task_ratio`.
    base : path, mapping, Module or BaseWeights, optional
        The base model, for `response`.

    Returns
    -------
    NullSpaceEnergy
        With a null beside every number.

    Raises
    ------
    AdapterError
        If no module could be measured.

    References
    ----------
    .. [1] LoRA-Null: Low-rank adaptation via null space, arXiv 2503.02659.
    .. [2] docs/theory.md, sections 1.2 (e) and 4.2, for the null distributions.

    Examples
    --------
    >>> import torch
    >>> moment = torch.diag(torch.tensor([4.0, 4.0, 0.0, 0.0]))
    >>> adapter = Adapter.from_factors({"q": (torch.eye(4)[2:3], torch.ones(3, 1))})
    >>> null_space_energy(adapter, {"q": moment}).frame[["weak_share", "energy"]].values.tolist()
    [[1.0, 0.0]]
    """
    finite(weak, "weak", above=0, below=1)
    read, weights = as_adapter(adapter), None if base is None else as_base(base)
    rows, refused = [], {}
    for module in read:
        try:
            rows.append(_row(read, module, moments, weak, task_moments) | _response(read, module, moments, weights))
        except AdapterError as error:
            refused[module] = str(error)
    frame = table_of(rows, refused, "null-space energy")
    return NullSpaceEnergy(frame, refused, settings_of(adapter=read.name, weak=weak))


def _row(adapter: Adapter, module: str, moments: Moments, weak: float, task: Moments | None) -> dict[str, Any]:
    update = additive(adapter[module])
    d = update.d_in
    S = moment_of(moments, module, d)
    A, _ = factors_of(update)
    _, strengths, Vh = spectrum_of(update)
    values, vectors = torch.linalg.eigh(S)
    k = max(1, round(weak * d))
    lowest = vectors[:, :k]
    rows = torch.linalg.svd(A, full_matrices=False)
    kept = rows.S.max() * 1e-12 < rows.S
    basis, sizes = rows.Vh[kept], rows.S[kept]
    rank = len(basis)
    cosines = (basis @ lowest).square().sum().item()
    null = overlap_null(rank, k, d)
    least = min(rank, k)
    # An energy relative to that of a random turn: Tr(C Q S Q^T) d/(Tr C Tr S).
    energy, spread = _relative_energy(basis, sizes.square(), S, values)
    changed, changed_spread = _relative_energy(Vh, strengths.square(), S, values)
    shares = strengths.square() / strengths.square().sum()
    weak_variance = captured_energy_moments(1.0, shares.square().sum().item(), d, k)[1]
    ratio = math.nan
    if task is not None:
        other = moment_of(task, module, d)
        on_task = _relative_energy(Vh, strengths.square(), other, torch.linalg.eigvalsh(other))[0]
        ratio = on_task / changed if changed > 0 else math.inf
    return {
        **place(module),
        "k": k,
        "weak_share": cosines / rank,
        "weak_null_mean": k / d,
        "weak_null_std": float(null.std) * least / rank,
        "weak_p_value": p_value_of(null, cosines / least),
        "update_weak_share": float(((Vh @ lowest).square().sum(1) * shares).sum()),
        "update_weak_null_std": math.sqrt(weak_variance),
        "energy": energy,
        "null_std": spread,
        "update_energy": changed,
        "update_null_std": changed_spread,
        "task_ratio": ratio,
    }


def _response(adapter: Adapter, module: str, moments: Moments, weights: BaseWeights | None) -> dict[str, float]:
    if weights is None:
        return {"response": math.nan, "response_null": math.nan}
    update = adapter[module]
    W0 = weights.matrix(module, update.shape, transposed=update.stored_transposed).double()
    S = moment_of(moments, module, update.d_in)
    A, B = factors_of(update)
    whole = float(((W0 @ S) * W0).sum())
    own = float(((B.mT @ B) * (A @ S @ A.mT)).sum())
    turned = float(((B.mT @ B) * (A @ A.mT)).sum() * S.trace()) / update.d_in
    return {
        "response": math.sqrt(max(own, 0.0) / whole) if whole > 0 else math.inf,
        "response_null": math.sqrt(turned / whole) if whole > 0 else math.inf,
    }


def _relative_energy(
    directions: torch.Tensor, weights: torch.Tensor, moment: torch.Tensor, values: torch.Tensor
) -> tuple[float, float]:
    """sum_i w_i v_i^T S v_i over its mean for random directions v_i, and the standard deviation of that ratio."""
    d = len(moment)
    found = float((weights * ((directions @ moment) * directions).sum(1)).sum())
    trace, squares = float(values.sum()), float(values.square().sum())
    mean, variance = rotated_trace_moments(float(weights.sum()), float(weights.square().sum()), trace, squares, d)
    if float(mean) <= 0:
        raise AdapterError("the second moment is zero: the module got no inputs")
    return found / float(mean), math.sqrt(float(variance)) / float(mean)
