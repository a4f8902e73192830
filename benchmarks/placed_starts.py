"""Does theory say which frozen factor is good, and does curvature say which learning rate? On the sweep placed-starts.

    python benchmarks/placed_starts.py measure RUNS --data DATA --model MODEL [--out FILE]
    python benchmarks/placed_starts.py judge [FILE]

RUNS is the folder of `asym finetune placed-starts`. The first measures, for every way to initialize the frozen factor
and every reported seed, what it keeps of the update that LoRA learned (the linear model, docs/theory.md, section 1.2)
and, for the first seed, the curvature of the loss in the trained factor before the first step. The second holds that
against the shipped sweep: the kept share against the kept part of LoRA's gain, and the best learning rate against the
curvature, by rank correlations with 95 % intervals that resample the variants. Takes about three minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from asym_analysis import input_covariances, load_adapter, output_sensitivities, predict_asymmetry, score_variants
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import adapted_model, pretrained_model, task_batches
from asym_analysis.finetuning.plan import PlannedRun, read_sweep
from asym_analysis.finetuning.results import longest_runs
from asym_analysis.prediction import kept_by_frozen, training_curvature
from asym_analysis.samples import sample_sweep

CONFIG, LORA, LONGEST = "placed-starts", "lora", "400 steps"
RESULTS = Path(__file__).parent / "results" / "placed_starts.csv"
ROWS, CURVATURE_ROWS, ITERATIONS = 128, 16, 10
LEAST_VARIANTS = 5  # fewer have no interval to speak of


def measured(runs: list[PlannedRun], folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each variant and seed: kept shares of LoRA's update, its law at random, and curvature."""
    final = [run for run in runs if run.stage == "final" and run.labels["length"] == LONGEST]
    base = final[0].config
    data = base.task.data(base.task.processor(base.model))
    batches = list(task_batches(base, rows=ROWS, data=data, training=True))
    few = list(task_batches(base, rows=CURVATURE_ROWS, data=data, training=True))
    learned = {run.config.seed: load_adapter(folder / run.name) for run in final if run.labels["run"] == LORA}
    # Of another seed, since LoRA's own A began where a Kaiming A of this seed is frozen.
    updates = dict(zip(learned, [*learned.values()][1:] + [*learned.values()][:1], strict=True))
    model, modules = pretrained_model(base), list(next(iter(updates.values())))
    inputs = input_covariances(model, batches, modules)
    outputs = output_sensitivities(model, batches, modules)
    for run in final:
        variant = run.config.parsed_variant
        assert variant is not None
        adapted, initial = adapted_model(run.config, data)
        row = {"run": run.labels["run"], "variant": str(variant), "tuned": variant.tuned, "seed": run.config.seed}
        if variant.tuned != "both":
            frozen = "A" if variant.tuned == "B" else "B"
            parts = [
                kept_by_frozen(
                    frozen,
                    initial[f"base_model.model.{module}.lora_{frozen}.weight"],
                    updates[run.config.seed][module],
                    inputs[module].second_moment,
                    outputs[module],
                )
                for module in modules
            ]
            row["kept_share"] = sum(kept for kept, _ in parts) / sum(whole for _, whole in parts)
            law = predict_asymmetry(updates[run.config.seed], inputs, outputs).overall()
            row["random_share"] = law[f"random_{frozen}"]
        if run.config.seed == base.seed:
            found = training_curvature(adapted, few, iterations=ITERATIONS)
            row |= {"curvature": found.largest, "sign_step": found.sign_step, "gradient_norm": found.gradient_norm}
        yield row


def best_rates(runs: pd.DataFrame) -> pd.Series:
    """The best learning rate of each search: the lowest point of a parabola through the three best-placed losses."""
    found = {}
    for run, members in runs[runs["stage"] == "search"].groupby("run", sort=False):
        members = members.sort_values("learning_rate")
        x, y = np.log(members["learning_rate"].to_numpy()), members["tune_value"].to_numpy()
        at = int(np.clip(np.argmin(y), 1, len(y) - 2))
        bend, slope, _ = np.polyfit(x[at - 1 : at + 2], y[at - 1 : at + 2], 2)
        lowest = -slope / (2 * bend) if bend > 0 else x[np.argmin(y)]
        found[run] = float(np.exp(np.clip(lowest, x[0], x[-1])))
    return pd.Series(found, name="best_rate")


