"""Does the asymmetry index order what freezing each factor costs? Computed on a finished sweep, and drawn over all.

    python figures/asymmetry_index.py measure FAMILY CONFIG RUNS --data DATA [--model MODEL] [--modules CONFIG RUNS]
    python figures/asymmetry_index.py draw [folder]

The first predicts from the sweep's own LoRA adapters and the inputs of their modules, and puts the measured losses of
B-only against A-only beside it, for the whole model and, with --modules, for a sweep over modules one at a time; it
writes asym_analysis/samples/predictions/FAMILY.csv. The second draws figures/asymmetry_index from those.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis import sample_predictions
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.plan import read_sweep
from asym_analysis.finetuning.sweep import results_table
from asym_analysis.finetuning.sweep_prediction import advantages, predict_sweep
from asym_analysis.plots.asymmetry_index import plot_asymmetry_index
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure, styled

FOLDER = Path(__file__).parent
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
    table = table.merge(pd.concat(found), on=["task", "module"], how="left")
    table.insert(0, "family", options.family)
    return table


def draw(folder: Path) -> None:
    """Index against measured advantage: the paper's index on the left, the one that asks the loss on the right."""
    table = sample_predictions()
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 2.9), sharey=True)
        for ax, kind, title in zip(
            axes,
            ("inputs", "inputs and outputs"),
            ("a  from the inputs", "b  from inputs and sensitivities"),
            strict=True,
        ):
            plot_asymmetry_index(table, kind, ax)
            ax.set_title(title, loc="left")
        axes[0].get_legend().remove()
        axes[1].set_ylabel("")
    save_figure(figure, folder / "asymmetry_index")
    plt.close(figure)


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
