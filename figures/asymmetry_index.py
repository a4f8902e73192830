"""Does the asymmetry index order what freezing each factor costs? Computed on a finished sweep, and drawn over all.

    python figures/asymmetry_index.py measure FAMILY CONFIG RUNS --data DATA [--model MODEL] [--modules CONFIG RUNS]
    python figures/asymmetry_index.py draw [folder]

The first predicts from the sweep's own LoRA adapters and the inputs of their modules, and puts the measured losses of
B-only against A-only beside it, for the whole model and, with --modules, for a sweep over modules one at a time; it
writes asym_analysis/samples/predictions/FAMILY.csv, with what random A's really keep of the inputs by regression. The
second draws figures/asymmetry_index and captured_signal from those.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

from asym_analysis import Adapter, load_adapter, predict_asymmetry, sample_predictions
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import pretrained_model, task_batches
from asym_analysis.finetuning.plan import PlannedRun, read_sweep
from asym_analysis.finetuning.sweep import results_table
from asym_analysis.finetuning.sweep_prediction import advantages, predict_sweep
from asym_analysis.plots.asymmetry_index import plot_asymmetry_index
from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, SERIES, SHAPES, SINGLE_COLUMN, save_figure, styled
from asym_analysis.prediction.asymmetry import measured_capture
from asym_analysis.prediction.input_moments import InputMoment, adapted_module
from asym_analysis.prediction.padding import RealPositions

FOLDER = Path(__file__).parent
CAPTURE_ROWS, CAPTURE_INPUTS, CAPTURE_DRAWS = 64, 4000, 40
MEASURED = ("asymmetry_index", "random_A", "random_B", "principal_A", "best_A", "signal")


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """Predictions, averaged over the seeds of the LoRA runs, with the advantage of B-only where it was measured."""
    runs = read_sweep(options.config, data=options.data, model=options.model)
    predicted = predict_sweep(runs, options.runs)
    keys = ["task", "module", "kind"]
    table = predicted.groupby(keys, sort=False)[list(MEASURED)].mean().reset_index()
    whole = advantages(results_table(runs, options.runs)).assign(module="all")
    found = [whole.drop(columns="target_modules")]
    if options.modules:
        config, folder = options.modules
        alone = results_table(read_sweep(config, data=options.data, model=options.model), folder)
        found.append(advantages(alone).rename(columns={"target_modules": "module"}))
    table = table[table["task"].isin(whole["task"])].merge(pd.concat(found), on=["task", "module"], how="left")
    table = table.merge(captured(runs, options.runs), on=["task", "module", "kind"], how="left")
    table.insert(0, "family", options.family)
    return table


def captured(runs: list[PlannedRun], folder: Path) -> pd.DataFrame:
    """What random frozen A's keep of one LoRA run's update a task: predicted, and by regression on the same inputs."""
    table = results_table(runs, folder).query("variant == 'hB_0 hA_Km' and rank == 8 and stage != 'search'")
    table = table.drop_duplicates("task")
    configs = {run.config.task.name: run.config for run in runs}
    rows = []
    for name, task in table[["name", "task"]].itertuples(index=False):
        adapter, config = load_adapter(folder / name), configs[task]
        model = pretrained_model(config).eval()
        for module, inputs in module_inputs(model, task_batches(config, rows=CAPTURE_ROWS), list(adapter)).items():
            doubled = inputs.double()
            moment = InputMoment(doubled.T @ doubled / len(doubled), doubled.mean(0), len(doubled))
            update = adapter[module]
            alone = Adapter.from_factors({module: (update.A, update.B)})
            predicted = predict_asymmetry(alone, {module: moment}).frame["random_A"].iloc[0]
            kept = measured_capture(update, inputs, update.A.shape[0], draws=CAPTURE_DRAWS, seed=0)
            row = {"task": task, "module": module, "kind": "inputs", "inputs": len(inputs)}
            error = kept.std(ddof=1) / CAPTURE_DRAWS**0.5
            rows.append(row | {"predicted": predicted, "regressed": kept.mean(), "regressed_error": error})
    return pd.DataFrame(rows)


@torch.no_grad()
def module_inputs(model: nn.Module, batches: Iterator[dict[str, Tensor]], modules: list[str]) -> dict[str, Tensor]:
    """Every unpadded input of some modules, as rows."""
    found: dict[str, list[Tensor]] = {module: [] for module in modules}
    for batch in batches:
        real = RealPositions.of_batch(batch, model)

        def keep(_: nn.Module, values: tuple[Tensor], *, module: str, real: RealPositions = real) -> None:
            found[module].append(real.rows(module, values[0]))

        handles = [
            adapted_module(model, module).register_forward_pre_hook(partial(keep, module=module)) for module in modules
        ]
        model(**batch)
        for handle in handles:
            handle.remove()
    return {module: torch.cat(parts)[:CAPTURE_INPUTS] for module, parts in found.items()}


def draw(folder: Path) -> None:
    """Index against measured advantage: the paper's index on the left, the one that asks the loss on the right."""
    table = sample_predictions()
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 3.2), sharey=True, layout="constrained")
        for ax, kind, title in zip(
            axes,
            ("inputs", "inputs and outputs"),
            ("a  from the inputs", "b  from inputs and sensitivities"),
            strict=True,
        ):
            plot_asymmetry_index(table, ax, kind=kind)
            ax.set_title(title, loc="left")
            ax.get_legend().remove()
        axes[1].set_ylabel("")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save_figure(figure, folder / "asymmetry_index")
    draw_captured(table.dropna(subset=["predicted"]), folder)
    plt.close("all")


def draw_captured(table: pd.DataFrame, folder: Path) -> None:
    """Predicted against regressed: what a random A keeps, a point a module."""
    with styled():
        _, ax = plt.subplots(figsize=(SINGLE_COLUMN, 2.6))
        for color, shape, (family, rows) in zip(SERIES, SHAPES, table.groupby("family", sort=False), strict=False):
            bars = 2 * rows["regressed_error"]
            ax.errorbar(
                rows["predicted"], rows["regressed"], bars,
                fmt=shape, color=color, markersize=3, alpha=0.7, elinewidth=0.6, label=family,
            )  # fmt: skip
        top = 1.05 * table[["predicted", "regressed"]].max().max()
        ax.plot([0, top], [0, top], color=COLORS["theory"], linewidth=0.8, zorder=0, label="equal")
        ax.set_xlabel("part of the signal, predicted")
        ax.set_ylabel("by regression on activations")
        error = (table["predicted"] / table["regressed"] - 1).abs().median()
        told = f"{len(table)} modules, median error {error:.1%}"
        ax.annotate(told, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8)
        ax.legend(loc="upper left")
    save_figure(ax, folder / "captured_signal")


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("family")
    one.add_argument("config")
    one.add_argument("runs", type=Path)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--model")
    one.add_argument("--modules", nargs=2, metavar=("CONFIG", "RUNS"))
    drawn = commands.add_parser("draw")
    drawn.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.folder)
        return
    prepare_training()
    target = FOLDER.parent / "asym_analysis" / "samples" / "predictions" / f"{options.family.replace(' ', '_')}.csv"
    target.parent.mkdir(exist_ok=True)
    measure(options).to_csv(target, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
