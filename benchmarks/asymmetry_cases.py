"""What predicts which factor is worth training? Modules of three small models, adapted one at a time.

    python benchmarks/asymmetry_cases.py measure MODELS TEXTS [--out FILE]
    python benchmarks/asymmetry_cases.py collect FAMILY CONFIG RUNS --data DATA [--model MODEL] [--out FILE]
    python benchmarks/asymmetry_cases.py judge [FILE]

A case is one linear map of a model on one task: loss with A alone trained against loss with B alone, rank 8. The first
measures those of stories260K on dialogue and news: 40 steps of 8 windows of 64 tokens, each at its better rate of two
(chosen on one half of the development windows with the first seed, and the other half reported with both seeds), in
about seven minutes of one core. The second takes them from the finished runs of `asym finetune encoder-modules` (family
"encoder") or `pronunciation-modules` ("sequence to sequence"). Both write each case with what might predict it. The
third correlates ranks within families, with intervals that resample families and in them whole layers on a task, and
asks of each family held out what choosing the factor by a predictor would have saved.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from asym_analysis import Adapter, input_covariances, load_adapter, output_sensitivities, predict_asymmetry
from asym_analysis.adapters.applied import apply_to
from asym_analysis.finetuning.application import apply_variant, initial_factors
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import pretrained_model, task_batches
from asym_analysis.finetuning.plan import read_sweep
from asym_analysis.finetuning.sweep import results_table
from asym_analysis.finetuning.sweep_prediction import advantages
from asym_analysis.finetuning.variants import Variant
from asym_analysis.prediction.moment_sums import loss_of
from asym_analysis.prediction.weight_gradients import weight_gradients

RESULTS = Path(__file__).parent / "results" / "asymmetry_cases.csv"
RANK, STEPS, BATCH, WINDOW = 8, 40, 8, 64
RATES, SEEDS = (3e-2, 1e-1), (0, 1)
# Every map on the first text, queries and values on the second.
TEXTS = {"dialogue": "_proj", "news": ("q_proj", "v_proj")}
B_ONLY, A_ONLY, LORA = "hB_0 A_rand", "B_rand hA_0", "hB_0 hA_Km"
STATED = {  # at which the theory has both factors lose the same
    "index_both": ("index, from inputs and outputs", 1.0),
    "index_gradient": ("index of the first gradient, both sides", 1.0),
    "kept_difference": ("(random_A - random_B) x signal / loss", 0.0),
}
PREDICTORS = {
    "index_inputs": "index, from inputs",
    "index_both": "index, from inputs and outputs",
    "index_gradient": "index of the first gradient, both sides",
    "kept_difference": "(random_A - random_B) x signal / loss",
    "width": "d_out / d_in",
}


def windows(config: FinetuneConfig) -> tuple[Tensor, Tensor]:
    """Training and development windows of token ids."""
    source, options = model_source(config.model)
    data = config.task.data(config.task.processor(source, **options))
    return tuple(torch.tensor([row["input_ids"] for row in rows]) for rows in (data.train, data.dev))  # type: ignore[return-value]


def trained(
    base: Any, module: str, variant: str, rate: float, seed: int, train: Tensor, dev: Tensor
) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Adapt one module, and give the loss of every development window and the factors."""
    from peft import LoraConfig, get_peft_model

    layout = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=module.replace(".", r"\."))
    model: Any = get_peft_model(base, layout)
    apply_variant(model, Variant.parse(variant), seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    warm = max(1, round(0.06 * STEPS))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (STEPS - step) / (STEPS - warm))
    )
    order = np.random.default_rng(seed).permutation(len(train))
    model.train()
    for step in range(STEPS):
        ids = train[np.take(order, range(step * BATCH, (step + 1) * BATCH), mode="wrap")]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    found, factors = losses(model, dev), initial_factors(model)
    model.unload()
    return found, factors


@torch.no_grad()
def losses(model: Any, ids: Tensor) -> np.ndarray:
    """The mean loss of each window."""
    model.eval()
    parts = []
    for part in ids.split(50):
        logits = model(input_ids=part).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none")
        parts.append(each.mean(1))
    return torch.cat(parts).numpy()


