"""Which rank-one parts of the shipped adapters earn their place: pruned by worth, by size and at random, and measured.

python benchmarks/minilm/pruning.py --glue GLUE --out benchmarks/results/pruning.csv

Gradients and moments come from training rows, losses from development rows. `kept` is the share of the adapter's gain
that the pruned adapter keeps: 1 all of it, 0 as if there were none; above 1, better than the whole adapter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tasks import TASKS, batches_of, loss_of, network, rows_of

from asym_analysis import allocate_rank, direction_worth, merge_adapters, reweight_directions, sample_adapters
from asym_analysis.adapters.applied import apply_to
from asym_analysis.prediction import input_covariances, output_sensitivities, weight_gradients

ROWS = {"CoLA": 256, "MRPC": 96, "SST-2": 192, "STS-B": 160}
NAMES = {"CoLA": "cola", "MRPC": "mrpc", "SST-2": "sst2", "STS-B": "stsb"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[12, 24, 48])
    parser.add_argument("--random", type=int, default=2)
    parser.add_argument("--rows", type=int, default=96, help="training rows for gradients")
    chosen = parser.parse_args()
    samples = {adapter.name: adapter for adapter in sample_adapters()}
    rows: list[dict[str, object]] = []
    for task in TASKS:
        run, model = samples[f"independent-{NAMES[task]}"], network(task)
        dev = batches_of(rows_of(task, chosen.glue, "dev", ROWS[task]))
        train = batches_of(rows_of(task, chosen.glue, "train", chosen.rows), size=16)
        plain, modules = run.without_extras(), list(run)
        with apply_to(run, model):
            own = loss_of(model, dev)
            head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("classifier")}
        model.load_state_dict(head, strict=False)
        none = loss_of(model, dev)
        gradients = {}
        for share in (0.0, 0.5, 1.0):
            with apply_to(merge_adapters([plain], [share]), model, head=False):
                gradients[share] = weight_gradients(model, train, modules)
        path = {m: (gradients[0.0][m] + 4 * gradients[0.5][m] + gradients[1.0][m]) / 6 for m in modules}
        moments = input_covariances(model, train, modules)
        felt = output_sensitivities(model, train, modules)
        worths = {
            "worth at the tuned weights": direction_worth(plain, gradients[1.0]),
            "worth at the base": direction_worth(plain, gradients[0.0]),
            "worth along the path": direction_worth(plain, path),
        }
        draw = np.random.default_rng(0)

        def measured(way: str, parts: int, adapter: object) -> None:
            with apply_to(adapter, model, head=False):  # noqa: B023
                loss = loss_of(model, dev)  # noqa: B023
            rows.append({"task": task, "way": way, "parts": parts, "loss": loss, "own": own, "none": none,  # noqa: B023
                         "kept": (none - loss) / (none - own)})  # fmt: skip # noqa: B023

        total = sum(plain.ranks) if len(plain.ranks) > 1 else plain.ranks[0] * len(plain)
        for budget in chosen.budgets:
            for way, worth in worths.items():
                measured(way, budget, reweight_directions(plain, worth.kept(budget)))
            both = allocate_rank(plain, budget, moments=moments, sensitivities=felt)
            plans = {
                "singular value": allocate_rank(plain, budget),
                "singular value under inputs": allocate_rank(plain, budget, moments=moments),
                "singular value under inputs and loss": both,
            }
            for way, plan in plans.items():
                measured(way, budget, plain.truncate(rank=plan.rank_pattern))
            measured("equal ranks", budget, plain.truncate(rank=budget // len(plain)))
            for i in range(chosen.random):
                flags = np.zeros(total)
                flags[draw.permutation(total)[:budget]] = 1
                each = flags.reshape(len(plain), -1)
                weights = {m: each[j].tolist() for j, m in enumerate(modules)}
                measured(f"random {i}", budget, reweight_directions(plain, weights))
        for way, worth in worths.items():
            kept = worth.kept()
            measured(f"harmful dropped, {way}", int(sum(map(sum, kept.values()))), reweight_directions(plain, kept))
        table = pd.DataFrame(rows)
        table.round(5).to_csv(chosen.out, index=False)
        print(table[table.task == task].pivot_table(index="way", columns="parts", values="kept").round(2), flush=True)
        for way, worth in worths.items():
            print(task, way, "sum of effects", round(float(worth.frame.effect.sum()), 3), flush=True)


if __name__ == "__main__":
    main()
