"""The parts of the report: each a title, a sentence or two, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.shared_initialization import shared_initialization
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.drift import initialization_drift
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.spectra import adapter_spectra
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.heatmap import plot_figure_one
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.style import DOUBLE_COLUMN, styled
from asym_analysis.report.findings import family_sentences

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
        sentences = family_sentences(comparison, _what_training_added(members, comparison))
        families.append(Family(title, comparison, tuple(sentences)))
    return families


def build_sections(adapters: AdapterSet, families: Sequence[Family]) -> list[Section]:
    """Build every section that these adapters have the data for."""
    sections = [_similarity(families), _by_layer(families), _same_against_different(adapters), _movement(adapters)]
    return [section for section in [*sections, _spectra(adapters), _adapter_table(adapters)] if section is not None]


def _families(adapters: AdapterSet) -> dict[str, AdapterSet]:
    if "family" not in adapters.table.columns:
        return {"all adapters": adapters}
    column = adapters.table["family"]
    groups = {str(family).replace("_", " "): adapters.select(column == family) for family in column.unique()}
    return {title: members for title, members in groups.items() if len(members) > 1} or {"all adapters": adapters}


def _what_training_added(members: AdapterSet, comparison: SubspaceComparison) -> SubspaceComparison | None:
    """A - A0 compared, where all pairs share their start and it is known; None elsewhere."""
    if not comparison.same_initialization.all() or any(adapter.initial is None for adapter in members):
        return None
    return compare_subspaces(members, factors=("A",), subtract_initial=True)


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


def _same_against_different(adapters: AdapterSet) -> Section | None:
    """Contrast same and different tasks, where there are both among adapters that share no start."""
    if "task" not in adapters.table.columns:
        return None
    shared = {name for group in shared_initialization(adapters).groups for name in group}
    alone = [name not in shared for name in adapters.names]
    if sum(alone) < 3:
        return None
    try:
        contrast = compare_subspaces(adapters.select(alone)).contrast(by="task")
    except ValueError:  # every adapter has the same task, or each its own
        return None
    text = (
        f"Pairs trained on the same task against pairs that were not, over the {sum(alone)} adapters that share their "
        "start with no other. The interval resamples adapters and the p-value permutes their task labels, because "
        "pairs that share an adapter are not independent."
    )
    table = contrast.summary()[["factor", "same", "different", "difference", "low", "high", "p_value"]]
    return Section("Same task against different tasks", text, tables=[Table(table)])


def _movement(adapters: AdapterSet) -> Section | None:
    drift = initialization_drift(adapters)
    rows = drift.summary()
    rows = rows[rows["told"] > 0]
    if rows.empty:
        return None
    shown = ["adapter", "factor", "told", "modules", "median", "lower_quartile", "upper_quartile", "verdict"]
    many = len(adapters) > 7 and "family" in adapters.table.columns
    labels = adapters.table["family"].str.replace("_", " ") if many else adapters.table["name"]
    named = drift.frame.assign(adapter=drift.frame["adapter"].map(dict(zip(adapters.names, labels, strict=True))))
    crowded = labels.nunique() > 4
    with styled():
        figure, ax = plt.subplots(figsize=(DOUBLE_COLUMN if crowded else DOUBLE_COLUMN / 2, 2.6))
        plot_drift(replace(drift, frame=named), ax)
        if crowded:
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    text = (
        "Relative distance ||F - F0||/||F0|| of each factor F from its initialization F0, over modules: measured where "
        "that was recorded, otherwise inferred from the distribution of the entries, or left open. A factor that was "
        "initialized at zero has no relative distance and is left out."
    )
    caption = f"Median over the projections of a layer, a line for each {'family' if many else 'adapter'}."
    drawn = Drawn("movement", figure, caption)
    return Section("How far each factor moved", text, figures=[drawn], tables=[Table(rows[shown])])


def _spectra(adapters: AdapterSet) -> Section:
    spectra = [adapter_spectra(adapter) for adapter in adapters]
    together = replace(
        spectra[0],
        frame=pd.concat([part.frame for part in spectra], ignore_index=True),
        singular_values=pd.concat([part.singular_values for part in spectra], ignore_index=True),
    )
    with styled():
        figure, ax = plt.subplots(figsize=(DOUBLE_COLUMN / 2, 2.6))
        plot_spectra(together, ax)
    caption = (
        "Cumulative share of the squared singular values of scaling · B·A: median over all adapters and modules of a "
        "projection, with its 10 to 90 % range. Grey: a flat spectrum."
    )
    return Section("How the rank is spent", figures=[Drawn("energy_by_rank", figure, caption)])


def _adapter_table(adapters: AdapterSet) -> Section:
    hidden = {"source", "sha256"}
    shown = [column for column in adapters.table.columns if column not in hidden]
    return Section("The adapters", tables=[Table(adapters.table[shown])])
