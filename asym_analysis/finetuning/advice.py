"""Which modules could do with a frozen A, what that would cost and what it would save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from asym_analysis.finetuning.prediction import AsymmetryPrediction
from asym_analysis.results import Result

__all__ = ["FreezingAdvice", "advise"]

# AdamW keeps two moments and a gradient in float32 for every trained number.
OPTIMIZER_BYTES = 12


@dataclass(frozen=True)
class FreezingAdvice(Result):
    """One row a module, those first whose A is worth least.

    Columns: those of `AsymmetryPrediction`, and, when this module and all before it freeze A: `predicted_cost`, the
    fraction of the whole update's signal that is lost; `saved_parameters`; `saved_bytes`, gradients and Adam's moments;
    `bound_factor`, what the parameter-count bound is multiplied by; and `freeze_A`, whether that is advised.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def summary(self) -> pd.DataFrame:
        """One row: how many modules are advised, at what cost, and what they save together."""
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
    prediction
        From `predict_asymmetry`.
    tolerance
        The largest fraction of the whole update's signal that may be lost.

    Notes
    -----
    The parameter-count bound (Lemma 4.5) grows with the square root of what is trained, so it is multiplied by the
    square root of the remaining fraction; the head, which is trained in any case, is not counted.

    Raises
    ------
    ValueError
        If the tolerance is no fraction.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance {tolerance} is no fraction between 0 and 1")
    frame = prediction.frame.sort_values("lost_signal", ignore_index=True)
    parameters = int((frame["rank"] * (frame["d_in"] + frame["d_out"])).sum())
    frame["predicted_cost"] = frame["lost_signal"].cumsum() / (frame["signal"].sum() or 1.0)
    frame["saved_parameters"] = (frame["rank"] * frame["d_in"]).cumsum()
    frame["saved_bytes"] = OPTIMIZER_BYTES * frame["saved_parameters"]
    frame["bound_factor"] = np.sqrt(1 - frame["saved_parameters"] / parameters)
    frame["freeze_A"] = frame["predicted_cost"] <= tolerance
    return FreezingAdvice(frame, {**prediction.settings, "tolerance": tolerance, "parameters": parameters})
