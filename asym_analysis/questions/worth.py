"""Which rank-one parts earn their place? Singular directions of an adapter against the loss's gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import additive, gradient_of, spectrum_of, table_of
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["DirectionWorth", "direction_worth"]


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

    def kept(self, parts: int | None = None) -> dict[str, list[float]]:
        """Weights for `reweight_directions` that keep the parts which lower the loss most.

        Parameters
        ----------
        parts : int, optional
            How many to keep over all modules; by default all whose effect is negative.

        Returns
        -------
        dict
            Module -> 1 for a direction that stays and 0 for one that goes, the strongest direction first.
        """
        if parts is None:
            chosen = self.frame["effect"] < 0
        else:
            chosen = self.frame["effect"].rank(method="first") <= whole(parts, "parts", least=1)
        marked = self.frame.assign(kept=chosen.astype(float))
        return {str(module): part["kept"].tolist() for module, part in marked.groupby("module", sort=False)}


def direction_worth(adapter: Any, gradients: Mapping[str, Tensor]) -> DirectionWorth:
    """Measure what each singular direction of an adapter does to the loss, to first order.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    gradients : mapping of str to Tensor
        Module -> gradient of the loss by the module's weight, as the model stores it, mean over a calibration set:
        from `asym_analysis.prediction.path_gradients`, with which the effects add up to what the adapter does to the
        loss; or from `weight_gradients`, for one place.

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
    >>> import torch
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
            update = additive(read[module])
            G = gradient_of(gradients, module, update)
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
