"""Measure public adapters of others: movement of A, similarity of A and B, ranks spent, shared initializations.

    python benchmarks/in_the_wild.py ADAPTERS
    python benchmarks/in_the_wild.py            (draws from the tables that are there)

in_the_wild_sources.csv, beside this file, says which file of which public repository and commit belongs at
ADAPTERS/family/adapter. The files are their authors', most without a licence, and are not shipped. Adapters of one
family have one base model; `run` and `task` are what their authors' folders and commit messages say. The family
"variety" holds single files, which are measured alone. Files that are missing are passed over, and counted.

Writes benchmarks/results/in_the_wild_{adapters,pairs,refused}.csv and figures/in_the_wild.{svg,png}.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from asym_analysis import (
    Adapter,
    AdapterError,
    AdapterSet,
    adapter_spectra,
    compare_subspaces,
    initialization_drift,
    load_adapter,
    shared_initialization,
)
from asym_analysis.plots.style import COLORS, SHAPES, legend_below, save_figure, styled

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SINGLE = "variety"
KINDS = {
    "checkpoints of one run": COLORS["null"],
    "one task, two runs": COLORS["B"],
    "two tasks": COLORS["A"],
    "task not stated, two runs": COLORS["both"],
}


def read(folder: Path, sources: pd.DataFrame) -> tuple[list[tuple[pd.Series, Adapter]], pd.DataFrame]:
    """The adapters that are there and load, and a table of those that were refused, with the reason."""
    found, refused = [], []
    for _, row in sources.iterrows():
        path = folder / row["family"] / row["adapter"]
        if not path.exists():
            continue
        try:
            found.append((row, load_adapter(path).replaced(name=row["adapter"])))
        except AdapterError as error:
            said = str(error).split(f"{path}/", 1)[-1]
            refused.append({"adapter": row["adapter"], "message": said})
    return found, pd.DataFrame(refused, columns=["adapter", "message"])


def describe(row: pd.Series, adapter: Adapter) -> dict[str, object]:
    """One line of the table of adapters."""
    moved = initialization_drift(adapter).frame.query("factor == 'A'")
    spectra = adapter_spectra(adapter).frame
    values, verdicts = moved["value"].dropna(), moved["verdict"].value_counts()
    trained = spectra[spectra["frobenius_norm"] > 0]
    return {
        "family": row["family"],
        "adapter": row["adapter"],
        "modules": len(adapter),
        "rank": int(spectra["rank"].median()),
        "A_verdict": verdicts.index[0],
        "A_told": len(values),
        "A_moved": values.median(),
        "A_moved_low": values.quantile(0.25),
        "A_moved_high": values.quantile(0.75),
        "A_moved_at_most": moved["upper"].median() if values.empty else np.nan,
        "A_reason": moved.loc[moved["verdict"] == verdicts.index[0], "reason"].mode().iloc[0],
        "B_zero": len(spectra) - len(trained),
        "effective_rank": trained["effective_rank"].median(),
        "directions_90": trained["rank_90"].median(),
        "directions_90_of_rank": (trained["rank_90"] / trained["rank"]).median(),
    }


def kind_of(one: pd.Series, other: pd.Series) -> str:
    """What two adapters of a family have in common, by their authors' folders."""
    if one["run"] == other["run"]:
        return "checkpoints of one run"
    if "not stated" in (one["task"], other["task"]):
        return "task not stated, two runs"
    return "one task, two runs" if one["task"] == other["task"] else "two tasks"


def compare(rows: list[pd.Series], adapters: list[Adapter]) -> pd.DataFrame:
    """One line a pair of a family: overlap of A and B, chance, shared initialization; means over the modules."""
    names = [adapter.name for adapter in adapters]
    frame = compare_subspaces(AdapterSet(adapters)).frame
    frame = frame.assign(rare=frame["p_value"] < 0.01)
    pairs = frame.groupby(["adapter_i", "adapter_j", "factor"], sort=False)[["value", "null_mean", "rare"]].mean()
    wide = pairs.unstack("factor")  # noqa: PD010  (two levels of columns are wanted)
    shared = shared_initialization(AdapterSet(adapters)).agreement
    lines = []
    for (one, other), values in wide.iterrows():
        i, j = names.index(one), names.index(other)
        line = {"family": rows[i]["family"], "kind": kind_of(rows[i], rows[j]), "adapter_i": one, "adapter_j": other}
        for factor in ("A", "B"):
            line[f"{factor}_overlap"] = values["value", factor]
            line[f"{factor}_chance"] = values["null_mean", factor]
            line[f"{factor}_below_01"] = values["rare", factor]
        lines.append(line | {"shared_initialization": shared[i, j]})
    return pd.DataFrame(lines)


