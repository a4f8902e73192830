"""Which directions earn their place? Singular directions against the loss's gradient, and intruders scaled down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.chance import overlap_null
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, moment_of, row_basis, spectrum_of, table_of
from asym_analysis.results import Result, TableResult, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["DirectionWorth", "GradientAlignment", "IntruderScaling", "direction_worth", "gradient_alignment",
           "intruder_scaling"]  # fmt: skip


class DirectionWorth(TableResult):
    """First-order effect of each rank-one part of an adapter on the loss.

    Attributes
    ----------
    frame
        One row a module and singular direction:

        - module, layer, projection, index (from 1), singular_value
        - effect: s_i u_i^T G v_i, the change of the loss to first order when the part is added; negative lowers it
        - null_std: standard deviation of the effect of a part of that size in random directions,
          s_i ||G||_F / sqrt(d_out d_in) (mean 0)
        - z: effect / null_std
        - worth_keeping: True where the effect is negative and |z| above 2
    settings
        adapter, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_direction_worth"

    def summary(self) -> pd.DataFrame:
        """One row a projection: parts, how many are worth keeping, and the summed effect.

        Returns
        -------
        DataFrame
            `projection, parts, worth_keeping, effect`.
        """
        grouped = self.frame.groupby("projection", sort=False)
        found = {
            "parts": grouped.size(),
            "worth_keeping": grouped["worth_keeping"].sum(),
            "effect": grouped["effect"].sum(),
        }
        return pd.DataFrame(found).reset_index()


def direction_worth(adapter: Any, gradients: Mapping[str, Tensor]) -> DirectionWorth:
    """Measure what each singular direction of an adapter does to the loss, to first order.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    gradients : mapping of str to Tensor
        Module -> gradient of the loss by the module's weight, shape (d_out, d_in), mean over a calibration set.

    Returns
    -------
    DirectionWorth
        With the effect of random directions of the same size beside every number.

    Raises
    ------
    AdapterError
        If no module has a gradient of its shape.

    Notes
    -----
    First order only: prune or reweight by it, and measure the loss again.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2, 4), torch.eye(3, 2))})
    >>> G = torch.zeros(3, 4)
    >>> G[0, 0] = -1.0
    >>> direction_worth(adapter, {"q": G}).frame.effect.sort_values().round(6).tolist()
    [-1.0, 0.0]
    """
    read = as_adapter(adapter)
    rows, refused = [], {}
    for module in read:
        try:
            update = read[module]
            G = _gradient(gradients, module, update.shape)
            U, S, Vh = spectrum_of(update)
        except AdapterError as error:
            refused[module] = str(error)
            continue
        effects = S * ((U.mT @ G) * Vh).sum(1)
        spread = S * G.norm() / math.sqrt(G.numel())
        for index, (size, effect, std) in enumerate(zip(S.tolist(), effects.tolist(), spread.tolist(), strict=True), 1):
            z = effect / std if std > 0 else math.nan
            rows.append(
                {
                    **place(module), "index": index, "singular_value": size, "effect": effect, "null_std": std, "z": z,
                    "worth_keeping": effect < 0 and abs(z) > 2,
                }
            )  # fmt: skip
    return DirectionWorth(table_of(rows, refused, "the worth of directions"), settings_of(adapter=read.name))


class GradientAlignment(TableResult):
    """Overlap of an adapter's spaces with the leading singular spaces of a full gradient.

    Attributes
    ----------
    frame
        One row a module and factor: module, layer, projection, factor, k, overlap, null_mean, null_std, p_value.
    settings
        k, adapter, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_gradient_alignment"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row a factor.

        Returns
        -------
        DataFrame
            `factor, overlap, null_mean`.
        """
        return self.frame.groupby("factor", sort=False)[["overlap", "null_mean"]].median().reset_index()


