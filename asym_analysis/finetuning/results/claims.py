"""The paper's claims about which factor to train, and what a table of runs says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from asym_analysis._deprecated import FormerTable
from asym_analysis.finetuning.results.paper import Claim, paper_claims, printed_differences
from asym_analysis.finetuning.results.scores import Arm, VariantScores, length_size
from asym_analysis.finetuning.results.statistics import Difference, equivalence_p, holm, pooled, seeds_needed
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["ClaimCheck", "check_claims", "reference_gains"]

# LoRA's gain over the frozen model must be so many standard errors for a task to speak.
LEAST_GAIN = 4.0
WIDE = "the interval is too wide"
# Where gains are counted from: a constant guess counts the head's gain as the adapter's.
FROZEN = ("frozen run", "pretrained model")


@dataclass(frozen=True, eq=False, repr=False)
class ClaimCheck(FormerTable, TableResult):
    """One row a claim and family of models, differences in parts of LoRA's gain over the frozen model.

    Columns: `family, claim, says, source, first, second`; `tasks` that speak, on how many of them `first` is the better
    and the worse one (`tasks_better, tasks_worse`), and `tasks_left_out`, also those on which only one of the two was
    run; `seeds`, the fewest of a task; `difference, low, high`, pooled over tasks by random effects; `p_difference,
    p_equivalence`, adjusted by Holm over families and claims; `verdict`: "equivalent" (within the margin, no difference
    found), "slightly better" or "slightly worse" (a difference, but within the margin), "better", "worse" or
    "undecided"; `statement`, the verdict in a sentence with its effect, interval and margin; `metric, effect,
    effect_low, effect_high`, the difference in that metric where one task speaks; `reason` where undecided;
    `seeds_needed` to decide it on every task for itself, where an estimate is possible; `lengths`, the number of
    training lengths; `change`, by how much the difference rose from the shortest to the longest; `paper`, the
    differences that the paper prints for that family, and `agrees_with_paper`: "yes", "no", "partly" or "cannot tell".

    Attributes
    ----------
    frame
        The table.
    settings
        Margin, confidence, least number of seeds and versions.
    contrasts
        The differences of each task in its own metric, as `VariantScores.contrast` gives them, with `family`, `claim`,
        `reference_gain` and its error `reference_error`.
    """

    contrasts: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """The columns that a reader wants first.

        Returns
        -------
        DataFrame
            One row a claim: `family, claim, tasks, seeds, difference, low, high, verdict, statement,
            agrees_with_paper`.
        """
        columns = ["family", "claim", "tasks", "seeds", "difference", "low", "high", "verdict", "statement"]
        columns.append("agrees_with_paper")
        return self.frame[columns] if len(self.frame) else self.frame


def check_claims(
    scores: VariantScores,
    claims: Sequence[Claim] | None = None,
    *,
    margin: float = 0.1,
    confidence: float = 0.95,
    least_seeds: int = 3,
) -> ClaimCheck:
    """Hold claims against measured scores.

    Differences are in parts of LoRA's gain over the frozen model. A task speaks if that gain is known and larger than
    four standard errors; at its greatest length; tasks are pooled by random effects. Two tests decide: two one-sided
    ones, whether the difference lies within the margin, and one, whether it is zero. Both may hold: a tenth of a large
    gain is a wide margin, and a difference within it is then "slightly" better or worse. p-values are adjusted by
    Holm's method over all rows, the primary claims for themselves. Seeds and tasks whose scores are copies of another's
    count once, and a task that was run on several choices of modules counts as one. Nothing is decided where a run of
    one of the two has no finite score.

    Parameters
    ----------
    scores : VariantScores
        From `score_variants`; where its runs have a column `family`, families are judged apart.
    claims : sequence of Claim, optional
        The paper's, as far as the runs speak to them, if None.
    margin : float, default 0.1
        Of equivalence, in parts of LoRA's gain.
    confidence : float, default 0.95
        Of the intervals; the tests' level is one less it.
    least_seeds : int, default 3
        With fewer paired seeds on a task nothing is decided.

    Returns
    -------
    ClaimCheck
        See there.

    Examples
    --------
    >>> from asym_analysis import sample_runs, score_variants
    >>> check_claims(score_variants(sample_runs())).frame["verdict"].value_counts().to_dict()
    {'undecided': 15}
    """
    finite(margin, "margin", above=0)
    finite(confidence, "confidence", above=0.5, below=1)
    whole(least_seeds, "least_seeds", least=2)
    runs = scores.runs
    families = list(dict.fromkeys(runs["family"])) if "family" in runs else [""]
    rows, contrasts = [], []
    for family in families:
        members = runs[runs["family"] == family] if "family" in runs else runs
        own = VariantScores(scores.frame, scores.settings, _without_copies(members), scores.outcomes)
        arms = set(zip(members["variant"], members["rank"], strict=True))
        for claim in paper_claims(arms) if claims is None else claims:
            if not {claim.first, claim.second, claim.reference} <= arms:
                continue
            measured = reference_gains(own, claim.first, claim.second, claim.reference, confidence)
            if len(measured):
                contrasts.append(measured.assign(family=family, claim=claim.name))
                row = _judged(family, claim, measured, margin, confidence, least_seeds)
                row["tasks_left_out"] += _without_either(members, claim)
                if _without_score(scores, claim):
                    row |= {"p_difference": 1.0, "p_equivalence": 1.0, "reason": "a run of the two has no finite score"}
                rows.append(row)
    frame = _verdicts(pd.DataFrame(rows), confidence, margin)
    settings = settings_of(margin=margin, confidence=confidence, least_seeds=least_seeds)
    return ClaimCheck(frame, settings, pd.concat(contrasts, ignore_index=True) if contrasts else pd.DataFrame())


def _without_copies(runs: pd.DataFrame) -> pd.DataFrame:
    """Leave out copies: seeds with the scores of an earlier seed of that task, tasks with those of an earlier task."""
    copies: set[object] = set()
    seen: set[object] = set()
    places = ["task", "length", "target_modules"]
    for _, members in runs.groupby(places, sort=False, dropna=False):
        scores = members.pivot_table(index="seed", columns=["variant", "rank"], values="score", sort=False)
        if scores.shape[1] > 1:
            again = scores.index[scores.duplicated()]
            copies.update(members.index[members["seed"].isin(again)])
        key = frozenset(zip(*(members[name] for name in ("length", "variant", "rank", "seed", "score")), strict=True))
        if key in seen and len(members[["variant", "rank"]].drop_duplicates()) > 1:
            copies.update(members.index)
        seen.add(key)
    return runs.drop(index=list(copies))


def _without_either(runs: pd.DataFrame, claim: Claim) -> int:
    """Number of tasks on which one of the two variants was run, and the other was not."""
    count = 0
    for _, members in runs.groupby("task"):
        had = set(zip(members["variant"], members["rank"], strict=True))
        count += len({claim.first, claim.second} & had) == 1
    return count


def _without_score(scores: VariantScores, claim: Claim) -> bool:
    left_out = {(run["variant"], run["rank"]) for run in scores.settings.get("without_score", ())}
    return bool(left_out & {claim.first, claim.second})


def reference_gains(scores: VariantScores, first: Arm, second: Arm, reference: Arm, confidence: float) -> pd.DataFrame:
    """Take the difference of two variants on every task and length, with LoRA's gain over the frozen model there.

    Parameters
    ----------
    scores
        From `score_variants`.
    first, second
        What is compared.
    reference
        LoRA at the rank whose gain is the unit.
    confidence
        Of the intervals.

    Returns
    -------
    DataFrame
        The columns of `VariantScores.contrast`, `reference_gain` and its error `reference_error`; NaN where the frozen
        model was not scored.
    """
    found = scores.contrast(first, second, confidence=confidence)
    gains = [_gain(scores, reference, row) for row in found.to_dict(orient="records")]
    return found.assign(
        reference_gain=[gain.mean if gain else np.nan for gain in gains],
        reference_error=[gain.error if gain else np.nan for gain in gains],
    )


def _gain(scores: VariantScores, reference: Arm, row: Mapping[Any, Any]) -> Difference | None:
    """LoRA's gain over the frozen model on one task; None where that model was not scored."""
    runs = scores.runs[scores.runs["task"] == row["task"]]
    lora = runs[(runs["variant"] == reference.variant) & (runs["rank"] == reference.rank)]
    lora = lora[(lora["length"] == row["length"]) & (lora["target_modules"] == row["target_modules"])]
    if lora.empty:
        return None
    frozen = runs[runs["variant"] == "frozen"]
    same = frozen[frozen["length"] == row["length"]]
    frozen = same if len(same) else frozen
    sign = -1 if lora["lower_is_better"].iloc[0] else 1
    values = lora["score"].to_numpy(dtype=float)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    if len(frozen):
        others = frozen["score"].to_numpy(dtype=float)
        other = float(others.std(ddof=1) / np.sqrt(len(others))) if len(others) > 1 else 0.0
        error, base = float(np.hypot(error, other)), float(others.mean())
    elif lora["baseline_of"].iloc[0] in FROZEN:
        base = float(lora["baseline"].iloc[0])
    else:
        return None
    return Difference(sign * (float(values.mean()) - base), error, row["row_error"], len(values))


