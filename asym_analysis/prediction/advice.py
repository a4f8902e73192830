"""Which modules can freeze A, at what predicted loss of signal, and how much that saves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from asym_analysis.prediction.asymmetry import AsymmetryPrediction
from asym_analysis.results import TableResult
from asym_analysis.vocabulary import finite

__all__ = ["FreezingAdvice", "advise"]

# AdamW keeps two moments and a gradient in float32 for every trained number.
OPTIMIZER_BYTES = 12


@dataclass(frozen=True, eq=False, repr=False)
class FreezingAdvice(TableResult):
    """One row a module, in the order in which A would be frozen: the smallest lost signal first.

    Attributes
    ----------
    frame
        Those of `AsymmetryPrediction`, and, cumulatively, for this module and all before it frozen: `predicted_cost`,
        the fraction of the whole update's signal that is lost; `saved_parameters`, trained numbers; `saved_bytes`,
        gradients and Adam's moments; `bound_factor`, what the parameter-count bound is multiplied by; `enough_inputs`,
        whether at least as many inputs were read as an input is wide; and `freeze_A`, whether freezing is advised.
        Nothing is advised of a module without enough inputs: its moments miss directions that occur.
    settings
        Those of the prediction, `tolerance`, and `parameters`, the trained numbers of the factors.
    """

    def summary(self) -> pd.DataFrame:
        """One row: how many modules are advised, at what cost, and what they save together.

        Returns
        -------
        DataFrame
            `modules, freeze_A, predicted_cost, saved_parameters, saved_fraction, saved_bytes, bound_factor`.
        """
        advised = self.frame[self.frame["freeze_A"]]
        last = advised.iloc[-1] if len(advised) else None
        return pd.DataFrame(
            [
                {
                    "modules": len(self.frame),
                    "freeze_A": len(advised),
                    "predicted_cost": 0.0 if last is None else last["predicted_cost"],
                    "saved_parameters": 0 if last is None else last["saved_parameters"],
                    "saved_fraction": 0.0 if last is None else last["saved_parameters"] / self.settings["parameters"],
                    "saved_bytes": 0 if last is None else last["saved_bytes"],
                    "bound_factor": 1.0 if last is None else last["bound_factor"],
                }
            ]
        )


def advise(prediction: AsymmetryPrediction, *, tolerance: float = 0.1) -> FreezingAdvice:
    """Freeze A in the modules that lose least, as long as their loss together stays within a tolerance.

    Parameters
    ----------
    prediction : AsymmetryPrediction
        From `predict_asymmetry`.
    tolerance : float, default 0.1
        The largest fraction of the whole update's signal that may be lost.

    Returns
    -------
    FreezingAdvice
        See there.

    Raises
    ------
    ValueError
        If the tolerance is not a fraction between 0 and 1.

    Notes
    -----
    The parameter-count bound [1]_ grows with the square root of what is trained, so it is multiplied by the
    square root of the remaining fraction; the head, which is trained in any case, is not counted.

    References
    ----------
    .. [1] Zhu et al. (2024), "Asymmetry in low-rank adapters of foundation models", Lemma 4.5.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, predict_asymmetry
    >>> from asym_analysis.prediction import InputMoment
    >>> adapter = Adapter.from_factors({"layer.0.query": (torch.eye(1, 4), torch.ones(8, 1))})
    >>> variances = torch.tensor([100.0, 1, 1, 1], dtype=torch.float64)
    >>> moment = InputMoment(variances.diag(), torch.zeros(4).double(), 100)
    >>> advice = advise(predict_asymmetry(adapter, {"layer.0.query": moment}), tolerance=0.2)
    >>> advice.frame[["module", "predicted_cost", "freeze_A"]].round(3).values.tolist()
    [['layer.0.query', 0.174, True]]
    """
    finite(tolerance, "tolerance", least=0, most=1)
    # Modules of which nothing can be said come last, so that the others' costs do not count them.
    known = prediction.frame["inputs"] >= prediction.frame["d_in"]
    frame = prediction.frame.assign(unknown=~known).sort_values(["unknown", "lost_signal"], ignore_index=True)
    frame = frame.drop(columns="unknown")
    parameters = int((frame["rank"] * (frame["d_in"] + frame["d_out"])).sum())
    frame["predicted_cost"] = frame["lost_signal"].cumsum() / (frame["signal"].sum() or 1.0)
    frame["saved_parameters"] = (frame["rank"] * frame["d_in"]).cumsum()
    frame["saved_bytes"] = OPTIMIZER_BYTES * frame["saved_parameters"]
    frame["bound_factor"] = np.sqrt(1 - frame["saved_parameters"] / parameters)
    frame["enough_inputs"] = frame["inputs"] >= frame["d_in"]
    frame["freeze_A"] = (frame["predicted_cost"] <= tolerance) & frame["enough_inputs"]
    return FreezingAdvice(frame, {**prediction.settings, "tolerance": tolerance, "parameters": parameters})
