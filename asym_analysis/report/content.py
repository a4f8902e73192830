"""What a page is made of: sections, figures and tables, before any of it is HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Drawn", "Section", "Table", "figure_of"]


@dataclass(frozen=True)
class Drawn:
    """A figure of one column's width, the stem of its files, its caption, and a description in its place."""

    stem: str
    figure: Figure
    caption: str
    description: str


@dataclass(frozen=True)
class Table:
    """A table, its caption, and column -> heading of what is shown (all columns by default)."""

    frame: pd.DataFrame
    caption: str
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Drawn] = ()
    tables: Sequence[Table] = ()


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes belong to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
