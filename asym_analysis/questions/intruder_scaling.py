"""Repair without retraining: what scaling intruder directions undoes of the update and of its effect elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import Moments, additive, factors_of, moment_of, table_of
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["IntruderScaling", "intruder_scaling", "scale_intruders"]


@dataclass(frozen=True, eq=False, repr=False)
class IntruderScaling(Result):
    """What scaling the intruder directions of W0 + dW by lambda does to the weight and to general inputs.

    Attributes
    ----------
    frame
        One row a module and scale:

        - module, layer, projection, scale (lambda), intruders
        - change: ||W - W0||_F after scaling, over ||dW||_F; 1 at lambda = 1
        - task_kept: <W - W0, dW>/||dW||^2, what is left of the update
        - general_change: E||(W - W0) x||^2 on general inputs over that at lambda = 1; NaN without moments
        - uniform_change: the same where the whole update is scaled down until as much of it is kept, task_kept^2:
          scaling intruders pays where general_change is below it
    refused
        Module -> why it could not be measured.
    settings
        scales, top_k, threshold, adapter, base, versions.
    """

    frame: pd.DataFrame
    refused: Mapping[str, str]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_intruder_scaling"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules with intruders (over all where none has any), one row a scale.

        Returns
        -------
        DataFrame
            `scale, change, task_kept, general_change, uniform_change`.
        """
        some = self.frame[self.frame["intruders"] > 0]
        some = self.frame if some.empty else some
        return (
            some.groupby("scale", sort=True)[["change", "task_kept", "general_change", "uniform_change"]]
            .median()
            .reset_index()
        )

    def __repr__(self) -> str:
        return f"IntruderScaling({self.frame.module.nunique()} modules, scales {self.settings['scales']})"


def intruder_scaling(
    adapter: Any,
    base: Base,
    scales: Sequence[float] = (0.0, 0.5, 1.0),
    *,
    moments: Moments | None = None,
    top_k: int = 10,
    threshold: float = 0.5,
) -> IntruderScaling:
    """Scale the intruder directions of the tuned weight, and say what that undoes of the update and of forgetting.

    W(lambda) = W0 + dW + (lambda - 1) sum_j s_j y_j z_j^T over the intruders j among the leading `top_k` singular
    directions of W0 + dW.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    base : path, mapping, Module or BaseWeights
        The base model, as `BaseWeights` reads it.
    scales : sequence of float, optional
        Values of lambda, at least 0.
    moments : mapping, optional
        Module -> second moment of its inputs on general text: a proxy for forgetting.
    top_k, threshold : int or float, optional
        As in `intruder_dimensions`.

    Returns
    -------
    IntruderScaling
        At lambda = 1 nothing changes.

    Raises
    ------
    AdapterError
        If no module could be measured.

    References
    ----------
    .. [1] R. Shuttleworth and others, LoRA vs full fine-tuning: an illusion of equivalence, arXiv 2410.21228.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> W0 = torch.randn(40, 30, generator=draw)
    >>> pair = torch.randn(1, 30, generator=draw), torch.randn(40, 1, generator=draw)
    >>> found = intruder_scaling(Adapter.from_factors({"q": pair}), {"q.weight": W0}, (1.0,), top_k=4).frame
    >>> found[["intruders", "change", "task_kept"]].round(6).values.tolist()
    [[1.0, 1.0, 1.0]]
    """
    if not len(scales):
        raise ValueError("scales is empty: give the factors to scale intruders by")
    for scale in scales:
        finite(scale, "scales", least=0)
    whole(top_k, "top_k", least=1)
    finite(threshold, "threshold", above=0, most=1)
    read, weights = as_adapter(adapter), as_base(base)
    rows, refused = [], {}
    for module in read:
        try:
            update = additive(read[module])
            W0 = weights.matrix(module, update.shape, transposed=update.stored_transposed).double()
            moment = None if moments is None else moment_of(moments, module, update.d_in)
            A, B = factors_of(update)
            dW = B @ A
        except AdapterError as error:
            refused[module] = str(error)
            continue
        columns, rows_of = _intruders(W0, dW, top_k, threshold)
        part = columns @ rows_of
        size = dW.square().sum().item()
        general = _general(dW, moment)
        for scale in scales:
            change = dW + (scale - 1) * part
            rows.append(
                {
                    **place(module), "scale": float(scale), "intruders": len(rows_of),
                    "change": change.norm().item() / size**0.5 if size else math.nan,
                    "task_kept": (change * dW).sum().item() / size if size else math.nan,
                    "general_change": _general(change, moment) / general if general else math.nan,
                    "uniform_change": ((change * dW).sum().item() / size) ** 2 if size else math.nan,
                }
            )  # fmt: skip
    frame = table_of(rows, refused, "the scaling of intruders")
    settings = settings_of(
        scales=list(map(float, scales)), top_k=top_k, threshold=threshold, adapter=read.name, base=weights.source
    )
    return IntruderScaling(frame, refused, settings)


def scale_intruders(
    adapter: Any, base: Base, scale: float = 0.0, *, top_k: int = 10, threshold: float = 0.5
) -> Adapter:
    """Write the adapter whose tuned weight has its intruder directions scaled.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    base : path, mapping, Module or BaseWeights
        The base model, as `BaseWeights` reads it.
    scale : float, default 0
        Factor of the intruders, at least 0.
    top_k, threshold : int or float, optional
        As in `intruder_dimensions`.

    Returns
    -------
    Adapter
        In memory, with one more rank for each intruder of a module; trained heads stay.

    Raises
    ------
    AdapterError
        If a weight of the base is missing, or the adapter is DoRA.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> W0 = torch.randn(40, 30, generator=draw)
    >>> pair = torch.randn(1, 30, generator=draw), torch.randn(40, 1, generator=draw)
    >>> scale_intruders(Adapter.from_factors({"q": pair}), {"q.weight": W0}, top_k=4).ranks
    (2,)
    """
    finite(scale, "scale", least=0)
    read, weights = as_adapter(adapter), as_base(base)
    changed = {}
    for module in read:
        update = additive(read[module])
        W0 = weights.matrix(module, update.shape, transposed=update.stored_transposed).double()
        A, B = factors_of(update)
        columns, rows = _intruders(W0, B @ A, top_k, threshold)
        if len(rows):
            A, B = torch.cat([A, rows]), torch.cat([B, (scale - 1) * columns], dim=1)
            changed[module] = replace(update, A=A.to(update.A.dtype), B=B.to(update.A.dtype), scaling=1.0)
    changes = [*read.metadata.get("changes", ()), f"intruders scaled by {scale:g} in {len(changed)} modules"]
    return read.with_updates(changed, changes=changes)


def _intruders(W0: Tensor, dW: Tensor, top_k: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Columns s y and rows z^T of the intruders among the leading singular directions of W0 + dW."""
    left, _, _ = weight_svd(W0)
    Y, S, Zh = torch.linalg.svd(W0 + dW, full_matrices=False)
    leading = min(top_k, len(S))
    found = (left.mT @ Y[:, :leading]).abs().amax(0) < threshold
    return Y[:, :leading][:, found] * S[:leading][found], Zh[:leading][found]


def _general(change: Tensor, moment: Tensor | None) -> float:
    return math.nan if moment is None else ((change @ moment) * change).sum().item()
