"""The parts of the report: each a title, a sentence or two, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.shared_initialization import shared_initialization
from asym_analysis.alignment.aggregation import aggregation_error, merge_interference
from asym_analysis.alignment.drift import InitializationDrift, initialization_drift
from asym_analysis.alignment.intruders import IntruderDimensions, intruder_dimensions
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.shared_energy import shared_energy
from asym_analysis.alignment.spectra import AdapterSpectra, adapter_spectra
from asym_analysis.alignment.trajectories import checkpoint_trajectories
from asym_analysis.bounds.compute import compute_bound
from asym_analysis.errors import AdapterError
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.heatmap import MOST_NAMES, plot_similarity_heatmap
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.trajectories import plot_trajectories
from asym_analysis.report.content import Drawn, Section, Table
from asym_analysis.report.families import Family, parts_of, runs_in

__all__ = ["Measured", "build_sections", "measure"]

#: Pairwise costs that grow too fast for a page: sharing and merging are measured for at most so many adapters.
MOST_SHARING, MOST_MERGED, MOST_LINES = 64, 16, 6


@dataclass(frozen=True)
class Measured:
    """What is measured of each adapter on its own, once for the verdict and the sections."""

    drift: InitializationDrift
    spectra: AdapterSpectra


def measure(adapters: AdapterSet) -> Measured:
    """Measure movement and spectrum of every adapter, and put each into one table."""
    spectra = [adapter_spectra(adapter) for adapter in adapters]
    named = lambda parts: pd.concat(  # noqa: E731
        [part.assign(adapter=name) for part, name in zip(parts, adapters.names, strict=True)], ignore_index=True
    )
    return Measured(
        initialization_drift(adapters),
        replace(
            spectra[0],
            frame=named([part.frame for part in spectra]),
            singular_values=named([part.singular_values for part in spectra]),
        ),
    )


def build_sections(
    adapters: AdapterSet,
    families: Sequence[Family],
    measured: Measured,
    *,
    base: Any = None,
    n_samples: int | None = None,
) -> list[Section]:
    """Build every section that these adapters have the data for.

    Parameters
    ----------
    adapters
        All adapters.
    families
        From `compare_families`; may be empty.
    measured
        From `measure`.
    base
        The base model, for the section on intruder dimensions.
    n_samples
        Number of training samples, for the section on bounds.

    Returns
    -------
    list of Section
        In the order of the page.
    """
    sections: list[Section | None] = [_coverage(adapters)]
    sections += [_similarity(families), _by_layer(families), _same_against_different(adapters)] if families else []
    sections += [
        _over_steps(adapters),
        _movement(adapters, measured),
        _spectra(measured),
        *_sharing(families, adapters),
    ]
    sections += [_intruders(adapters, base)] if base is not None else []
    sections += [_bounds(adapters, n_samples)] if n_samples is not None else []
    return [section for section in [*sections, _adapter_table(adapters)] if section is not None]


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _coverage(adapters: AdapterSet) -> Section:
    rows, text = [], []
    for name, adapter in zip(adapters.names, adapters, strict=True):
        coverage = adapter.coverage
        numbers = (len(coverage.used), len(coverage.ignored), len(coverage.refused))
        rows.append((name, len(adapter), *numbers, "; ".join(map(str, adapter.assumptions))))
    columns = ["adapter", "modules", "used", "ignored", "refused", "assumed"]
    table = pd.DataFrame(rows, columns=columns)
    if not table["refused"].any():
        files = f"{len(adapters)} files" if len(adapters) > 1 else "file"
        text.append(f"Every tensor of the {files} was used or is known to play no part in the update.")
    missing = adapters.missing
    if not missing.empty:
        first = missing.iloc[0]
        text.append(
            f"{missing['module'].nunique()} modules are missing in some adapters (first: {first['module']} in "
            f"{first['name']}): each pair was compared on the modules that both have."
        )
    if not table["assumed"].any():
        text.append("Nothing was assumed: scale, orientation and layout are recorded in the files.")
        table = table.drop(columns="assumed")
    caption = "Tensors of each file that were used, ignored and refused, and what the files leave open."
    return Section("Coverage and assumptions", text, tables=[Table(table, caption)])


def _similarity(families: Sequence[Family]) -> Section:
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
            figures.append(Drawn(f"similarity_{factor}_{number}", _figure(ax), caption, described))
        names = family.comparison.names
        if len(names) > MOST_NAMES:
            numbered = pd.DataFrame({"number": range(1, len(names) + 1), "adapter": names})
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


def _by_layer(families: Sequence[Family]) -> Section:
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
            figures.append(Drawn(stem, _figure(ax), caption, f"Overlap of A and of B by layer. {title}"))
    return Section("Layer by layer", figures=figures)


def _same_against_different(adapters: AdapterSet) -> Section | None:
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


def _over_steps(adapters: AdapterSet) -> Section | None:
    runs = runs_in(adapters)
    if not runs:
        return None
    figures, tables = [], []
    for number, (run, members) in enumerate(list(runs.items())[:MOST_LINES]):
        steps = [int(adapter.metadata["step"]) for adapter in members]
        followed = checkpoint_trajectories(AdapterSet([*members], {"step": steps}))
        ax = plot_trajectories(followed)
        ax.set_title(run)
        caption = f"{run}: overlap of each checkpoint with the last one, median over modules. Grey: random subspaces."
        figures.append(
            Drawn(f"trajectory_{number}", _figure(ax), caption, f"Overlap with the last checkpoint of {run}.")
        )
        tables.append(Table(followed.summary().drop(columns=["run"], errors="ignore"), f"Checkpoints of {run}"))
    text = [
        "The checkpoints of a run are its past, not further runs: only the last one is compared with other adapters."
    ]
    return Section("Along training", text, figures, tables)


def _movement(adapters: AdapterSet, measured: Measured) -> Section | None:
    rows = measured.drift.summary()
    rows = rows[rows["known"] > 0]
    if rows.empty:
        return None
    runs = runs_in(adapters)
    frame = measured.drift.frame
    if len(adapters) > MOST_LINES:
        table = adapters.table.set_index("name")
        labels = table["family"].str.replace("_", " ") if "family" in table else None
        frame = frame.assign(adapter=frame["adapter"].map(labels) if labels is not None else "all adapters")
    shown = frame[frame["value"].notna() | frame["upper"].notna()]
    figures = []
    for place, (part, modules) in enumerate(parts_of(list(shown["module"].unique())).items()):
        ax = plot_drift(replace(measured.drift, frame=frame[frame["module"].isin(modules)]))
        ax.set_title(part)
        caption = (
            "Relative distance of a factor from its initialization, by layer"
            + (", median over the adapters; bands hold 80 % of them" if len(adapters) > MOST_LINES else "")
            + (f": {part}." if part else ".")
        )
        figures.append(Drawn(f"movement_{place}", _figure(ax), caption, f"Distance from the initialization. {part}"))
    text = [
        "||F - F0||/||F0|| of each factor F and its initialization F0: exact where F0 was recorded, otherwise inferred "
        "from the distribution of the entries, or left open. A factor that was initialized at zero is left out."
    ]
    text += ["Checkpoints of one run stand in the order of their steps."] if runs else []
    caption = "Median and quartiles over the modules in which the movement could be measured."
    return Section("How far each factor moved", text, figures, [Table(rows, caption, MOVEMENT)])


MOVEMENT = {
    "adapter": "adapter",
    "factor": "factor",
    "median": "median",
    "lower_quartile": "lower quartile",
    "upper_quartile": "upper quartile",
    "known": "modules measured",
    "modules": "modules",
    "verdict": "how measured",
    "scheme": "initialization",
}


def _spectra(measured: Measured) -> Section:
    figures = []
    values = measured.spectra.singular_values
    for place, (part, modules) in enumerate(parts_of(list(measured.spectra.frame["module"].unique())).items()):
        chosen = replace(
            measured.spectra,
            frame=measured.spectra.frame[measured.spectra.frame["module"].isin(modules)],
            singular_values=values[values["module"].isin(modules)],
        )
        ax = plot_spectra(chosen)
        ax.set_title(part)
        caption = (
            "Cumulative share of the squared singular values of scaling · B·A: median over adapters and modules of a "
            "projection, with its 10 to 90 % range. Grey: a flat spectrum."
        )
        figures.append(Drawn(f"energy_by_rank_{place}", _figure(ax), caption, f"Energy of the update by rank. {part}"))
    caption = "Medians over the modules of each projection."
    return Section(
        "How the rank is spent", figures=figures, tables=[Table(measured.spectra.summary(), caption, SPECTRA)]
    )


SPECTRA = {
    "projection": "projection",
    "modules": "modules",
    "rank": "rank",
    "rank_90": "directions for 90 % of the energy",
    "stable_rank": "stable rank",
    "frobenius_norm": "‖ΔW‖",
    "start_share": "share from A0",
    "initial_share": "share from A0",
}


def _sharing(families: Sequence[Family], adapters: AdapterSet) -> list[Section]:
    by_name = dict(zip(adapters.names, adapters, strict=True))
    figures, tables, text = [], [], []
    for number, family in enumerate(families):
        names = list(family.comparison.names)
        members = AdapterSet([by_name[name] for name in names], {"name": names})
        where = f": {family.title}" if len(families) > 1 else ""
        if len(members) > MOST_SHARING:
            text.append(f"Shared subspaces are measured for at most {MOST_SHARING} adapters{where}.")
            continue
        try:
            energy = shared_energy(members, sorted({1, 2, 4, 8, 16, max(members[0].ranks)}))
            ax = plot_sharing(energy)
            ax.set_title(family.title if len(families) > 1 else "")
            caption = f"Share of the squared norm inside one common subspace, by its dimension{where}."
            figures.append(Drawn(f"sharing_{number}", _figure(ax), caption, f"Energy in a common subspace{where}."))
            averaged = aggregation_error(members).summary()
            tables.append(Table(averaged, f"Relative error of averaging factors and not updates{where}", AVERAGING))
            if len(members) <= MOST_MERGED:
                merged = merge_interference(members).summary()
                tables.append(Table(merged, f"What the sum of all updates does to each adapter{where}", MERGING))
        except (AdapterError, ValueError) as error:  # ranks or shapes differ: factors have no mean
            text.append(f"{error}.")
    if not (figures or tables or text):
        return []
    return [Section("Sharing and merging", text, figures, tables)]


AVERAGING = {
    "projection": "projection",
    "both_averaged": "A and B averaged",
    "shared_A": "A averaged, own B",
    "shared_B": "B averaged, own A",
    "update_norm": "‖mean ΔW‖",
}
MERGING = {
    "adapter": "adapter",
    "projection": "projection",
    "retained": "retained (1: intact)",
    "on_own_inputs": "change on own inputs",
    "cosine": "cosine with the sum",
    "energy_ratio": "energy of the sum (1: orthogonal)",
}


def _intruders(adapters: AdapterSet, base: Any) -> Section:
    found: list[IntruderDimensions] = []
    text = []
    for name, adapter in zip(adapters.names, adapters, strict=True):
        try:
            found.append(intruder_dimensions(adapter, base))
        except (AdapterError, ValueError) as error:
            text.append(f"{name}: {error}")
    if not found:
        return Section("Intruder dimensions", text)
    figure = plot_intruders(found[0])
    tables = pd.concat([each.summary().assign(adapter=each.settings["adapter"]) for each in found], ignore_index=True)
    tables = tables[["adapter", *tables.columns.drop("adapter")]]
    caption = f"{found[0].settings['adapter']}: largest cosine of each leading singular vector of W0 + ΔW with W0's."
    drawn = Drawn(
        "intruders", _figure(figure), caption, "Cosines of the strongest singular vectors with the base model's."
    )
    text.append("A leading singular vector of W0 + ΔW that no singular vector of W0 resembles is an intruder.")
    return Section("Intruder dimensions", text, [drawn], [Table(tables, "Intruders by adapter and projection")])


def _bounds(adapters: AdapterSet, n_samples: int) -> Section:
    rows = []
    for name, adapter in zip(adapters.names, adapters, strict=True):
        frame = compute_bound(adapter, n_samples).frame
        sound = frame[(frame["kind"] == "certificate") & frame["gap"].notna()].sort_values("gap")
        rows += [sound.head(1).assign(adapter=name)[["adapter", "rung", "tuned", "gap", "vacuous", "statement"]]]
    table = pd.concat(rows, ignore_index=True)
    text = [
        f"The tightest bound on expected minus training loss (a loss in [0, 1]) after {n_samples:,} samples, with the "
        "trained head charged. A vacuous bound allows every loss; asym certify, from measured losses, is tighter."
    ]
    columns = dict(zip(table.columns, ["adapter", "bound", "trained", "gap at most", "vacuous", "holds"], strict=True))
    return Section("Generalization bounds", text, tables=[Table(table, "The tightest certificate", columns)])


def _adapter_table(adapters: AdapterSet) -> Section:
    table = adapters.table.copy()
    table.insert(0, "#", range(1, len(table) + 1))
    hidden = {"source", "sha256", "container", "dialect", "header"}
    varies: dict[str, str] = {"name": "name", "#": "#"}
    same = []
    for column in table.columns.drop(["name", "#"]):
        texts = set(table[column].astype(str))
        if column in hidden:
            continue
        if len(texts) == 1 and len(table) > 1:
            same.append(f"{str(column).replace('_', ' ')}: {texts.pop()}")
        else:
            varies[str(column)] = str(column).replace("_", " ")
    shown = dict(list(varies.items())[:12])
    left = [heading for column, heading in varies.items() if column not in shown]
    text = [f"The same for all: {', '.join(same)}."] if same else []
    text += [f"Not shown: {', '.join(left)}."] if left else []
    return Section(
        "The adapters", text, tables=[Table(table, "Adapters, their labels and what their files say", shown)]
    )
