"""Adapters by adapters: the similarity of one factor as a matrix, and the three panels of the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.plots.style import DOUBLE_COLUMN, SINGLE_COLUMN, axes_or_new, styled

__all__ = ["MOST_NAMES", "plot_figure_one", "plot_similarity", "plot_similarity_heatmap"]

# Cividis is monotone in lightness and made for colour-deficient readers.
_COLORMAP = "cividis"
_WITH_VALUES, MOST_NAMES = 10, 30  # the most adapters whose values and names are written
_SHORT = 16  # the most letters of names that stand beside several matrices


def plot_similarity_heatmap(
    comparison: SubspaceComparison,
    factor: str = "A",
    ax: Axes | None = None,
    *,
    vmax: float | None = None,
    colorbar: bool = True,
    named: bool = True,
) -> Axes:
    """Draw the similarity of one factor between all adapters, averaged over modules.

    Parameters
    ----------
    comparison : SubspaceComparison
        What `compare_subspaces` returned.
    factor : str, default "A"
        A factor that was compared: "A", "B", ...
    ax : Axes, optional
        Where to draw; a new figure if None.
    vmax : float, optional
        Top of the colour scale, which begins at 0; the largest value off the diagonal by default. Give panels that
        will be compared the same one.
    colorbar : bool, default True
        Whether to draw the colour bar, with the chance level marked on it.
    named : bool, default True
        Whether to write names beside the numbers, where there are at most 30.

    Returns
    -------
    Axes
        Up to 10 adapters with each value written, up to 30 with their numbers and names at the left; columns have the
        rows' numbers. The diagonal, an adapter with itself, is left empty.

    Raises
    ------
    ValueError
        If the factor was not compared.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_similarity_heatmap(compare_subspaces(sample_adapters()[:3]), factor="B")
    """
    matrix = np.array(comparison.matrix(factor), dtype=float)
    np.fill_diagonal(matrix, np.nan)
    names = list(comparison.names)
    top = vmax if vmax is not None else float(np.nanmax(matrix)) if np.isfinite(matrix).any() else 1.0
    with styled():
        width, height = _size(names)
        ax = axes_or_new(ax, width=width, height=height)
        # A square root: chance is a few hundredths where related pairs are a few tenths, and both must be seen.
        norm = PowerNorm(0.5, vmin=0, vmax=top or 1.0)
        sns.heatmap(
            matrix, ax=ax, norm=norm, cmap=_COLORMAP, square=True, cbar=False, rasterized=True, xticklabels=False,
            yticklabels=False, annot=_values(matrix) if len(names) <= _WITH_VALUES else None, fmt="",
            annot_kws={"fontsize": 6},
        )  # fmt: skip
        _write_names(ax, names, named and len(names) <= MOST_NAMES)
        chance = _chance(comparison, factor)
        ax.set_title(f"{factor} (chance {chance:.3g})" if np.isfinite(chance) else factor)
        if colorbar:
            scale = ax.figure.colorbar(ax.collections[0], ax=ax, shrink=0.9, label=f"mean {comparison.measure}")
            scale.ax.tick_params(labelsize=7)
            if np.isfinite(chance) and chance < top:
                scale.set_label(f"mean {comparison.measure} (line: chance)")
                scale.ax.axhline(chance, color="white", linewidth=2.4)
                scale.ax.axhline(chance, color="black", linewidth=1.2)
    return ax


def plot_similarity(comparison: SubspaceComparison) -> Figure:
    """Draw the similarity of A above that of B, for one comparison.

    Parameters
    ----------
    comparison
        What `compare_subspaces` returned.

    Returns
    -------
    Figure
        As `plot_figure_one` with one column.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_similarity(compare_subspaces(sample_adapters()[:3]))
    """
    return plot_figure_one({"": comparison})


def plot_figure_one(comparisons: Mapping[str, SubspaceComparison]) -> Figure:
    """Draw the paper's Figure 1: A above, B below, one column for each family of adapters, one colour scale.

    Parameters
    ----------
    comparisons : mapping of str to SubspaceComparison
        Title of the column -> comparison of that family. Titles may hold line breaks.

    Returns
    -------
    Figure
        Two rows of matrices; the scale ends at the largest value off the diagonals.

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> _ = plot_figure_one({"all": compare_subspaces(sample_adapters()[:3])})
    """
    columns = len(comparisons)
    factors = [factor for factor in ("A", "B") if all(factor in each.factors for each in comparisons.values())]
    top = max(_highest(each.matrix(factor)) for each in comparisons.values() for factor in factors)
    named = columns == 1 or max(len(name) for each in comparisons.values() for name in each.names) <= _SHORT
    widest, highest = np.max([_size(list(each.names)) for each in comparisons.values()], axis=0)
    if columns > 1:
        beside = max(_beside(list(each.names)) for each in comparisons.values()) if named else 0.3
        widest = min(DOUBLE_COLUMN, 1.6 + 2.2 * columns)
        highest = min(highest, (widest - 0.9) / columns - beside + 0.6)
    with styled():
        size = (widest, 0.3 + len(factors) * min(highest, 2.6))
        figure, axes = plt.subplots(len(factors), columns, figsize=size, squeeze=False, layout="compressed")
        for column, (title, comparison) in enumerate(comparisons.items()):
            for row, factor in enumerate(factors):
                ax = plot_similarity_heatmap(
                    comparison, factor, axes[row, column], vmax=top, colorbar=False, named=named
                )
                if column and not named:
                    ax.set_ylabel("")
                chance = ax.get_title()
                ax.set_title(f"{title}\n{chance}" if row == 0 and title else chance)
        measure = next(iter(comparisons.values())).measure
        figure.colorbar(axes[0, 0].collections[0], ax=axes, shrink=0.6, label=f"mean {measure}")
    return figure


def _size(names: list[str]) -> tuple[float, float]:
    """Width and height in inches of one matrix with its names and colour bar."""
    beside = _beside(names) + 0.95
    least = max(1.5, 0.1 * min(len(names), MOST_NAMES))
    side = min(max(SINGLE_COLUMN - beside, least), 0.5 * len(names) + 0.3)
    return max(SINGLE_COLUMN, beside + side), side + 0.7


def _beside(names: list[str]) -> float:
    """Width in inches of the names at the left."""
    longest = max(len(name) for name in _rows(names)) if len(names) <= MOST_NAMES else 4
    return 0.062 * longest * _letters(names) / 7


def _highest(matrix: np.ndarray) -> float:
    values = np.array(matrix, dtype=float)
    np.fill_diagonal(values, np.nan)
    return float(np.nanmax(values)) if np.isfinite(values).any() else 1.0


def _letters(names: list[str]) -> float:
    return 7.0 if len(names) <= 10 else 5.5


def _rows(names: list[str]) -> list[str]:
    """Names without the folders that all have, at most 40 letters, each with its number."""
    shared = _common_start(names)
    short = [name.removeprefix(shared) for name in names]
    cut = [text if len(text) <= 40 else f"{text[:18]}…{text[-21:]}" for text in short]
    return [f"{text}  {number}" for number, text in enumerate(cut, 1)]


def _write_names(ax: Axes, names: list[str], named: bool) -> None:
    """Numbers along both axes, and the names at the left where there is room; a table or the set has the others."""
    count, size = len(names), _letters(names)
    step = 1 if count <= 16 else -(-count // 10)
    numbers = [str(i) for i in range(1, count + 1, step)]
    middles = np.arange(0, count, step) + 0.5
    ax.set_xticks(middles, numbers, fontsize=size, rotation=0)
    if named:
        shared = _common_start(names)
        ax.set_yticks(np.arange(count) + 0.5, _rows(names), fontsize=size, rotation=0)
        if shared:
            ax.set_ylabel(f"{shared}…", fontsize=6.5)
    else:
        ax.set_yticks(middles, numbers, fontsize=size, rotation=0)
        ax.set_ylabel("number of the adapter in the set", fontsize=7)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _values(matrix: np.ndarray) -> np.ndarray:
    """The text of each cell: two digits without the zero before the point."""
    return np.array([[f"{value:.2f}".lstrip("0").replace("1.00", "1") for value in row] for row in matrix])


def _common_start(names: list[str]) -> str:
    """The folders with which every name begins."""
    if len(names) < 2:
        return ""
    parts = [name.split("/")[:-1] for name in names]
    count = 0
    while all(len(each) > count and each[count] == parts[0][count] for each in parts):
        count += 1
    return "".join(f"{part}/" for part in parts[0][:count])


def _chance(comparison: SubspaceComparison, factor: str) -> float:
    """Mean of the null over all pairs and modules of a factor."""
    summary = comparison.summary()
    return float(summary.loc[(summary["factor"] == factor) & (summary["pairs"] == "all"), "null_mean"].iloc[0])