def draw(adapters: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Movement of A, A against B of all pairs, and the ranks spent."""
    families = adapters["family"].unique()
    with styled():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.8, 5.2), width_ratios=[1.1, 1.2, 1])
        told = adapters[adapters["A_told"] >= 3].sort_values(["family", "A_moved"], ignore_index=True)
        spread = np.abs(told[["A_moved_low", "A_moved_high"]].to_numpy().T - told["A_moved"].to_numpy())
        left.errorbar(told["A_moved"], told.index, xerr=spread, fmt="none", ecolor=COLORS["A"], elinewidth=0.9)
        most = told["A_told"] >= 0.75 * told["modules"]
        for part, face in ((told[most], COLORS["A"]), (told[~most], "white")):
            label = "most modules told" if face != "white" else "fewer: the others moved further"
            left.plot(part["A_moved"], part.index, "s", color=COLORS["A"], mfc=face, markersize=4.5, label=label)
        left.set_yticks(told.index, [name.replace("_", " ") for name in told["adapter"]], fontsize=7)
        left.set(xlabel="relative movement of A", xlim=(0, None))
        left.set_title("a. How far A moved", loc="left")
        for (kind, color), shape in zip(KINDS.items(), SHAPES, strict=False):
            part = pairs[pairs["kind"] == kind]
            times = [part[f"{factor}_overlap"] / part[f"{factor}_chance"] for factor in ("A", "B")]
            middle.plot(*times, shape, color=color, markersize=4.5, label=kind, alpha=0.8, linestyle="none")
        limits = (0.8, 400)
        middle.plot(limits, limits, color=COLORS["theory"], linewidth=0.8, label="A and B alike")
        middle.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        middle.set(xlabel="overlap of A, times chance", ylabel="overlap of B, times chance")
        middle.set_title("b. Pairs of one base model", loc="left")
        for family, shape, color in zip(families, SHAPES, COLORS.values(), strict=False):
            part = adapters[adapters["family"] == family]
            spread = np.exp(np.linspace(-0.09, 0.09, len(part))) if len(part) > 1 else 1
            right.plot(part["rank"] * spread, part["directions_90"], shape, markersize=4.5, color=color, label=family,
                       alpha=0.8, linestyle="none")  # fmt: skip
        right.plot([1, 16], [1, 16], color=COLORS["theory"], linewidth=0.8, label="the whole rank")
        right.set(xscale="log", yscale="log", xlabel="rank", ylabel="directions that hold 90 %")
        for axis in (right.xaxis, right.yaxis):
            axis.set_ticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
            axis.set_ticks([], minor=True)
        right.set_title("c. Ranks spent", loc="left")
        for ax in (left, middle, right):
            legend_below(ax)
    return figure


def measure(folder: Path) -> None:
    """Write the three tables, and print the means of pairs."""
    sources = pd.read_csv(HERE / "in_the_wild_sources.csv")
    found, refused = read(folder, sources)
    print(f"{len(sources)} adapters listed, {len(found)} read, {len(refused)} refused")
    adapters = pd.DataFrame([describe(row, adapter) for row, adapter in found])
    families = sorted({row["family"] for row, _ in found} - {SINGLE})
    groups = [[pair for pair in found if pair[0]["family"] == name] for name in families]
    several = [members for members in groups if len(members) > 1]
    pairs = pd.concat([compare(*map(list, zip(*members, strict=True))) for members in several], ignore_index=True)
    for name, table in {"adapters": adapters, "pairs": pairs, "refused": refused}.items():
        table.to_csv(RESULTS / f"in_the_wild_{name}.csv", index=False, float_format="%.4g")
    for factor in ("A", "B"):
        pairs[f"{factor}_times"] = pairs[f"{factor}_overlap"] / pairs[f"{factor}_chance"]
    summary = pairs.assign(B_ahead=pairs["B_times"] > pairs["A_times"]).groupby(["family", "kind"], sort=False)
    shown = ["A_overlap", "A_chance", "B_overlap", "B_chance", "A_times", "B_times", "shared_initialization", "B_ahead"]
    print(pd.concat([summary.size().rename("pairs"), summary[shown].mean()], axis=1).round(3).to_string())


def main() -> None:
    """Measure where the adapters are at hand, and draw from the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="?", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # assumed scales: no number here depends on them
    if options.adapters is not None:
        measure(options.adapters)
    adapters, pairs = (pd.read_csv(RESULTS / f"in_the_wild_{name}.csv") for name in ("adapters", "pairs"))
    save_figure(draw(adapters, pairs), HERE.parent / "figures" / "in_the_wild")


if __name__ == "__main__":
    main()