def against_lora(runs: pd.DataFrame, outcomes: Mapping[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """By how many nats each run is better than LoRA after its last step, with intervals over seeds and rows."""
    parts = []
    for run in runs.loc[runs["stage"] == "final", "run"].unique():
        if run != LORA:
            # One at a time: two runs have one variant and place A by different texts.
            pair = score_variants(runs[runs["run"].isin([run, LORA])], outcomes=outcomes).contrast(run, LORA)
            parts.append(pair[pair["length"] == LONGEST].assign(run=run))
    table = pd.concat(parts).set_index("run")
    return table[["difference", "low", "high"]].add_prefix("better_by_")


def per_variant(measures: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds: kept share, curvature, part of LoRA's gain, best rate, and loss on stories."""
    final = longest_runs(runs).query("stage == 'final'")
    start = runs[runs["variant"] == "frozen"].iloc[0]
    losses = final.pivot_table(index="run", columns="seed", values="value", sort=False)
    gains = start["value"] - losses
    means = measures.groupby("run", sort=False)[["kept_share", "random_share", "curvature", "sign_step"]].mean()
    means["tuned"] = measures.groupby("run", sort=False)["tuned"].first()
    means["loss"] = losses.mean(axis=1)
    means["loss_error"] = losses.sem(axis=1)
    means["lora_gain"] = gains.loc[LORA].mean()
    means["kept_gain"] = (gains / gains.loc[LORA]).mean(axis=1)
    stories = final.pivot_table(index="run", columns="seed", values="other_loss", sort=False)
    means["forgotten"] = stories.mean(axis=1) - start["other_loss"]
    means["forgotten_error"] = stories.sem(axis=1)
    return means.join(best_rates(runs)).dropna(subset="loss")


def correlation(x: pd.Series, y: pd.Series, *, resamples: int = 4000, seed: int = 0) -> dict[str, Any]:
    """Spearman's rank correlation with a bootstrap interval over the variants."""
    rng, values = np.random.default_rng(seed), np.column_stack([x, y])
    drawn = []
    for _ in range(resamples):
        chosen = values[rng.integers(len(values), size=len(values))]
        if len(np.unique(chosen[:, 0])) > 1 and len(np.unique(chosen[:, 1])) > 1:
            drawn.append(stats.spearmanr(*chosen.T).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"variants": len(values), "rank_correlation": stats.spearmanr(x, y).statistic, "low": low, "high": high}


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """What orders the variants: kept share and kept gain, curvature and best rate, learning and forgetting."""
    frozen = table[table["tuned"] != "both"]
    frozen = frozen.assign(curvature=frozen["curvature"].abs())
    sides = {"A frozen": frozen[frozen["tuned"] == "B"], "B frozen": frozen[frozen["tuned"] == "A"], "either": frozen}
    pairs = [
        ("kept_share", "kept_gain"),
        ("curvature", "best_rate"),
        ("sign_step", "best_rate"),
        ("kept_gain", "forgotten"),
    ]
    rows = [
        {"what": f"{first} and {second}", "on": side} | correlation(members[first], members[second])
        for first, second in pairs
        for side, members in sides.items()
        if len(members) >= LEAST_VARIANTS
    ]
    return pd.DataFrame(rows)


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("runs", type=Path)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--model", required=True)
    one.add_argument("--out", type=Path, default=RESULTS)
    two = commands.add_parser("judge")
    two.add_argument("file", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args()
    if options.command == "judge":
        runs, outcomes = sample_sweep(CONFIG)
        table = per_variant(pd.read_csv(options.file), runs)
        shown = (table, against_lora(runs, outcomes), judge(table))
        print(*(each.round(4).to_string() for each in shown), sep="\n\n")
        return
    prepare_training()
    torch.set_num_threads(1)
    rows = []
    for row in measured(read_sweep(CONFIG, data=options.data, model=options.model), options.runs):
        rows.append(row)
        pd.DataFrame(rows).to_csv(options.out, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