def measure(models: Path, texts: Path, out: Path) -> None:
    """All cases, one row each, those that the file lacks."""
    prepare_training()
    rows = pd.read_csv(out).to_dict(orient="records") if out.is_file() else []
    known = {(row["task"], row["module"]) for row in rows}
    planned = read_sweep("language-modelling", data=texts, model=str(models / "stories260K"))
    for name, ends in TEXTS.items():
        config = next(run.config for run in planned if run.config.task.name == name)
        task: Any = config.task
        config = replace(config, task=replace(task, window=WINDOW, train_windows=500, dev_windows=200))
        train, dev = windows(config)
        tuning, reported = np.arange(len(dev)) % 2 == 0, np.arange(len(dev)) % 2 == 1
        model = pretrained_model(config)
        linear = [key for key, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
        modules = [key for key in linear if key.endswith(ends) and (name, key) not in known]
        if not modules:
            continue
        batches = [{"input_ids": part, "labels": part} for part in train[:64].split(16)]
        moments = [m(model, batches, modules) for m in (input_covariances, output_sensitivities, weight_gradients)]
        before = losses(model, dev)[reported].mean()
        for module in modules:
            scores: dict[str, list[float]] = {}
            for variant in (B_ONLY, A_ONLY):
                searched = [trained(model, module, variant, rate, SEEDS[0], train, dev)[0] for rate in RATES]
                best = int(np.argmin([found[tuning].mean() for found in searched]))
                others = [trained(model, module, variant, RATES[best], seed, train, dev)[0] for seed in SEEDS[1:]]
                scores[variant] = [float(found[reported].mean()) for found in (searched[best], *others)]
            _, factors = trained(model, module, LORA, RATES[0], SEEDS[0], train, dev)
            A, B = (next(value for key, value in factors.items() if f"lora_{side}" in key) for side in "AB")
            predictors = predicted([Adapter.from_factors({module: (A, B)})], module, *moments, before)
            ratio = np.log(np.array(scores[A_ONLY]) / np.array(scores[B_ONLY]))
            row = {"family": "decoder", "task": name, "module": module, "layer": layer_of(module)}
            row |= {"advantage": ratio.mean(), "advantage_error": stats.sem(ratio)}
            rows.append(row | predictors)
            pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


def predicted(
    adapters: list[Adapter], module: str, covariances: Any, sensitivities: Any, gradients: Any, before: float
) -> dict[str, float]:
    """Everything that might say which factor of a module to train, means over adapters that were trained on it."""
    d_out, d_in = gradients[module].shape
    U, S, Vh = torch.linalg.svd(gradients[module].double(), full_matrices=False)
    gradient = Adapter.from_factors({module: ((S.sqrt()[:, None] * Vh).float(), (U * S.sqrt()).float())})
    first = predict_asymmetry(gradient, covariances, sensitivities, rank=RANK).frame.iloc[0]
    found = []
    for adapter in adapters:
        both = predict_asymmetry(adapter, covariances, sensitivities, rank=RANK).frame.iloc[0]
        found.append(
            {
                "index_inputs": predict_asymmetry(adapter, covariances, rank=RANK).frame["asymmetry_index"].iloc[0],
                "index_both": both["asymmetry_index"],
                "kept_difference": (both["random_A"] - both["random_B"]) * both["signal"] / before,
            }
        )
    means = pd.DataFrame(found).mean().to_dict()
    return {"d_in": d_in, "d_out": d_out, "index_gradient": first["asymmetry_index"], "width": d_out / d_in} | means


def layer_of(module: str) -> str:
    """The stack and layer that a module is in."""
    return re.sub(r"^(?:.*?\.)??((?:encoder|decoder)\.)?layers?\.(\d+)\..*", r"\1\2", module)


def collect(options: argparse.Namespace) -> None:
    """The cases of a finished sweep over single modules, put in place of those that the file has of its family."""
    prepare_training()
    runs = read_sweep(options.config, data=options.data, model=options.model)
    table = results_table(runs, options.runs)
    lora = table[table["variant"] == LORA]
    rows = []
    for (task, module), case in advantages(table).groupby(["task", "target_modules"], sort=False):
        names = lora.loc[(lora["task"] == task) & (lora["target_modules"] == module), "name"]
        adapters = [load_adapter(options.runs / name) for name in names]
        config = next(run.config for run in runs if run.config.task.name == task)
        batches = list(task_batches(config, rows=BATCH * BATCH, training=True))
        # With the head that was trained beside the adapter: at a random one the loss says nothing of the task.
        still = {name: replace(adapters[0][name], scaling=0.0) for name in adapters[0]}
        with apply_to(adapters[0].with_updates(still), model := pretrained_model(config).eval()):
            measures = (input_covariances, output_sensitivities, weight_gradients)
            moments = [measured(model, batches, [module]) for measured in measures]
            with torch.no_grad():
                before = float(np.mean([float(loss_of(model, batch)) for batch in batches]))
        row = {"family": options.family, "task": task, "module": module, "layer": layer_of(str(module))}
        row |= case.iloc[0][["advantage", "advantage_error"]].to_dict()
        rows.append(row | predicted(adapters, str(module), *moments, before))
    old = pd.read_csv(options.out)
    new = pd.concat([old[old["family"] != options.family], pd.DataFrame(rows)])
    new.to_csv(options.out, index=False, float_format="%.6g")


def judge(cases: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Rank correlation of every predictor with the advantage of B alone: in each family, and on average over them."""
    rng = np.random.default_rng(seed)
    families = [members for _, members in cases.groupby("family", sort=False)]
    groups = [[group for _, group in members.groupby(["task", "layer"])] for members in families]

    def correlations(parts: list[pd.DataFrame]) -> np.ndarray:
        return np.array([[stats.spearmanr(part[n], part["advantage"]).statistic for n in PREDICTORS] for part in parts])

    drawn = []
    for _ in range(resamples):
        chosen = rng.integers(len(groups), size=len(groups))
        parts = [pd.concat([groups[i][k] for k in rng.integers(len(groups[i]), size=len(groups[i]))]) for i in chosen]
        drawn.append(correlations(parts).mean(0))
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    each = correlations(families)
    table = pd.DataFrame({"predictor": PREDICTORS.values(), "mean": each.mean(0), "low": low, "high": high})
    names = cases["family"].unique()
    return table.assign(**{f"{name} ({len(part)})": row for name, part, row in zip(names, families, each, strict=True)})


def held_out(cases: pd.DataFrame) -> pd.DataFrame:
    """What choosing a factor in each family would have saved against B alone, by thresholds found on the others.

    Saved is the mean log loss; "always A" and "the better one" bound it.
    """
    rows = []
    for family in cases["family"].unique():
        held, rest = cases[cases["family"] == family], cases[cases["family"] != family]
        rules = {label: held[name] < threshold(rest[name], rest["advantage"]) for name, label in PREDICTORS.items()}
        rules |= {f"{label}, at {at:g}": held[name] < at for name, (label, at) in STATED.items()}
        rules |= {"always A": held["advantage"] < np.inf, "the better one": held["advantage"] < 0}
        for label, trains_A in rules.items():
            saved = np.where(trains_A, -held["advantage"], 0.0)
            side = float(np.mean(trains_A == (held["advantage"] < 0)))
            rows.append({"rule": label, "family": family, "saved": saved.mean(), "right": side, "A": trains_A.mean()})
    table = pd.DataFrame(rows).pivot_table(index="rule", columns="family", values=["saved", "right"], sort=False)
    means = pd.concat({(kind, "mean"): table[kind].mean(axis=1) for kind in ("saved", "right")}, axis=1)
    return pd.concat([table, means], axis=1)


def threshold(values: pd.Series, advantage: pd.Series) -> float:
    """Below which value A should have been trained: the cut that would have saved most."""
    order = np.argsort(values.to_numpy(), kind="stable")
    saved = np.concatenate([[0.0], np.cumsum(-advantage.to_numpy()[order])])
    best = int(saved.argmax())
    ordered = np.concatenate([[-np.inf], values.to_numpy()[order], [np.inf]])
    return float(ordered[best : best + 2].mean()) if 0 < best < len(values) else float(ordered[best + (best > 0)])


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("models", type=Path)
    one.add_argument("texts", type=Path)
    one.add_argument("--out", type=Path, default=RESULTS)
    two = commands.add_parser("collect")
    two.add_argument("family")
    two.add_argument("config")
    two.add_argument("runs", type=Path)
    two.add_argument("--data", type=Path, required=True)
    two.add_argument("--model")
    two.add_argument("--out", type=Path, default=RESULTS)
    three = commands.add_parser("judge")
    three.add_argument("file", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args()
    if options.command == "measure":
        torch.set_num_threads(1)
        measure(options.models, options.texts, options.out)
    elif options.command == "collect":
        torch.set_num_threads(1)
        collect(options)
    else:
        cases = pd.read_csv(options.file)
        print(judge(cases).round(3).to_string(index=False))
        if len(cases["family"].unique()) > 1:
            print(held_out(cases).round(3).to_string())


if __name__ == "__main__":
    main()