def _judged(
    family: str, claim: Claim, measured: pd.DataFrame, margin: float, confidence: float, least_seeds: int
) -> dict[str, Any]:
    sizes = measured["length"].map(length_size)
    longest = measured[sizes == sizes.groupby(measured["task"]).transform("max")]
    known = longest["reference_gain"].notna()
    strong = longest["reference_gain"] > LEAST_GAIN * longest["reference_error"]
    spread = longest["standard_error"] > 0
    speaking = longest[known & strong & (spread | (longest["seeds"] < 2))]
    by_task = speaking.groupby("task", sort=False)["difference"].mean()
    row: dict[str, Any] = {
        "family": family,
        "claim": claim.name,
        "says": claim.says,
        "source": claim.source,
        "first": str(claim.first),
        "second": str(claim.second),
        "primary": claim.primary,
        "tasks": len(by_task),
        "tasks_better": int((by_task > 0).sum()),
        "tasks_worse": int((by_task < 0).sum()),
        "tasks_left_out": longest["task"].nunique() - len(by_task),
        "seeds": int(longest["seeds"].min()),
        "lengths": int(measured["length"].nunique()),
    }
    paper, sign = printed_differences(family, claim, [str(task) for task in longest["task"]])
    row |= {"paper": paper, "paper_sign": sign}
    few = row["seeds"] < least_seeds
    reasons = [f"fewer than {least_seeds} seeds"] if few else []
    if speaking.empty:
        weak = "LoRA's gain is below four standard errors"
        if (known & strong).any():
            weak = "all seeds differ by one and the same amount, so that their spread is unknown"
        reasons.append(weak if known.any() else "no frozen run to count LoRA's gain from")
        names = ("difference", "low", "high", "effect", "effect_low", "effect_high", "change", "seeds_needed")
        nothing: dict[str, Any] = {**dict.fromkeys(names, np.nan), "metric": ""}
        return row | nothing | {"p_difference": 1.0, "p_equivalence": 1.0, "reason": "; ".join(reasons)}
    shares = _shares(speaking)
    whole_difference = pooled(shares)
    low, high = whole_difference.interval(confidence)
    needed = [seeds_needed(share, margin, alpha=1 - confidence) for share in shares]
    return row | {
        "difference": whole_difference.mean,
        "low": low,
        "high": high,
        **_own_units(speaking, confidence),
        "change": _change(measured, speaking),
        "seeds_needed": np.nan if None in needed else float(max(n for n in needed if n is not None)),
        "p_difference": 1.0 if few else whole_difference.p_value,
        "p_equivalence": 1.0 if few else equivalence_p(whole_difference, margin),
        "reason": "; ".join(reasons) or WIDE,
    }


