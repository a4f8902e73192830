"""Adapters by adapters: the similarity of one factor as a matrix, and the three panels of the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.plots.style import DOUBLE_COLUMN, axes_or_new, styled

__all__ = ["plot_figure_one", "plot_similarity_heatmap"]

# Cividis is monotone in lightness and made for colour-deficient readers.
_COLORMAP = "cividis"


def plot_similarity_heatmap(
    comparison: SubspaceComparison,
    factor: str = "A",
    ax: Axes | None = None,
    *,
    vmax: float = 1.0,
    colorbar: bool = True,
) -> Axes:
    """Draw the similarity of one factor between all adapters, averaged over modules, with each value written.

    Parameters
    ----------
    comparison
        What `compare_subspaces` returned.
    factor
        A factor that was compared: "A", "B", ...
    ax
        Where to draw; a new figure if None.
    vmax
        Top of the colour scale, which begins at 0. Give panels that will be compared the same one.
    colorbar
        Whether to draw the colour bar, with the chance level marked on it.

    Raises
    ------
    ValueError
        If the factor was not compared.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_similarity_heatmap(compare_subspaces(sample_adapters()[:3]), factor="B")
    """
    matrix = comparison.matrix(factor)
    names = list(comparison.names)
    many = len(names) > 8
    with styled():
        side = 1.1 + 0.34 * min(len(names), 14)
        ax = axes_or_new(ax, width=side + 1.0, height=side)
        sns.heatmap(
            matrix,
            ax=ax,
            vmin=0,
            vmax=vmax,
            cmap=_COLORMAP,
            square=True,
            annot=False if many else _short_numbers(matrix),
            fmt="",
            annot_kws={"size": 6.5},
            xticklabels=names if not many else "auto",
            yticklabels=names if not many else "auto",
            cbar=colorbar,
            cbar_kws={"label": f"mean {comparison.measure}", "shrink": 0.8},
        )
        chance = comparison.chance(factor)
        if colorbar and np.isfinite(chance):
            scale = ax.collections[0].colorbar
            if scale is not None:
                scale.ax.axhline(chance, color="white", linewidth=1.2)
                scale.ax.axhline(chance, color="black", linewidth=0.6)
        ax.tick_params(axis="x", rotation=90, length=0)
        ax.tick_params(axis="y", rotation=0, length=0)
        ax.set_title(f"{factor} (chance {chance:.3g})" if np.isfinite(chance) else factor)
    return ax


def plot_figure_one(comparisons: Mapping[str, SubspaceComparison]) -> Figure:
    """Draw the paper's Figure 1: A above, B below, one column for each family of adapters, one colour scale.

    Parameters
    ----------
    comparisons
        Title of the column -> comparison of that family. Titles may hold line breaks.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_figure_one({"all": compare_subspaces(sample_adapters()[:3])})
    """
    columns = len(comparisons)
    with styled():
        figure, axes = plt.subplots(2, columns, figsize=(min(DOUBLE_COLUMN, 1.4 + 2.0 * columns), 3.6), squeeze=False)
        for column, (title, comparison) in enumerate(comparisons.items()):
            for row, factor in enumerate(("A", "B")):
                ax = plot_similarity_heatmap(comparison, factor, axes[row, column], colorbar=False)
                chance = ax.get_title()
                ax.set_title(f"{title}\n{chance}" if row == 0 else chance)
                # The matrix is symmetric: the names at the left serve both axes.
                ax.tick_params(labelsize=6.5, labelbottom=False)
        mesh = axes[0, 0].collections[0]
        measure = next(iter(comparisons.values())).measure
        figure.colorbar(mesh, ax=axes, shrink=0.6, label=f"mean {measure}")
    return figure


def plot_similarity(comparison: SubspaceComparison) -> Figure:
    """Draw the similarity of A above that of B, for one comparison.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_similarity(compare_subspaces(sample_adapters()[:3]))
    """
    return plot_figure_one({"": comparison})


def _short_numbers(matrix: np.ndarray) -> np.ndarray:
    """Two decimals without the leading zero: ".07", "1"."""
    text = np.vectorize(lambda value: "-" if np.isnan(value) else f"{value:.2f}".lstrip("0").replace("1.00", "1"))
    return text(np.asarray(matrix, dtype=float))
