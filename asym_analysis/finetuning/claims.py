"""The paper's claims about which factor to train, and whether they hold on a table of one's own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import pandas as pd

from asym_analysis.finetuning.variant_scores import VariantScores

__all__ = ["PAPER_CLAIMS", "Claim", "check_claims", "paper_results"]


@dataclass(frozen=True)
class Claim:
    """One run of a plan is said to be better than another, or no worse.

    Parameters
    ----------
    name
        The claim in a few words.
    source
        Where it was made.
    first, second
        Runs of the plan, by the names that the shipped configs give them.
    says
        "better": `first` beats `second`; "no worse": it does not lose to it.
    """

    name: str
    source: str
    first: str
    second: str
    says: Literal["better", "no worse"]


PAPER_CLAIMS = (
    Claim("B-only beats A-only at equal rank", "Tables 1, 3, 4", "b-only-r8", "a-only-r8", "better"),
    Claim("B-only is no worse than LoRA at equal rank", "Tables 1, 5", "b-only-r8", "lora-r8", "no worse"),
    Claim("B-only at twice the rank is no worse than LoRA", "Tables 1, 4, 5", "b-only-r16", "lora-r8", "no worse"),
    Claim("B-only at twice the rank beats LoRA", "Tables 1, 4", "b-only-r16", "lora-r8", "better"),
    Claim("A random frozen A is no worse than the weight's own V", "Tables 1, 7", "b-only-r8", "b-only-V", "no worse"),
    Claim("A random frozen B is no worse than the weight's own U", "Tables 1, 7", "a-only-r8", "a-only-U", "no worse"),
    Claim("A Kaiming frozen B fails where an orthonormal one does not", "Table 1", "a-only-r8", "a-only-Km", "better"),
)


def check_claims(
    scores: VariantScores, claims: Sequence[Claim] = PAPER_CLAIMS, *, confidence: float = 0.9
) -> pd.DataFrame:
    """Hold claims against measured scores, one row a claim whose two runs were both made.

    A task speaks for a claim of "better" where the first run is better beyond the interval of the seeds, and for one of
    "no worse" where it is not worse beyond it, which few seeds make easy: look at the ratio of gains as well. The
    verdict is "holds" where every task speaks for it, "does not hold" where none does, else "holds partly".

    Returns
    -------
    DataFrame
        `claim, source, first, second, better, not_told_apart, worse` (numbers of tasks), `gain_ratio` (the gain of
        the first over the baseline, as a part of the second's: median over tasks, NaN without baselines) and `verdict`.
    """
    known = set(scores.frame["run"])
    rows = []
    for claim in claims:
        if not {claim.first, claim.second} <= known:
            continue
        contrasts = scores.contrast(claim.first, claim.second, confidence=confidence)
        if contrasts.empty:
            continue
        counts = contrasts["outcome"].value_counts()
        better, equal, worse = (int(counts.get(name, 0)) for name in ("better", "not told apart", "worse"))
        speaks = better if claim.says == "better" else better + equal
        verdict = "holds" if speaks == len(contrasts) else "does not hold" if not speaks else "holds partly"
        gains = scores.frame.pivot_table(index="task", columns="run", values="gain")
        rows.append(
            {
                "claim": claim.name,
                "source": claim.source,
                "first": claim.first,
                "second": claim.second,
                "better": better,
                "not_told_apart": equal,
                "worse": worse,
                "gain_ratio": float((gains[claim.first] / gains[claim.second]).dropna().median()),
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows)


def paper_results() -> pd.DataFrame:
    """The numbers that the paper prints, as far as they are known here (theory notes, section 1.6).

    Columns: `table, family, model, task, run` (in the names of the shipped configs where there is one, else in words),
    `rank, metric, value, standard_error, note`. They are second-hand: read in texts about the paper.
    """
    return pd.read_csv(files("asym_analysis.finetuning").joinpath("paper_results.csv").open(encoding="utf-8"))
