"""What a plain `savefig` writes is whole: no text beyond the edge, none over another, lines told apart in grey."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from asym_analysis import (
    Adapter,
    AdapterSet,
    adapter_spectra,
    checkpoint_trajectories,
    compare_subspaces,
    compute_bound,
    initialization_drift,
    intruder_dimensions,
    sample_adapters,
    shared_energy,
)
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.bounds import plot_bounds
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.heatmap import plot_figure_one, plot_similarity, plot_similarity_heatmap
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.style import save_figure
from asym_analysis.plots.trajectories import plot_trajectories

mpl.use("Agg")

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def runs(count: int) -> AdapterSet:
    """Adapters with names of 40 letters and seven projections in each of two layers."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    modules = [f"model.layers.{layer}.{name}" for layer in range(2) for name in PROJECTIONS]
    common = {name: draw(24, 4) for name in modules}
    made = []
    for index in range(count):
        start = {name: (draw(4, 32), torch.zeros(24, 4)) for name in modules}
        factors = {name: (A + 0.3 * draw(4, 32), common[name] + draw(24, 4)) for name, (A, _) in start.items()}
        name = f"instruction-finetune-of-llama-2-seed-{index:02d}/x"
        made.append(Adapter.from_factors(factors, name=name, initial=Adapter.from_factors(start)))
    return AdapterSet(made)


def _base(adapter: Adapter) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"{module}.weight": torch.randn(24, 32, generator=generator) for module in adapter}


def _checkpoints() -> AdapterSet:
    first, last = runs(2)
    return AdapterSet([first, last], {"step": [10, 20]})


PICTURES: dict[str, Callable[[], Axes | Figure]] = {
    "heatmap of 4": lambda: plot_similarity_heatmap(compare_subspaces(runs(4)), "B"),
    "heatmap of 30": lambda: plot_similarity_heatmap(compare_subspaces(runs(30)), "A"),
    "heatmap of 40": lambda: plot_similarity_heatmap(compare_subspaces(runs(40)), "A"),
    "figure one": lambda: plot_figure_one({"one": compare_subspaces(runs(3)), "two": compare_subspaces(runs(4))}),
    "figure one of 13": lambda: plot_similarity(compare_subspaces(sample_adapters())),
    "alignment": lambda: plot_subspace_alignment(compare_subspaces(runs(3))),
    "drift": lambda: plot_drift(initialization_drift(runs(1)[0])),
    "drift of 5": lambda: plot_drift(initialization_drift(runs(5))),
    "spectra": lambda: plot_spectra(adapter_spectra(runs(1)[0])),
    "sharing": lambda: plot_sharing(shared_energy(runs(3), [1, 2, 4], draws=2)),
    "intruders": lambda: plot_intruders(intruder_dimensions(runs(1)[0], _base(runs(1)[0]), top_k=5)),
    "bounds": lambda: plot_bounds(compute_bound(runs(1)[0], 1000)),
    "trajectories": lambda: plot_trajectories(checkpoint_trajectories(_checkpoints())),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_cut_and_no_text_lies_on_another(name: str, tmp_path: Path) -> None:
    drawn = PICTURES[name]()
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    figure.savefig(tmp_path / "plain.png")  # no arguments: as a user would
    renderer = figure.canvas.get_renderer()
    hidden = _beyond_the_limits(figure)
    boxes = []
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and id(text) not in hidden:
            box = text.get_window_extent(renderer)
            boxes.append((text.get_text(), box))
            x0, y0, x1, y1 = box.extents
            assert x0 >= -1, text
            assert y0 >= -1, text
            assert x1 <= figure.bbox.width + 1, text
            assert y1 <= figure.bbox.height + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width < 2 or height < 2, f"{one!r} lies on {other!r}"


def _beyond_the_limits(figure: Figure) -> set[int]:
    """The labels of ticks that lie outside their axis, which are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
    return hidden


@pytest.mark.parametrize("name", ["alignment", "spectra", "sharing", "trajectories", "drift"])
def test_lines_differ_without_their_colour(name: str) -> None:
    ax = PICTURES[name]()
    looks = [
        (line.get_marker(), line.get_linestyle())
        for line in ax.get_legend().legend_handles
        if hasattr(line, "get_marker")
    ]
    assert len(looks) == len(set(looks))


def test_every_line_with_a_meaning_is_in_the_legend() -> None:
    def legend(name: str) -> str:
        return " | ".join(text.get_text() for text in PICTURES[name]().get_legend().get_texts())

    assert "chance" in legend("alignment")
    assert "flat spectrum" in legend("spectra")
    assert "random" in legend("sharing")
    assert "threshold" in legend("intruders")
    assert "random direction" in legend("intruders")
    assert "random subspaces" in legend("trajectories")


def test_text_of_a_saved_svg_is_text(tmp_path: Path) -> None:
    svg, _ = save_figure(PICTURES["alignment"](), tmp_path / "figure")
    assert ">layer</text>" in svg.read_text()


def test_bands_over_layers_hold_four_fifths_of_the_pairs() -> None:
    comparison = compare_subspaces(runs(6))
    ax = plot_subspace_alignment(comparison)
    rows = comparison.frame.query("factor == 'B'")
    expected = rows.groupby("layer")["value"].quantile([0.1, 0.9]).unstack()
    corners = ax.collections[-1].get_paths()[0].vertices  # the last band is B's
    for place, (low, high) in enumerate(expected.to_numpy()):
        heights = corners[corners[:, 0] == place, 1]
        assert (heights.min(), heights.max()) == pytest.approx((low, high))
