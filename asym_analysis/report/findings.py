"""What a comparison says, in numbers and then in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from asym_analysis.alignment.comparison import SubspaceComparison

__all__ = ["FactorFinding", "family_sentences", "find", "finding_sentences"]

# Words for a mean similarity. They are conventions of this report, printed in it, and not tests of significance.
NEAR_CHANCE = 1.5
WELL_ABOVE = 3.0
SAME_SUBSPACE = 0.5
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class FactorFinding:
    """One factor of one family: its mean similarity over pairs and modules, against random subspaces.

    Attributes
    ----------
    factor
        "A" or "B".
    pairs, modules
        How many pairs of adapters and how many modules were compared.
    mean, chance
        Mean similarity, and the mean of its null between random subspaces of the same sizes.
    significant
        Share of all (pair, module) whose p-value under the null is below .01; chance alone gives .01.
    same_initialization
        Share of the pairs that began from the same value of this factor, where that can be told.
    """

    factor: str
    pairs: int
    modules: int
    mean: float
    chance: float
    significant: float
    same_initialization: float

    @property
    def level(self) -> str:
        """The mean in words: "nearly the same subspace", "well above chance", "above chance" or "near chance"."""
        if self.mean >= SAME_SUBSPACE:
            return "nearly the same subspace"
        if self.mean >= WELL_ABOVE * self.chance:
            return "well above chance"
        if self.mean >= NEAR_CHANCE * self.chance:
            return "above chance"
        return "near chance"

    @property
    def sentence(self) -> str:
        """One sentence with the numbers."""
        space = {"A": "row spaces of A (what is read from the input)", "B": "column spaces of B (what is written out)"}
        return (
            f"The {space.get(self.factor, self.factor)} overlap by {self.mean:.3f} on average, where random subspaces "
            f"give {self.chance:.3f}: {self.level} ({self.mean / self.chance:.1f} times; {self.significant:.0%} of the "
            f"pairs of modules have p < {SIGNIFICANCE:g})."
        )


def find(frame: pd.DataFrame) -> dict[str, FactorFinding]:
    """Sum up rows of a comparison's frame by factor.

    Returns
    -------
    dict
        Factor -> `FactorFinding`, leaving out factors for which no pair of modules has a value.
    """
    findings = {}
    for factor, rows in frame.dropna(subset=["value"]).groupby("factor", observed=True):
        findings[str(factor)] = FactorFinding(
            factor=str(factor),
            pairs=len(rows[["adapter_i", "adapter_j"]].drop_duplicates()),
            modules=rows["module"].nunique(),
            mean=float(rows["value"].mean()),
            chance=float(rows["null_mean"].mean()),
            significant=float((rows["p_value"] < SIGNIFICANCE).mean()),
            same_initialization=float(rows["same_initialization"].fillna(False).mean()),
        )
    return findings


def family_sentences(comparison: SubspaceComparison, moved: SubspaceComparison | None = None) -> list[str]:
    """Say in plain words what A and B did in one family of adapters.

    Pairs and modules that share their initialization are told apart from the others: the one kind would hide the other.

    Parameters
    ----------
    comparison
        A and B of the family.
    moved
        A - A0 of the same adapters, where A0 is known and shared: what training added to it.
    """
    frame = comparison.frame
    shared = frame["same_initialization"]
    if shared.all() or not shared.any():
        return finding_sentences(find(frame), None if moved is None else find(moved.frame))
    together, apart = find(frame[shared]), find(frame[~shared])
    pairs = next(iter(together.values())).pairs
    overlaps = " and ".join(f"{finding.mean:.3f} in {factor}" for factor, finding in together.items())
    marked = (comparison.initialization_marks == 1).any(0)
    share = (comparison.initialization_marks[:, marked] == 1).mean()
    where = "all their modules" if share == 1 else f"{share:.0%} of their modules"
    return [
        f"{pairs} of {len(comparison.pairs[0])} pairs share their initialization (checkpoints of one run, or one seed) "
        f"in {where}. There they overlap by {overlaps}, whatever they learned. The rest is about the others.",
        *finding_sentences(apart),
    ]


def finding_sentences(findings: dict[str, FactorFinding], moved: dict[str, FactorFinding] | None = None) -> list[str]:
    """Say in plain words what findings on A and B, and on A - A0, mean together."""
    sentences = [finding.sentence for finding in findings.values()]
    if {"A", "B"} <= findings.keys():
        sentences.append(_reading(findings["A"], findings["B"]))
    if moved and "A" in moved:
        added = moved["A"]
        sentences.append(
            f"What training added to it, A - A0, overlaps by {added.mean:.3f}: {added.level} "
            f"({added.mean / added.chance:.1f} times)."
        )
    return sentences


def _reading(A: FactorFinding, B: FactorFinding) -> str:
    if A.same_initialization > 0.5:
        if A.level == "nearly the same subspace":
            return (
                "These adapters share the initialization of A and still share A: their similar A says how they were "
                "initialized, not what they learned."
            )
        return (
            f"These adapters share the initialization of A. Training moved it: {A.mean:.0%} of the squared cosines is "
            "left, which says how they were initialized, not what they learned."
        )
    if B.same_initialization > 0.5:
        return "These adapters share the initialization of B: a similar B does not say what they learned."
    if A.level == B.level == "near chance":
        return "Neither factor is more alike than random subspaces are: the runs share no directions."
    if A.mean / A.chance >= B.mean / B.chance:
        return "A is at least as alike as B, against chance: these runs do not show the asymmetry of the paper."
    if A.level == "near chance":
        return (
            "The runs agree on B and not on A: each kept a row space of its own, and wrote output directions that they "
            "share."
        )
    return "B is more alike than A, against chance; A is above chance too, so A also moved toward shared directions."
