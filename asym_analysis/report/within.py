"""What training did to each adapter: along its checkpoints, away from its initialization, over its rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.alignment.drift import InitializationDrift, initialization_drift
from asym_analysis.alignment.spectra import AdapterSpectra, adapter_spectra
from asym_analysis.alignment.trajectories import checkpoint_trajectories
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.trajectories import plot_trajectories
from asym_analysis.report.content import Drawn, Section, Table, figure_of
from asym_analysis.report.families import parts_of, runs_in

__all__ = ["Measured", "measure", "movement", "over_steps", "spectra"]

MOST_LINES = 6  # runs, or adapters, that have a figure or a line each


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


def over_steps(adapters: AdapterSet) -> Section | None:
    """Every checkpoint against the last one of its run, where there are runs."""
    runs = runs_in(adapters)
    if not runs:
        return None
    figures, tables = [], []
    for number, (run, members) in enumerate(runs.items()):
        steps = [int(adapter.metadata["step"]) for adapter in members]
        followed = checkpoint_trajectories(AdapterSet([*members], {"step": steps}))
        tables.append(followed.summary().assign(run=run))
        if number < MOST_LINES:
            ax = plot_trajectories(followed)
            ax.set_title(run)
            caption = (
                f"{run}: overlap of each checkpoint with the last one, median over modules. Grey: random subspaces."
            )
            described = f"Overlap with the last checkpoint of {run}."
            figures.append(Drawn(f"trajectory_{number}", figure_of(ax), caption, described))
    text = [
        "The checkpoints of a run are its past, not further runs: only the last one is compared with other adapters."
    ]
    text += [f"The first {MOST_LINES} of {len(runs)} runs are drawn."] if len(runs) > MOST_LINES else []
    caption = "Checkpoints of each run: overlap of a factor with itself at other steps, mean over modules."
    columns = STEPS if len(runs) > 1 else {name: words for name, words in STEPS.items() if name != "run"}
    return Section("Along training", text, figures, [Table(pd.concat(tables, ignore_index=True), caption, columns)])


STEPS = {
    "run": "run",
    "step": "step",
    "factor": "factor",
    "to_first": "overlap with the first",
    "to_last": "overlap with the last",
    "null_mean": "chance",
    "turned": "turned since the one before, radians",
    "speed": "radians a step",
}


def movement(adapters: AdapterSet, measured: Measured) -> Section | None:
    """Distances from the initialization, where one is known; None otherwise."""
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
        figures.append(Drawn(f"movement_{place}", figure_of(ax), caption, f"Distance from the initialization. {part}"))
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


def spectra(measured: Measured) -> Section:
    """How many directions hold the energy of the updates."""
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
        figures.append(
            Drawn(f"energy_by_rank_{place}", figure_of(ax), caption, f"Energy of the update by rank. {part}")
        )
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
