"""The paper's claims about which factor to train, and whether they hold on a table of one's own runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import pandas as pd

from asym_analysis.finetuning.results.scores import VariantScores

__all__ = ["Claim", "check_claims", "paper_claims", "paper_results"]


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


def paper_claims(runs: Iterable[str]) -> list[Claim]:
    """The paper's claims that some runs can speak to, in the names of the shipped configs.

    Runs are called lora-rN, b-only-rN and a-only-rN, N their rank; b-only-V, a-only-U and a-only-Km start the frozen
    factor elsewhere, at the rank of the first lora run.

    Examples
    --------
    >>> [claim.name for claim in paper_claims(["b-only-r16", "a-only-r16"])]
    ['B-only beats A-only at equal rank']
    """
    names = list(dict.fromkeys(runs))
    found = [re.fullmatch(r"(lora|b-only|a-only)-r(\d+)", name) for name in names]
    ranks = sorted({int(match[2]) for match in found if match})
    base = next((int(match[2]) for match in found if match and match[1] == "lora"), None)
    claims = []
    for rank in ranks:
        lora, b_only, a_only = (f"{kind}-r{rank}" for kind in ("lora", "b-only", "a-only"))
        twice = f"b-only-r{2 * rank}"
        claims += [
            Claim("B-only beats A-only at equal rank", "Tables 1, 3, 4", b_only, a_only, "better"),
            Claim("B-only is no worse than LoRA at equal rank", "Tables 1, 5", b_only, lora, "no worse"),
            Claim("B-only at twice the rank is no worse than LoRA", "Tables 1, 4, 5", twice, lora, "no worse"),
            Claim("B-only at twice the rank beats LoRA", "Tables 1, 4", twice, lora, "better"),
        ]
        if rank == base:
            claims += [
                Claim(
                    "A random frozen A is no worse than the weight's V", "Tables 1, 7", b_only, "b-only-V", "no worse"
                ),
                Claim(
                    "A random frozen B is no worse than the weight's U", "Tables 1, 7", a_only, "a-only-U", "no worse"
                ),
                Claim(
                    "A Kaiming frozen B fails, an orthonormal one does not", "Table 1", a_only, "a-only-Km", "better"
                ),
            ]
    return [claim for claim in claims if {claim.first, claim.second} <= set(names)]


def check_claims(
    scores: VariantScores, claims: Sequence[Claim] | None = None, *, confidence: float = 0.9
) -> pd.DataFrame:
    """Hold claims against measured scores, one row a claim whose two runs were made on a common task.

    A task speaks for a claim of "better" where the first run is better beyond the interval of the seeds, and for one of
    "no worse" where it is not worse beyond it, which few seeds make easy: look at the ratio of gains as well. The
    verdict is "holds" where every task speaks for it, "does not hold" where none does, else "holds partly"; "not told
    apart" where no task says anything of a claim of "better".

    Parameters
    ----------
    scores
        From `score_variants`.
    claims
        The paper's, as far as the runs speak to them, if None.
    confidence
        Of the intervals.

    Returns
    -------
    DataFrame
        `claim, source, first, second, better, not_told_apart, worse` (numbers of tasks), `gain_ratio` (the gain of
        the first over the baseline, as a part of the second's: median over tasks, NaN without baselines) and `verdict`.
    """
    rows = []
    for claim in paper_claims(scores.frame["run"]) if claims is None else claims:
        contrasts = scores.contrast(claim.first, claim.second, confidence=confidence)
        if contrasts.empty:
            continue
        counts = contrasts["outcome"].value_counts()
        better, equal, worse = (int(counts.get(name, 0)) for name in ("better", "not told apart", "worse"))
        speaks = better if claim.says == "better" else better + equal
        verdict = "holds" if speaks == len(contrasts) else "holds partly" if speaks else "does not hold"
        if not speaks and equal == len(contrasts):
            verdict = "not told apart"
        # Without baselines every gain is NaN, and the pivot has no columns.
        gains = scores.frame.pivot_table(index="task", columns="run", values="gain")
        gains = gains.reindex(columns=[claim.first, claim.second])
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
    """The numbers that the paper prints, as far as they are known here (docs/theory.md, section 1.6).

    Columns: `table, family, model, task, run` (in the names of the shipped configs where there is one, else in words),
    `rank, metric, value, standard_error, note`. They are as reported by later works.
    """
    return pd.read_csv(files("asym_analysis.finetuning.results").joinpath("paper_results.csv").open(encoding="utf-8"))
