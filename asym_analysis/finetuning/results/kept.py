"""How much of LoRA's gain each other variant keeps, against trained numbers per datum and training length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.results.claims import reference_gains
from asym_analysis.finetuning.results.paper import LORA
from asym_analysis.finetuning.results.scores import Arm, VariantScores
from asym_analysis.finetuning.results.statistics import Difference
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["KeptGains", "kept_gains"]


@dataclass(frozen=True, eq=False, repr=False)
class KeptGains(TableResult):
    """One row a task, length, choice of modules, variant and rank.

    Attributes
    ----------
    frame
        `task, length, target_modules, variant, rank, reference_rank`; `adapter_parameters`, numbers trained; `data`,
        training rows times data a row; `numbers_per_datum`, their ratio; `kept`, the gain over the frozen model as a
        part of LoRA's; `low, high`, its interval; `seeds`; and `clear`, whether LoRA's own gain is more than four
        standard errors.
    settings
        The arguments, and versions.
    """

    _plot = "variants:plot_kept_gains"


def kept_gains(
    scores: VariantScores, *, reference_rank: int | None = None, data_per_row: int = 1, confidence: float = 0.95
) -> KeptGains:
    """Compare every variant's gain with LoRA's.

    Parameters
    ----------
    scores : VariantScores
        From `score_variants`, with adapters' numbers counted.
    reference_rank : int, optional
        Compare with LoRA at this rank; at each variant's own rank if None.
    data_per_row : int, default 1
        Labels or tokens in a training row: the length of a window for language modelling.
    confidence : float, default 0.95
        Of the intervals, which are those of the paired difference; the error of LoRA's own gain is left out.

    Returns
    -------
    KeptGains
        See there.

    Raises
    ------
    AdapterError
        If the table of runs does not count trained numbers and training rows.

    Examples
    --------
    >>> import pandas as pd
    >>> from asym_analysis import score_variants
    >>> variants = {"frozen": (0.6, 0), "hB_0 hA_Km": (0.8, 64), "hB_0 A_rand": (0.79, 32)}
    >>> table = pd.DataFrame([
    ...     {"run": name, "task": "MRPC", "variant": name, "seed": seed, "rank": 8, "learning_rate": 1e-3,
    ...      "metric": "accuracy", "lower_is_better": False, "value": value + 0.001 * seed, "baseline": 0.5,
    ...      "adapter_parameters": parameters, "train_rows": 16}
    ...     for name, (value, parameters) in variants.items() for seed in (1, 2, 3)
    ... ])
    >>> kept_gains(score_variants(table)).frame[["variant", "numbers_per_datum", "kept"]].round(3).values.tolist()
    [['hB_0 A_rand', 2.0, 0.95]]
    """
    whole(data_per_row, "data_per_row", least=1)
    finite(confidence, "confidence", above=0, below=1)
    frame = scores.frame
    missing = [name for name in ("adapter_parameters", "train_rows") if name not in frame]
    if missing:
        raise AdapterError(f"the table of runs lacks {', '.join(missing)}: it was made by an earlier version")
    arms = [Arm(str(variant), int(rank)) for variant, rank in frame[["variant", "rank"]].drop_duplicates().to_numpy()]
    lora = {arm.rank for arm in arms if arm.variant == LORA}
    rows = []
    for arm in arms:
        rank = arm.rank if reference_rank is None else reference_rank
        if arm.variant in (LORA, "frozen") or rank not in lora:
            continue
        measured = reference_gains(scores, arm, Arm(LORA, rank), Arm(LORA, rank), confidence)
        rows += [_row(row, arm, rank, frame, data_per_row, confidence) for row in measured.to_dict(orient="records")]
    settings = settings_of(reference_rank=reference_rank, data_per_row=data_per_row, confidence=confidence)
    return KeptGains(pd.DataFrame(rows), settings)


def _row(
    row: Mapping[Any, Any], arm: Arm, rank: int, frame: pd.DataFrame, data_per_row: int, confidence: float
) -> dict[str, Any]:
    place = {name: row[name] for name in ("task", "length", "target_modules")}
    own = frame[(frame["variant"] == arm.variant) & (frame["rank"] == arm.rank)]
    for name, value in place.items():
        own = own[own[name] == value]
    numbers, data = int(own["adapter_parameters"].iloc[0]), int(own["train_rows"].iloc[0]) * data_per_row
    gain = row["reference_gain"]
    share = Difference(row["difference"], row["seed_error"], row["row_error"], row["seeds"])
    low, high = share.scaled(1 / gain).interval(confidence) if gain else (np.nan, np.nan)
    return place | {
        "variant": arm.variant,
        "rank": arm.rank,
        "reference_rank": rank,
        "adapter_parameters": numbers,
        "data": data,
        "numbers_per_datum": numbers / data,
        "kept": 1 + row["difference"] / gain,
        "low": 1 + low,
        "high": 1 + high,
        "seeds": row["seeds"],
        "clear": bool(gain > 4 * row["reference_error"]),
    }
