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

from asym_analysis.atomic import replacing

__all__ = ["COLORS", "DOUBLE_COLUMN", "SERIES", "SINGLE_COLUMN", "axes_or_new", "save_figure", "styled"]

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
    "svg.fonttype": "path",
    "svg.hashsalt": "asym_analysis",
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the package's style inside the block; matplotlib's own settings are untouched outside it."""
    with plt.rc_context(_RC):
        yield
        interactive = plt.isinteractive()
    # A notebook turns this on when its first figure is made, which may be in here; else later figures stay hidden.
    plt.rcParams["interactive"] = interactive


def axes_or_new(ax: Axes | None, *, width: float = SINGLE_COLUMN, height: float = 2.4) -> Axes:
    """Give `ax` back, or the Axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    _, new = plt.subplots(figsize=(width, height))
    return new


def save_figure(drawn: Figure | Axes, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a figure, or the figure of these Axes, as SVG and PNG, each whole or not at all; give the two paths.

    The files carry no date, so that the same figure gives the same bytes.
    """
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        raise ValueError("these Axes were removed from their figure: there is nothing to save")
    paths = Path(f"{os.fspath(stem)}.svg"), Path(f"{os.fspath(stem)}.png")
    with styled():
        for path in paths:
            with replacing(path) as part:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                figure.savefig(part, metadata=metadata, bbox_inches="tight")
    return paths
