"""What a comparison says, in numbers and then in plain words that follow chance and power."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_ndtr, ndtri, ndtri_exp
from scipy.stats import t as student

from asym_analysis.alignment.comparison import SubspaceComparison

__all__ = ["LEVELS", "Difference", "FactorFinding", "difference", "family_sentences", "find", "finding_sentences"]

#: A mean overlap counts as more than chance where random subspaces reach it with a probability below this.
SIGNIFICANCE = 0.01
#: Least excess over chance, as a part of the way from chance to 1 -> words. Conventions, printed in the report.
LEVELS: Mapping[float, str] = {
    0.8: "nearly the same",
    0.25: "alike",
    0.05: "somewhat alike",
    -math.inf: "barely more alike than random ones",
}
NOT_ALIKE, CANNOT_TELL = "no more alike than random ones", "too large to tell from random ones"
#: Nothing is said about pairs in which even this excess would have been missed in one case of five.
LARGEST_BLIND = 0.25
#: A smaller difference between A and B, in parts of the way from chance to 1, is no asymmetry worth the name.
LEAST_DIFFERENCE = 0.01
LEAST_ADAPTERS = 4  # below, an interval over adapters rests on too few of them

SPACES = {"A": "the input directions that A reads", "B": "the output directions that B writes"}


@dataclass(frozen=True)
class FactorFinding:
    """One factor of some pairs of adapters: its mean similarity over pairs and modules, against random subspaces.

    Attributes
    ----------
    factor
        "A" or "B".
    pairs, modules
        How many pairs of adapters and how many modules were compared.
    mean, chance
        Mean similarity, and the mean of its null distribution between random subspaces of the same sizes.
    null_error
        Standard deviation of `mean` between random subspaces.
    p_value
        Probability that random subspaces are as similar, from the p-values of all pairs and modules (Stouffer).
    same_initialization
        Share of the pairs and modules that share the initialization of this factor, where that is known.
    """

    factor: str
    pairs: int
    modules: int
    mean: float
    chance: float
    null_error: float
    p_value: float
    same_initialization: float = 0.0

    @property
    def excess(self) -> float:
        """The part of the way from chance (0) to the same subspace (1)."""
        return (self.mean - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    @property
    def detectable(self) -> float:
        """The excess that would have been called more than chance in four cases of five."""
        if self.chance >= 1:
            return math.inf
        return float((ndtri(1 - SIGNIFICANCE) + ndtri(0.8)) * self.null_error / (1 - self.chance))

    @property
    def above_chance(self) -> bool:
        """Whether random subspaces would be this similar with a probability below `SIGNIFICANCE`."""
        return self.p_value < SIGNIFICANCE

    @property
    def level(self) -> str:
        """The similarity in words: one of `LEVELS`, or that it is no more than chance, or that the data cannot tell."""
        if self.chance > 1 - 1e-9 or (not self.above_chance and self.detectable > LARGEST_BLIND):
            return CANNOT_TELL
        if not self.above_chance:
            return NOT_ALIKE
        return next(words for least, words in LEVELS.items() if self.excess >= least)

    @property
    def alike(self) -> bool:
        """True where the words say that there is something in common."""
        return self.level in [words for least, words in LEVELS.items() if least > 0]

    @property
    def sentence(self) -> str:
        """One sentence with the numbers."""
        space = SPACES.get(self.factor, f"the subspaces of {self.factor}")
        chance = "p < .001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        return (
            f"{space[0].upper()}{space[1:]} overlap by {self.mean:.3f} on average, where random subspaces give "
            f"{self.chance:.3f} ({chance}): {max(0.0, self.excess):.0%} of the way from chance to the same subspace."
        )


@dataclass(frozen=True)
class Difference:
    """How much more alike B is than A, as a difference of their excesses over chance, over the same pairs.

    Attributes
    ----------
    value
        The mean excess of B minus that of A.
    low, high
        95 % interval over adapters (jackknife); NaN with fewer than four.
    adapters
        How many adapters it rests on.
    """

    value: float
    low: float
    high: float
    adapters: int

    @property
    def told(self) -> bool:
        """Whether there are enough adapters for an interval."""
        return not math.isnan(self.low)

    @property
    def sentence(self) -> str:
        """What the interval says of other runs, or that it cannot say anything."""
        if not self.told:
            count = {2: "Two", 3: "Three"}.get(self.adapters, str(self.adapters))
            return f"{count} adapters give no test of a difference between A and B: this is about these adapters alone."
        interval = f"{100 * self.value:.0f} points, 95 % interval {100 * self.low:.0f} to {100 * self.high:.0f}"
        if (self.low > 0 or self.high < 0) and abs(self.value) < LEAST_DIFFERENCE:
            more, less = ("B", "A") if self.low > 0 else ("A", "B")
            return (
                f"{more} is more alike than {less} by {100 * abs(self.value):.1f} points, which is not chance but too "
                "little to matter."
            )
        if self.low > 0:
            return f"B is more alike than A ({interval}): the asymmetry of the paper."
        if self.high < 0:
            return f"A is more alike than B ({interval}): not the asymmetry of the paper."
        return f"No difference between A and B is found ({interval})."


def find(frame: pd.DataFrame, shared: Mapping[str, float] | None = None) -> dict[str, FactorFinding]:
    """Sum up rows of a comparison's frame by factor.

    Parameters
    ----------
    frame
        Rows of `SubspaceComparison.frame`.
    shared
        Factor -> share of the pairs and modules that share its initialization.

    Returns
    -------
    dict
        Factor -> `FactorFinding`, leaving out factors for which no pair of modules has a value.
    """
    findings = {}
    for factor, rows in frame.dropna(subset=["value", "null_mean"]).groupby("factor", observed=True):
        findings[str(factor)] = FactorFinding(
            factor=str(factor),
            pairs=len(rows[["adapter_i", "adapter_j"]].drop_duplicates()),
            modules=rows["module"].nunique(),
            mean=float(rows["value"].mean()),
            chance=float(rows["null_mean"].mean()),
            null_error=float(np.sqrt((rows["null_std"] ** 2).sum()) / len(rows)),
            p_value=_together(rows["p_value"].to_numpy(dtype=float)),
            same_initialization=(shared or {}).get(str(factor), 0.0),
        )
    return findings


def _together(p_values: np.ndarray) -> float:
    """One p-value for many: the sum of their normal scores. Overlaps of random subspaces are pairwise independent."""
    known = p_values[np.isfinite(p_values)]
    if not len(known):
        return 1.0
    scores = -ndtri_exp(np.log(np.clip(known, 1e-300, 1 - 1e-12)))
    return float(np.exp(log_ndtr(-scores.sum() / math.sqrt(len(scores)))))


def difference(frame: pd.DataFrame) -> Difference | None:
    """Compare the excess of B over chance with that of A, pair by pair, with an interval over adapters.

    Parameters
    ----------
    frame
        Rows of `SubspaceComparison.frame` with both factors.

    Returns
    -------
    Difference or None
        None where one of the factors has no values.
    """
    rows = frame.dropna(subset=["value", "null_mean"])
    rows = rows.assign(excess=(rows["value"] - rows["null_mean"]) / (1 - rows["null_mean"]).clip(lower=1e-9))
    table = rows.pivot_table(
        index=["adapter_i", "adapter_j"], columns="factor", values="excess", aggfunc="mean", observed=True
    )
    if not {"A", "B"} <= set(map(str, table.columns)):
        return None
    gap = (table["B"] - table["A"]).dropna()
    if gap.empty:
        return None
    first, second = (gap.index.get_level_values(level).astype(str).to_numpy() for level in (0, 1))
    names = sorted({*first, *second})
    value = float(gap.mean())
    without = [gap[(first != name) & (second != name)] for name in names]
    if len(names) < LEAST_ADAPTERS or any(part.empty for part in without):
        return Difference(value, math.nan, math.nan, len(names))
    left = np.array([part.mean() for part in without])
    count = len(names)
    error = math.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    reach = float(student.ppf(0.975, count - 1)) * error
    return Difference(value, value - reach, value + reach, count)


def family_sentences(
    comparison: SubspaceComparison,
    moved: SubspaceComparison | None = None,
    shared: Mapping[str, float] | None = None,
) -> list[str]:
    """Say in plain words what A and B did in one family of adapters: a verdict, then what it rests on.

    Pairs that share an initialization are kept apart from those that do not: the one kind would hide the other.

    Parameters
    ----------
    comparison
        A and B of the family.
    moved
        A - A0 of the same adapters, where the initialization is known and shared: what training added to it.
    shared
        Factor -> share of the pairs and modules that share its initialization.

    Returns
    -------
    list of str
        The verdict first.
    """
    frame = comparison.frame
    adapters = len(comparison.names)
    related = _related(frame, frame["same_initialization"].fillna(False).astype(bool))
    if related.all() or not related.any():
        findings = find(frame, shared)
        return finding_sentences(findings, adapters, difference(frame), None if moved is None else find(moved.frame))
    together, apart = find(frame[related]), find(frame[~related])
    pairs = next(iter(together.values())).pairs
    overlaps = " and ".join(f"{finding.mean:.3f} in {factor}" for factor, finding in together.items())
    note = (
        f"{pairs} of {len(comparison.pairs[0])} pairs share an initialization and overlap by {overlaps}: that shows "
        "how they were initialized, not what they learned."
    )
    return [*finding_sentences(apart, adapters, difference(frame[~related])), f"Left out of this: {note}"]


def _related(frame: pd.DataFrame, marked: pd.Series) -> pd.Series:
    """The rows of all pairs that share an initialization in some module."""
    pairs = frame["adapter_i"].cat.codes.astype("int64") * len(frame["adapter_j"].cat.categories)
    pairs += frame["adapter_j"].cat.codes
    return pairs.isin(pairs[marked].unique())


def finding_sentences(
    findings: Mapping[str, FactorFinding],
    adapters: int,
    gap: Difference | None = None,
    moved: Mapping[str, FactorFinding] | None = None,
) -> list[str]:
    """Say in plain words what findings on A and B, and on A - A0, mean together.

    Parameters
    ----------
    findings
        Factor -> its finding.
    adapters
        How many adapters were compared.
    gap
        The difference between B and A.
    moved
        The findings on A - A0.

    Returns
    -------
    list of str
        The verdict first.
    """
    sentences = [_verdict(findings, adapters)]
    if gap is not None and all(findings[factor].same_initialization <= 0.5 for factor in ("A", "B")):
        sentences.append(gap.sentence)
    sentences += [finding.sentence for finding in findings.values()]
    if moved and "A" in moved:
        added = moved["A"]
        sentences.append(f"What training added to A, A - A0, is {added.level}: overlap {added.mean:.3f}, chance "
                         f"{added.chance:.3f}.")  # fmt: skip
    return sentences


def _verdict(findings: Mapping[str, FactorFinding], adapters: int) -> str:
    these = f"these {adapters} adapters"
    if not {"A", "B"} <= findings.keys():
        return (
            "; ".join(f"{SPACES.get(f, f)} are {finding.level}" for f, finding in findings.items()).capitalize() + "."
        )
    A, B = findings["A"], findings["B"]
    for factor, other in (("A", "B"), ("B", "A")):
        if findings[factor].same_initialization > 0.5:
            kept = findings[factor]
            now = f"their {factor} is still {kept.level}" if kept.above_chance else f"their {factor} has left it"
            return (
                f"All of {these} share the initialization of {factor}, and {now}, which shows how they were "
                f"initialized and not what they learned; {SPACES[other]} are {findings[other].level}."
            )
    if A.level == B.level:
        return f"Between {these}, {SPACES['B']} and {SPACES['A']} are both {A.level}."
    return f"Between {these}, {SPACES['B']} are {B.level}, and {SPACES['A']} are {A.level}."
