"""Movements and shared initializations where B is trained at 4 and 16 times the rate of A, as LoRA+ does.

    python benchmarks/drift_trainings.py FOLDER --ratios 1 4 16
    python benchmarks/lora_plus.py FOLDER

Four architectures, Adam, ranks 4 and 8. Runs of one architecture and rank that differ in the ratio share their
initialization; runs of two ranks do not. PEFT's scheme is recorded. benchmarks/results/lora_plus.csv has one row a
ratio: the true movement of A (median), the modules told, the share of them within two stated errors, the largest number
of stated errors; and of pairs with the run at equal rates: the share of modules marked as sharing, not told, and
denied. Independent pairs stand in the row "independent".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, initialization_drift, shared_initialization

RESULTS = Path(__file__).parent / "results" / "lora_plus.csv"
ARCHITECTURES, RATIOS, PLANS = ("perceptron", "encoder", "decoder", "patches"), (1, 4, 16), (0, 1)


def read(folder: Path, architecture: str, ratio: int, plan: int) -> tuple[dict[str, np.ndarray], Adapter]:
    name = f"{architecture}-adam{'' if ratio == 1 else f'x{ratio}'}-{plan}"
    with np.load(folder / f"{name}.npz") as held:
        factors = {key: held[key] for key in held}
    generator = torch.Generator().manual_seed(0)
    pairs = {
        key.removesuffix("/trained"): (torch.from_numpy(A), torch.randn(48, len(A), generator=generator))
        for key, A in factors.items()
        if key.endswith("/trained")
    }
    initial = {module: factors[f"{module}/initial"] for module in pairs}
    return initial, Adapter.from_factors(pairs, name=name, metadata={"init_lora_weights": True})


def movements(folder: Path, ratio: int) -> dict[str, float]:
    scores, true, told = [], [], []
    for architecture in ARCHITECTURES:
        for plan in PLANS:
            initial, adapter = read(folder, architecture, ratio, plan)
            found = initialization_drift(adapter).frame.query("factor == 'A'").set_index("module")
            for module, start in initial.items():
                row = found.loc[module]
                true.append(np.linalg.norm(adapter[module].A.numpy() - start) / np.linalg.norm(start))
                told.append(not np.isnan(row.value))
                if told[-1]:
                    scores.append(abs(row.value - true[-1]) / row.std_error)
    return {
        "modules": len(true),
        "movement": float(np.median(true)),
        "told": float(np.mean(told)),
        "within_2": float(np.mean(np.array(scores) < 2)),
        "largest": float(max(scores)),
    }


def shares(folder: Path) -> dict[str, dict[str, float]]:
    marks: dict[str, list[int]] = {}
    for architecture in ARCHITECTURES:
        keys = [(ratio, plan) for plan in PLANS for ratio in RATIOS]
        result = shared_initialization([read(folder, architecture, *key)[1] for key in keys])
        for mark in result.marks.values():
            for i, (ratio, plan) in enumerate(keys):
                for j in range(i + 1, len(keys)):
                    if keys[j][1] != plan:
                        marks.setdefault("independent", []).append(int(mark[i, j]))
                    elif ratio == 1:
                        marks.setdefault(str(keys[j][0]), []).append(int(mark[i, j]))
    return {
        kind: {"pairs": len(found)}
        | {name: found.count(mark) / len(found) for name, mark in (("shared", 1), ("untold", -1), ("denied", 0))}
        for kind, found in marks.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    marked = shares(folder)
    rows = [{"ratio": str(ratio)} | movements(folder, ratio) | marked.get(str(ratio), {}) for ratio in RATIOS]
    rows.append({"ratio": "independent"} | marked["independent"])
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS, index=False, float_format="%.3g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
