"""The words of the report, and the conventions behind them."""

from __future__ import annotations

from asym_analysis.report.findings import LARGEST_BLIND, LEAST_ADAPTERS, LEVELS, SIGNIFICANCE

__all__ = ["GLOSSARY", "NOTES"]

GLOSSARY = {
    "A, B": "The factors of a LoRA update, scaling · B·A. A reads input directions, B writes output directions.",
    "initialization": "The values of a factor before the first step, A0 and B0. Usually A0 is random and B0 is zero.",
    "overlap": "Mean squared cosine of the principal angles between two subspaces: 1 for the same subspace, 0 for "
    "orthogonal ones. It does not change when (A, B) is replaced by (GA, BG⁻¹), which is the same update.",
    "chance": "The mean overlap of random subspaces of the same sizes: rank/dimension for equal ranks.",
    "p": "The probability that random subspaces overlap at least as much.",
    "module": "One weight of the model that the adapter changes, such as the query projection of a layer.",
    "projection": "The kind of module: query, value, ...",
    "stable rank": "‖ΔW‖² over its largest squared singular value: how many directions the update spends.",
    "energy": "A share of squared singular values, or of a squared norm.",
    "vacuous": "Of a bound: no better than the largest loss there is.",
}

_words = "; ".join(
    f"{words}: at least {least:.0%} of the way from chance to 1"
    if least > 0
    else f"{words}: less than that, but beyond chance"
    for least, words in LEVELS.items()
)
NOTES = [
    f"Words for similarity. {_words}. Subspaces are beyond chance where random ones are as similar with a probability "
    f"below {SIGNIFICANCE:g}, over all pairs and modules together. These steps are conventions.",
    f"Power. Where an excess of {LARGEST_BLIND:.0%} would often have been missed, the report cannot tell.",
    f"A against B. The interval of their difference leaves out each adapter in turn and needs {LEAST_ADAPTERS}: "
    "pairs that share an adapter are not independent.",
    "A similar A may only show a shared initialization. Pairs that share one are kept apart, and compared after it is "
    "subtracted where it is known.",
]
