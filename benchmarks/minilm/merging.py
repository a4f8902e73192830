"""What merging four shipped adapters does to the loss of each task, and what mends it: measured beside what files say.

python benchmarks/minilm/merging.py --glue GLUE --out benchmarks/results/merging.csv

Each task keeps its own head. `lost` is the share of an adapter's gain that a merge loses,
(loss - loss with its own adapter) / (loss without an adapter - loss with its own adapter): 0 nothing, 1 all of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from tasks import TASKS, batches_of, loss_of, network, rows_of

from asym_analysis import Adapter, best_merge, crowding, merge_adapters, merge_compensation, sample_adapters
from asym_analysis.adapters.applied import apply_to
from asym_analysis.prediction import input_covariances

ROWS = {"CoLA": 256, "MRPC": 96, "SST-2": 192, "STS-B": 160}
NAMES = {"CoLA": "cola", "MRPC": "mrpc", "SST-2": "sst2", "STS-B": "stsb"}
FAMILIES = ("independent", "shared")


def scaled(adapter: Adapter, factor: float) -> Adapter:
    """The adapter times a number."""
    return merge_adapters([adapter], [factor], name=adapter.name)


def norm(adapter: Adapter) -> float:
    """Frobenius norm over all modules."""
    return sum(adapter[module].frobenius_norm() ** 2 for module in adapter) ** 0.5


def best_scale(runs: list[Adapter], moments: list | None) -> float:
    """One factor for the whole mean: the modules' best factors, weighted by nothing."""
    return float(merge_compensation(runs, moments=moments).frame["scale"].median())


def randomly_damped(merged: Adapter, found: object, seed: int) -> Adapter:
    """The same factors on random directions of the merged update's own column space."""
    draw, changed = torch.Generator().manual_seed(seed), {}
    for module, part in found.frame[found.frame["crowded"]].groupby("module", sort=False):
        update = merged[module]
        columns = torch.linalg.qr(update.B.double())[0]
        turn = torch.linalg.qr(torch.randn(columns.shape[1], len(part), generator=draw, dtype=torch.float64))[0]
        vectors, less = columns @ turn, torch.tensor(1 - part["damping"].to_numpy())
        B = update.B.double()
        changed[module] = (update.A, update.scaling * (B - vectors @ (less[:, None] * (vectors.mT @ B))))
    kept = {m: (merged[m].A, merged[m].scaling * merged[m].B) for m in merged if m not in changed}
    return Adapter.from_factors(changed | kept, name="randomly damped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--random", type=int, default=2, help="random dampings")
    chosen = parser.parse_args()
    samples = {adapter.name: adapter for adapter in sample_adapters()}
    dev = {task: batches_of(rows_of(task, chosen.glue, "dev", ROWS[task])) for task in TASKS}
    train = {task: batches_of(rows_of(task, chosen.glue, "train", 96)) for task in TASKS}
    rows: list[dict[str, object]] = []
    for family in FAMILIES:
        runs = [samples[f"{family}-{NAMES[task]}"] for task in TASKS]
        plain = [run.without_extras() for run in runs]
        models, limits, moments = {}, {}, []
        for task, run in zip(TASKS, runs, strict=True):
            model = network(task)
            with apply_to(run, model):
                own = loss_of(model, dev[task])
                head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("classifier")}
            model.load_state_dict(head, strict=False)
            limits[task] = (own, loss_of(model, dev[task]))
            models[task] = model
            moments.append(input_covariances(model, train[task], list(run)))
        total, mean = merge_adapters(plain), merge_adapters(plain, [0.25] * 4)
        found = crowding(plain)
        damped = found.damp(total)
        merges = {
            "mean": mean,
            "sum": total,
            "mean, scaled (files)": scaled(mean, best_scale(plain, None)),
            "mean, scaled (inputs)": scaled(mean, best_scale(plain, moments)),
            "best merge (files)": best_merge(plain),
            "best merge (inputs)": best_merge(plain, moments=moments),
            "sum, crowded directions damped": damped,
            "sum, scaled to the same norm": scaled(total, norm(damped) / norm(total)),
            **{f"sum, random directions damped {i}": randomly_damped(total, found, i) for i in range(chosen.random)},
            "mean, crowded directions damped": found.damp(mean),
        }
        said = {
            ("mean", "files"): merge_compensation(plain).frame["error"],
            ("mean", "inputs"): merge_compensation(plain, moments=moments).frame["error"],
            ("sum", "files"): merge_compensation(plain, [1.0] * 4).frame["error"],
            ("sum", "inputs"): merge_compensation(plain, [1.0] * 4, moments=moments).frame["error"],
            ("mean, scaled (files)", "files"): merge_compensation(plain).frame["error_scaled"],
            ("mean, scaled (inputs)", "inputs"): merge_compensation(plain, moments=moments).frame["error_scaled"],
            ("best merge (files)", "files"): merge_compensation(plain).frame["error_optimum"],
            ("best merge (inputs)", "inputs"): merge_compensation(plain, moments=moments).frame["error_optimum"],
        }
        for way, merged in merges.items():
            for task in TASKS:
                own, none = limits[task]
                with apply_to(merged, models[task], head=False):
                    loss = loss_of(models[task], dev[task])
                row = {"family": family, "merge": way, "task": task, "loss": loss, "own": own, "none": none,
                       "lost": (loss - own) / (none - own), "norm": norm(merged)}  # fmt: skip
                for source in ("files", "inputs"):
                    row[f"error ({source})"] = said[way, source].median() if (way, source) in said else float("nan")
                rows.append(row)
            table = pd.DataFrame(rows)
            table.round(5).to_csv(chosen.out, index=False)
            print(family, way, table["lost"].tail(len(TASKS)).round(2).tolist(), flush=True)


if __name__ == "__main__":
    main()
