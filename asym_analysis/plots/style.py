"""One look for every figure: readable at 9 points in print, and by the colour-blind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from asym_analysis.atomic import replacing

__all__ = [
    "COLORS",
    "DASHES",
    "DOUBLE_COLUMN",
    "MARKERS",
    "SERIES",
    "SHAPES",
    "SINGLE_COLUMN",
    "axes_or_new",
    "legend_below",
    "save_figure",
    "styled",
]

# Okabe and Ito's palette, which stays apart under the common colour deficiencies and in grey.
COLORS = MappingProxyType(
    {
        "A": "#0072B2",
        "B": "#D55E00",
        "both": "#009E73",
        "theory": "#000000",
        "null": "#999999",
        "left": "#CC79A7",
        "right": "#56B4E9",
        "accent": "#E69F00",
    }
)
# The order in which lines of one figure take their colours.
SERIES = tuple(COLORS[name] for name in ("A", "B", "both", "left", "right", "accent", "theory"))
# Markers and lines tell apart in grey what the colours tell apart in colour.
MARKERS = MappingProxyType({"A": "s", "B": "o", "both": "D"})
DASHES = MappingProxyType({"A": "--", "B": "-", "both": ":"})
SHAPES = ("o", "s", "^", "D", "v", "P", "X")
SINGLE_COLUMN = 3.4  # inches
DOUBLE_COLUMN = 7.0

_RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.4,
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "asym_analysis",
    "pdf.fonttype": 42,
}

_OWN = "asym_analysis"  # marks a figure that this package made, whose size it may change


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the package's style inside the block; matplotlib's own settings are untouched outside it."""
    with plt.rc_context(_RC):
        yield
        interactive = plt.isinteractive()
    # A notebook turns this on when its first figure is made, which may be in here; else later figures stay hidden.
    plt.rcParams["interactive"] = interactive


def axes_or_new(ax: Axes | None, *, width: float = SINGLE_COLUMN, height: float = 2.4) -> Axes:
    """Give `ax` back, or the Axes of a new figure of that size in inches, laid out so that nothing is cut."""
    if ax is not None:
        return ax
    figure, new = plt.subplots(figsize=(width, height), layout="constrained")
    figure.set_gid(_OWN)
    return new


def legend_below(ax: Axes, *, title: str | None = None, handles: Any = None, labels: Any = None) -> None:
    """Put the legend below the axes, in as many columns as fit; a figure of this package grows to make room for it.

    Parameters
    ----------
    ax
        The axes; those without labelled lines get no legend.
    title
        Above the entries.
    handles, labels
        The entries; all labelled artists by default.
    """
    figure = ax.get_figure(root=True)
    found = ax.get_legend_handles_labels()
    handles, labels = (found[0] if handles is None else handles), (found[1] if labels is None else labels)
    if not labels or figure is None:
        return
    place = ax.get_subplotspec()
    room = place.get_gridspec().ncols if place is not None else 1
    letters = figure.get_figwidth() / room / 0.068
    columns = max(1, min(len(labels), int(letters // (max(map(len, labels)) + 3.5))))
    rows = -(-len(labels) // columns) + (title is not None)
    if figure.get_gid() == _OWN and ax.legend_ is None:
        figure.set_figheight(figure.get_figheight() + 0.165 * rows + 0.1)
    below = ax.transAxes + ScaledTranslation(0, -0.42, figure.dpi_scale_trans)  # ticks and label of the axis
    ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=below,
        ncols=columns,
        title=title,
        borderaxespad=0.0,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def save_figure(drawn: Figure | Axes, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a figure, or the figure of these Axes, as SVG and PNG, each whole or not at all; give the two paths.

    The files carry no date, so that the same figure gives the same bytes.
    """
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        raise ValueError("these Axes were removed from their figure: there is nothing to save")
    paths = Path(f"{os.fspath(stem)}.svg"), Path(f"{os.fspath(stem)}.png")
    loose = figure.get_layout_engine() is None  # such a figure may have labels beyond its edge
    with styled():
        for path in paths:
            with replacing(path) as part:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                figure.savefig(part, metadata=metadata, bbox_inches="tight" if loose else None)
    return paths
