"""What adapters have in common: similarity, layer by layer, same against different tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.shared_initialization import shared_initialization
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.heatmap import MOST_NAMES, plot_similarity_heatmap
from asym_analysis.report.content import Drawn, Section, Table, figure_of
from asym_analysis.report.families import Family, parts_of

__all__ = ["by_layer", "same_against_different", "similarity"]


def similarity(families: Sequence[Family]) -> Section:
    """Matrices and summaries of the overlaps, by family."""
    top = max(_highest(family) for family in families)
    figures, tables = [], []
    for number, family in enumerate(families):
        for factor in ("A", "B"):
            if factor not in family.comparison.factors:
                continue
            ax = plot_similarity_heatmap(family.comparison, factor, vmax=top)
            if len(families) > 1:
                ax.set_title(f"{family.title}\n{ax.get_title()}")
            caption = f"Mean overlap of {factor} over modules, {family.title}. The scale leaves out the diagonal, 1."
            described = f"Matrix of the overlap of {factor} between {len(family.comparison.names)} adapters."
            figures.append(Drawn(f"similarity_{factor}_{number}", figure_of(ax), caption, described))
        names = family.comparison.names
        if len(names) > MOST_NAMES:
            numbered = pd.DataFrame({"adapter": names, "number": range(1, len(names) + 1)})
            tables.append(Table(numbered, f"Numbers of the adapters in the matrices: {family.title}"))
        summary = family.comparison.summary()
        tables.append(Table(summary, f"Overlap over pairs and modules: {family.title}", SUMMARY))
    text = [
        "The overlap of two subspaces is the mean squared cosine of their principal angles: 1 for the same subspace, "
        "and rank/dimension on average for random ones."
    ]
    return Section("Similarity of A and of B", text, figures, tables)


SUMMARY = {
    "factor": "factor",
    "pairs": "pairs",
    "count": "number of pairs",
    "value": "mean overlap",
    "null_mean": "chance",
    "times_null": "times chance",
    "null_std": "sd of chance",
    "significant": "share with p < .01",
}


def _highest(family: Family) -> float:
    highest = 0.0
    for factor in family.comparison.factors:
        matrix = family.comparison.matrix(factor).copy()
        matrix[range(len(matrix)), range(len(matrix))] = float("nan")
        values = matrix[matrix == matrix]
        highest = max(highest, float(values.max()) if len(values) else 0.0)
    return min(1.0, max(highest * 1.05, 1e-3))


def by_layer(families: Sequence[Family]) -> Section:
    """The overlaps over the layers, each part of a network apart."""
    figures = []
    for number, family in enumerate(families):
        for place, (part, modules) in enumerate(parts_of(family.comparison.modules).items()):
            ax = plot_subspace_alignment(family.comparison, modules=modules)
            title = ": ".join(filter(None, [family.title if len(families) > 1 else "", part]))
            ax.set_title(title)
            caption = (
                f"{title or 'All adapters'}. Lines: mean over pairs and projections (of pairs that share no "
                "initialization, unless most do). Coloured bands: 10 to 90 % of them. Grey: a pair of random "
                "subspaces, plus and minus two standard deviations. The vertical axis is logarithmic."
            )
            stem = f"alignment_by_layer_{number}_{place}"
            figures.append(Drawn(stem, figure_of(ax), caption, f"Overlap of A and of B by layer. {title}"))
    return Section("Layer by layer", figures=figures)


def same_against_different(adapters: AdapterSet) -> Section | None:
    """Contrast same and different tasks, where there are both among adapters that share no initialization."""
    if "task" not in adapters.table.columns:
        return None
    shared = {name for group in shared_initialization(adapters).groups for name in group}
    alone = [name not in shared for name in adapters.names]
    if sum(alone) < 4:
        return None
    try:
        contrast = compare_subspaces(adapters.select(alone)).contrast(by="task")
    except ValueError:  # every adapter has the same task, or each its own
        return None
    text = [
        f"Pairs trained on the same task against pairs that were not, over the {sum(alone)} adapters that share their "
        "initialization with no other. The interval resamples adapters and the p-value permutes their task labels, "
        "because pairs that share an adapter are not independent."
    ]
    table = contrast.summary()[["factor", "same", "different", "difference", "low", "high", "p_value"]]
    caption = "Mean overlap of pairs of the same task and of different tasks, with a 95 % interval of the difference."
    return Section("Same task against different tasks", text, tables=[Table(table, caption)])
