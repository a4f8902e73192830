"""What needs more than the adapters: intruder dimensions a base model, bounds the number of samples."""

from __future__ import annotations

from typing import Any

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.alignment.intruders import IntruderDimensions, intruder_dimensions
from asym_analysis.bounds.compute import compute_bound
from asym_analysis.errors import AdapterError
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.report.content import Drawn, Section, Table, figure_of

__all__ = ["bounds", "intruders"]


def intruders(adapters: AdapterSet, base: Any) -> Section:
    """New leading directions of W0 + ΔW, against the base model."""
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
        "intruders", figure_of(figure), caption, "Cosines of the strongest singular vectors with the base model's."
    )
    text.append("A leading singular vector of W0 + ΔW that no singular vector of W0 resembles is an intruder.")
    listed = Table(tables, "Intruders by adapter and projection", INTRUDERS)
    return Section("Intruder dimensions", text, [drawn], [listed])


INTRUDERS = {
    "adapter": "adapter",
    "projection": "projection",
    "modules": "modules",
    "intruders": "intruders",
    "examined": "vectors examined",
    "energy_share": "share of ‖ΔW‖² in them",
    "update_over_threshold": "largest σ of ΔW over the noise of W0",
    "random_level": "cosine of a random direction",
}


def bounds(adapters: AdapterSet, n_samples: int) -> Section:
    """The tightest certificate of each adapter after so many samples."""
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
