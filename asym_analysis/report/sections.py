"""The parts of the report: each a title, a sentence or two, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.heatmap import plot_figure_one
from asym_analysis.plots.style import DOUBLE_COLUMN, styled
from asym_analysis.report.findings import family_sentences, find

__all__ = ["Drawn", "Family", "Section", "Table", "build_sections", "compare_families"]


@dataclass(frozen=True)
class Family:
    """Adapters that are compared among themselves, what came of it, and in which words."""

    title: str
    comparison: SubspaceComparison
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """A figure, the stem of its files, and its caption."""

    stem: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Table:
    """A table and the line above it."""

    frame: pd.DataFrame
    title: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    title: str
    text: str = ""
    figures: Sequence[Drawn] = ()
    tables: Sequence[Table] = ()


def compare_families(adapters: AdapterSet, *, progress: bool = False) -> list[Family]:
    """Compare the adapters of each family, as the table's `family` column splits them, or all of them at once."""
    families = []
    for title, members in _families(adapters).items():
        comparison = compare_subspaces(members, progress=progress)
        families.append(Family(title, comparison, tuple(family_sentences(find(comparison)))))
    return families


def build_sections(adapters: AdapterSet, families: Sequence[Family]) -> list[Section]:
    """Build every section that these adapters have the data for."""
    return [_similarity(families), _by_layer(families), _adapter_table(adapters)]


def _families(adapters: AdapterSet) -> dict[str, AdapterSet]:
    if "family" not in adapters.table.columns:
        return {"all adapters": adapters}
    column = adapters.table["family"]
    groups = {str(family).replace("_", " "): adapters.select(column == family) for family in column.unique()}
    return {title: members for title, members in groups.items() if len(members) > 1} or {"all adapters": adapters}


def _similarity(families: Sequence[Family]) -> Section:
    figure = plot_figure_one({family.title: family.comparison for family in families})
    tables = [Table(family.comparison.summary(), family.title) for family in families]
    caption = (
        "Mean overlap over modules, adapters by adapters: A above, B below, one colour scale. The diagonal is 1: an "
        "adapter with itself."
    )
    return Section("Similarity of A and of B", figures=[Drawn("similarity", figure, caption)], tables=tables)


def _by_layer(families: Sequence[Family]) -> Section:
    with styled():
        width = DOUBLE_COLUMN if len(families) > 1 else DOUBLE_COLUMN / 2
        figure, axes = plt.subplots(1, len(families), figsize=(width, 2.4), squeeze=False, sharey=True)
        for ax, family in zip(axes[0], families, strict=True):
            plot_subspace_alignment(family.comparison, ax)
            ax.set_title(family.title)
            if ax is not axes[0, 0]:
                ax.set_ylabel("")
                ax.legend_.remove()
    caption = (
        "Lines: mean over pairs and projections. Coloured bands: 10 to 90 % of the pairs. Grey: what a pair of random "
        "subspaces gives, plus and minus two standard deviations."
    )
    return Section("Layer by layer", figures=[Drawn("alignment_by_layer", figure, caption)])


def _adapter_table(adapters: AdapterSet) -> Section:
    hidden = {"source", "sha256"}
    shown = [column for column in adapters.table.columns if column not in hidden]
    return Section("The adapters", tables=[Table(adapters.table[shown])])