def _own_units(speaking: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """The difference in the metric of the one task that speaks; several tasks have no common unit."""
    if len(speaking) > 1:
        return {"metric": "", "effect": np.nan, "effect_low": np.nan, "effect_high": np.nan}
    row = speaking.iloc[0]
    low, high = Difference(row["difference"], row["seed_error"], row["row_error"], int(row["seeds"])).interval(
        confidence
    )
    return {"metric": row["metric"], "effect": row["difference"], "effect_low": low, "effect_high": high}


def _shares(rows: pd.DataFrame) -> list[Difference]:
    """The differences of tasks in parts of LoRA's gain, whose own error is left out.

    Choices of modules on one task have its rows and seeds in common: their mean has the mean of their errors.
    """
    scaled = rows[["difference", "seed_error", "row_error"]].div(rows["reference_gain"], axis=0)
    parts = scaled.assign(seeds=rows["seeds"]).groupby(rows["task"], sort=False)
    means, seeds = parts[["difference", "seed_error", "row_error"]].mean(), parts["seeds"].min()
    return [
        Difference(float(mean), float(seed_error), float(row_error), int(count))
        for (mean, seed_error, row_error), count in zip(means.to_numpy(), seeds, strict=True)
    ]


def _change(measured: pd.DataFrame, longest: pd.DataFrame) -> float:
    """How much the difference rose from the shortest to the greatest length, in parts of LoRA's gain there."""
    sizes = measured["length"].map(length_size)
    short = measured[sizes == sizes.groupby(measured["task"]).transform("min")]
    short = short[short["task"].isin(longest["task"])]
    if measured["length"].drop_duplicates().size < 2 or short.empty or short["reference_gain"].isna().any():
        return float("nan")
    shares = [(part["difference"] / part["reference_gain"]).mean() for part in (longest, short)]
    return float(shares[0] - shares[1])


def _verdicts(table: pd.DataFrame, confidence: float, margin: float) -> pd.DataFrame:
    """Adjust for many rows, and decide each."""
    if table.empty:
        return table
    for name in ("p_difference", "p_equivalence"):
        for _, members in table.groupby("primary"):
            table.loc[members.index, name] = holm(members[name].tolist())
    level = 1 - confidence
    alone = (table["low"] > 0) | (table["high"] < 0)
    many = table.groupby("primary")["primary"].transform("size").astype(str)
    adjusted = "the interval leaves out zero, but not for one of " + many + " verdicts"
    table["reason"] = table["reason"].mask(alone & (table["reason"] == WIDE), adjusted)
    records = table.to_dict(orient="records")
    verdicts = [_verdict(row, level) for row in records]
    agreements = [_agreement(row, verdict) for row, verdict in zip(records, verdicts, strict=True)]
    table["verdict"], table["agrees_with_paper"] = verdicts, agreements
    table["statement"] = [_statement(row, verdict, margin) for row, verdict in zip(records, verdicts, strict=True)]
    table["reason"] = table["reason"].where(table["verdict"] == "undecided", "")
    table["seeds_needed"] = table["seeds_needed"].where(table["verdict"] == "undecided")
    order = ["family", "claim", "says", "source", "first", "second", "tasks", "tasks_better", "tasks_worse"]
    order += ["tasks_left_out", "seeds", "difference"]
    order += ["low", "high", "metric", "effect", "effect_low", "effect_high", "p_difference", "p_equivalence"]
    order += ["verdict", "statement", "reason", "seeds_needed", "lengths", "change"]
    return table[[*order, "paper", "agrees_with_paper"]]


def _verdict(row: Mapping[Any, Any], level: float) -> str:
    within, differs = row["p_equivalence"] < level, row["p_difference"] < level
    side = "better" if row["difference"] > 0 else "worse"
    if within:
        return f"slightly {side}" if differs else "equivalent"
    return side if differs else "undecided"


def _statement(row: Mapping[Any, Any], verdict: str, margin: float) -> str:
    """The verdict in words that cannot be read without its size."""
    if row["difference"] != row["difference"]:
        return f"undecided: {row['reason']}"
    size = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) of LoRA's gain"
    if row["metric"]:
        size += f", {row['effect']:+.3g} ({row['effect_low']:+.3g} to {row['effect_high']:+.3g}) in {row['metric']}"
    elif row["tasks"] > 1:
        size += f", mean of {row['tasks']} tasks, {row['tasks_better']} better and {row['tasks_worse']} worse"
    within = f"within the margin of {margin:g}"
    said = {
        "equivalent": f"no difference found, and {within}",
        "slightly better": f"better, but {within}",
        "slightly worse": f"worse, but {within}",
    }
    if verdict == "undecided" and row["reason"] != WIDE:
        size += f"; {row['reason']}"
    if row["tasks_left_out"]:
        size += f"; {row['tasks_left_out']} task{'s' if row['tasks_left_out'] > 1 else ''} left out"
    return f"{said.get(verdict, verdict)}: {size}"


def _agreement(row: Mapping[Any, Any], verdict: str) -> str:
    """Whether a decided difference has the sign of the paper's own rows for that family."""
    side = verdict.removeprefix("slightly ")
    if side not in ("better", "worse") or not row["paper"]:
        return "cannot tell"
    if row["paper_sign"] == 0:
        return "partly"
    return "yes" if row["paper_sign"] == (1 if side == "better" else -1) else "no"