def gradient_alignment(adapter: Any, gradients: Mapping[str, Tensor], *, k: int | None = None) -> GradientAlignment:
    """Was the answer visible at step one? The adapter's spaces against the first full gradient's leading spaces.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    gradients : mapping of str to Tensor
        Module -> gradient of the loss by the module's weight before training, shape (d_out, d_in).
    k : int, optional
        Leading directions of the gradient; by default the adapter's rank.

    Returns
    -------
    GradientAlignment
        A's row space against the gradient's right singular directions, B's column space against the left ones.

    Raises
    ------
    AdapterError
        If no module has a gradient of its shape.

    References
    ----------
    .. [1] Y. Zhang and others, LoRA-One, arXiv 2502.01235.
    .. [2] S. Wang, L. Yu, J. Li, LoRA-GA, arXiv 2407.05000.
    .. [3] docs/theory.md, section 4.2, for the null distribution.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.eye(1, 4), torch.eye(3, 1))})
    >>> gradient_alignment(adapter, {"q": torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0]))[:3]}).frame.overlap.tolist()
    [1.0, 1.0]
    """
    read = as_adapter(adapter)
    if k is not None:
        whole(k, "k", least=1)
    rows, refused = [], {}
    for module in read:
        try:
            update = read[module]
            G = _gradient(gradients, module, update.shape)
        except AdapterError as error:
            refused[module] = str(error)
            continue
        A, B = factors_of(update)
        left, strengths, right = torch.linalg.svd(G, full_matrices=False)
        top = min(k or update.rank, int((strengths > strengths.max() * 1e-10).sum()))
        for factor, own, directions in (("A", A, right[:top]), ("B", B.mT, left[:, :top].mT)):
            basis = row_basis(own)
            if not len(basis) or not top:
                continue
            null = overlap_null(len(basis), top, basis.shape[1])
            overlap = (basis @ directions.mT).square().sum().item() / min(len(basis), top)
            rows.append(
                {
                    **place(module), "factor": factor, "k": top, "overlap": overlap, "null_mean": float(null.mean),
                    "null_std": float(null.std), "p_value": float(null.p_value(np.array([overlap]))[0]),
                }
            )  # fmt: skip
    return GradientAlignment(
        table_of(rows, refused, "alignment with the gradient"), settings_of(adapter=read.name, k=k)
    )


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
            `scale, change, task_kept, general_change`.
        """
        some = self.frame[self.frame["intruders"] > 0]
        some = self.frame if some.empty else some
        return some.groupby("scale", sort=True)[["change", "task_kept", "general_change"]].median().reset_index()

    def __repr__(self) -> str:
        return f"IntruderScaling({self.frame.module.nunique()} modules, scales {self.settings['scales']})"


def intruder_scaling(
    adapter: Any,
    base: Base,
    scales: Sequence[float] = (0.0, 0.5, 1.0),
    *,
    moments: Mapping[str, Any] | None = None,
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
    >>> from asym_analysis import Adapter
    >>> draw = torch.Generator().manual_seed(0)
    >>> W0 = torch.randn(40, 30, generator=draw)
    >>> pair = torch.randn(1, 30, generator=draw), torch.randn(40, 1, generator=draw)
    >>> found = intruder_scaling(Adapter.from_factors({"q": pair}), {"q.weight": W0}, (1.0,), top_k=4).frame
    >>> found[["intruders", "change", "task_kept"]].round(6).values.tolist()
    [[1.0, 1.0, 1.0]]
    """
    for scale in scales:
        finite(scale, "scales", least=0)
    whole(top_k, "top_k", least=1)
    finite(threshold, "threshold", above=0, most=1)
    read, weights = as_adapter(adapter), as_base(base)
    rows, refused = [], {}
    for module in read:
        try:
            update = read[module]
            W0 = weights.matrix(module, update.shape, transposed=update.stored_transposed).double()
            moment = None if moments is None else moment_of(moments, module, update.d_in)
            A, B = factors_of(update)
            dW = B @ A
        except AdapterError as error:
            refused[module] = str(error)
            continue
        left, _, _ = weight_svd(W0)
        Y, S, Zh = torch.linalg.svd(W0 + dW, full_matrices=False)
        leading = min(top_k, len(S))
        intruders = (left.mT @ Y[:, :leading]).abs().amax(0) < threshold
        part = (Y[:, :leading][:, intruders] * S[:leading][intruders]) @ Zh[:leading][intruders]
        size = dW.square().sum().item()
        general = _general(dW, moment)
        for scale in scales:
            change = dW + (scale - 1) * part
            rows.append(
                {
                    **place(module), "scale": float(scale), "intruders": int(intruders.sum()),
                    "change": change.norm().item() / size**0.5 if size else math.nan,
                    "task_kept": (change * dW).sum().item() / size if size else math.nan,
                    "general_change": _general(change, moment) / general if general else math.nan,
                }
            )  # fmt: skip
    frame = table_of(rows, refused, "the scaling of intruders")
    settings = settings_of(
        scales=list(map(float, scales)), top_k=top_k, threshold=threshold, adapter=read.name, base=weights.source
    )
    return IntruderScaling(frame, refused, settings)


def _general(change: Tensor, moment: Tensor | None) -> float:
    return math.nan if moment is None else ((change @ moment) * change).sum().item()


def _gradient(gradients: Mapping[str, Tensor], module: str, shape: tuple[int, int]) -> Tensor:
    if module not in gradients:
        raise AdapterError(f"there is no gradient for module {module}")
    G = torch.as_tensor(gradients[module]).double()
    if tuple(G.shape) == shape:
        return G
    if tuple(G.mT.shape) == shape:
        return G.mT
    raise AdapterError(f"the gradient of module {module} has shape {tuple(G.shape)}, its weight {shape}")
