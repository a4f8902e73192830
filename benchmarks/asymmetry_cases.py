"""What predicts which factor is worth training? Modules of a small decoder, adapted one at a time.

    python benchmarks/asymmetry_cases.py measure MODELS TEXTS [--out FILE]
    python benchmarks/asymmetry_cases.py judge [FILE]

A case is one linear map of stories260K on one text (dialogue or news): loss with A alone trained against loss with B
alone, each at its better rate of two (chosen on one half of the development windows with the first seed, and the other
half reported with both seeds), rank 8, 40 steps of 8 windows of 64 tokens. The first writes the cases with what might
predict them, each as it is finished, and goes on where it stopped; the second correlates ranks, with intervals that
resample whole groups (a layer on a text), and asks of each group held out how often the predicted side is right. Takes
about seven minutes of one core.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from asym_analysis import Adapter, input_covariances, output_sensitivities, predict_asymmetry
from asym_analysis.finetuning.application import apply_variant, initial_factors
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import pretrained_model
from asym_analysis.finetuning.plan import read_sweep
from asym_analysis.finetuning.variants import Variant
from asym_analysis.prediction.weight_gradients import weight_gradients

RESULTS = Path(__file__).parent / "results" / "asymmetry_cases.csv"
RANK, STEPS, BATCH, WINDOW = 8, 40, 8, 64
RATES, SEEDS = (3e-2, 1e-1), (0, 1)
# Every map on the first text, queries and values on the second.
TEXTS = {"dialogue": "_proj", "news": ("q_proj", "v_proj")}
B_ONLY, A_ONLY, LORA = "hB_0 A_rand", "B_rand hA_0", "hB_0 hA_Km"
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
    known = {(row["text"], row["module"]) for row in rows}
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
        covariances = input_covariances(model, batches, modules)
        sensitivities = output_sensitivities(model, batches, modules)
        gradients = weight_gradients(model, batches, modules)
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
            adapter = Adapter.from_factors({module: (A, B)})
            U, S, Vh = torch.linalg.svd(gradients[module].double(), full_matrices=False)
            gradient = Adapter.from_factors({module: ((S.sqrt()[:, None] * Vh).float(), (U * S.sqrt()).float())})
            both = predict_asymmetry(adapter, covariances, sensitivities, rank=RANK).frame.iloc[0]
            first = predict_asymmetry(gradient, covariances, sensitivities, rank=RANK).frame.iloc[0]
            a_loss, b_loss = np.array(scores[A_ONLY]), np.array(scores[B_ONLY])
            ratio = np.log(a_loss / b_loss)
            d_out, d_in = gradients[module].shape
            row = {"text": name, "module": module, "layer": int(module.split(".")[2]), "d_in": d_in, "d_out": d_out}
            row |= {"before": before, "loss_a_only": a_loss.mean(), "loss_b_only": b_loss.mean()}
            row |= {"advantage": ratio.mean(), "advantage_error": stats.sem(ratio)}
            row |= {
                "index_inputs": predict_asymmetry(adapter, covariances, rank=RANK).frame["asymmetry_index"].iloc[0],
                "index_both": both["asymmetry_index"],
                "index_gradient": first["asymmetry_index"],
                "kept_difference": (both["random_A"] - both["random_B"]) * both["signal"] / before,
                "width": d_out / d_in,
            }
            rows.append(row)
            pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


def judge(cases: pd.DataFrame, *, resamples: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Rank correlations of every predictor with the advantage of B alone, and signs of held-out groups."""
    rng = np.random.default_rng(seed)
    group = (cases["text"] + " " + cases["layer"].astype(str)).to_numpy()
    members = [np.flatnonzero(group == name) for name in np.unique(group)]
    rows = []
    for name, label in PREDICTORS.items():
        x, y = cases[name].to_numpy(), cases["advantage"].to_numpy()
        drawn = [
            stats.spearmanr(x[chosen], y[chosen]).statistic
            for _ in range(resamples)
            for chosen in [np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])]
        ]
        right = []
        for held in members:
            rest = np.setdiff1d(np.arange(len(cases)), held)
            turned = np.sign(stats.spearmanr(x[rest], y[rest]).statistic)
            # The others' median advantage is taken at their median predictor, and the sign is of what lies beyond.
            right += ((turned * (x[held] - np.median(x[rest])) > 0) == (y[held] > np.median(y[rest]))).tolist()
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        rows.append(
            {
                "predictor": label,
                "cases": len(cases),
                "groups": len(members),
                "rank_correlation": stats.spearmanr(x, y).statistic,
                "low": low,
                "high": high,
                "right_side_held_out": np.mean(right),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("models", type=Path)
    one.add_argument("texts", type=Path)
    one.add_argument("--out", type=Path, default=RESULTS)
    two = commands.add_parser("judge")
    two.add_argument("file", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args()
    if options.command == "measure":
        torch.set_num_threads(1)
        measure(options.models, options.texts, options.out)
    else:
        print(judge(pd.read_csv(options.file)).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
