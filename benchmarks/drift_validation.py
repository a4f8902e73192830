"""Hold the inferred movement of A against the true one, on runs whose start was saved.

    python benchmarks/drift_validation.py FOLDER [FOLDER ...] --out benchmarks/drift_validation.csv

Each FOLDER is a run, or holds runs: a PEFT adapter with `initial.safetensors` beside it. Without folders the samples
that ship with the package are taken. The start is hidden from the estimator, which sees the trained factors and what
the adapter's config says of `init_lora_weights`. One row a module: the truth, the estimate, its standard error, or why
there is none. Printed: by run and over all, median relative error, coverage of one and two standard errors.

The table beside this script holds 42 runs: the 13 samples; rates and lengths of training of the same encoder (cola-*,
rte-*, learning rate and steps in the name); and development runs on the same encoder and on stories260K (minilm_*,
stories_*: widths 64 to 384, ranks 4 to 16, rates 2e-4 to 3e-2, AdamW with weight decay in stories_5, stories_6 and
minilm_3, Gaussian starts in stories_7, stories_8 and minilm_5, PEFT's orthogonal one in stories_9, and stories_sgd,
which diverged).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from asym_analysis import Adapter, initialization_drift, load_adapter, sample_adapters


def runs_in(folders: list[Path]) -> list[Adapter]:
    if not folders:
        return list(sample_adapters())
    starts = sorted(start for folder in folders for start in folder.rglob("initial.safetensors"))
    return [load_adapter(start.parent) for start in starts if (start.parent / "adapter_model.safetensors").exists()]


def validate(run: Adapter) -> pd.DataFrame:
    assert run.initial is not None
    truth = initialization_drift(run).frame.query("factor == 'A'")
    factors = {module: (run[module].A, run[module].B) for module in run}
    hidden = Adapter.from_factors(factors, name=run.name, metadata=dict(run.metadata))
    found = initialization_drift(hidden).frame.query("factor == 'A'")
    table = found[["adapter", "module", "layer", "projection", "scheme", "value", "std_error", "upper", "note"]].copy()
    table.insert(4, "rank", [run[module].rank for module in table.module])
    table.insert(5, "d_in", [run[module].d_in for module in table.module])
    table.insert(6, "true", truth.value.to_numpy())
    table.insert(7, "true_correlation", truth.correlation.to_numpy())
    table["standardized"] = (table.value - table.true) / table.std_error
    return table


def told(rows: pd.DataFrame) -> dict[str, float]:
    known = rows.dropna(subset=["value"])
    return {
        "modules": len(rows),
        "told": len(known),
        "true_median": rows.true.median(),
        "median_error": ((known.value - known.true).abs() / known.true).median(),
        "median_std_error": (known.std_error / known.value).median(),
        "within_1": (known.standardized.abs() < 1).mean(),
        "within_2": (known.standardized.abs() < 2).mean(),
        "untold_below_upper": (rows.true <= rows.upper)[rows.value.isna() & rows.upper.notna()].mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs = runs_in(options.folders)
    table = pd.concat([validate(run) for run in runs], ignore_index=True)
    if options.out is not None:
        table.to_csv(options.out, index=False, float_format="%.5g")
    by_run = pd.DataFrame([{"run": name, **told(rows)} for name, rows in table.groupby("adapter", sort=False)])
    whole = pd.DataFrame([{"run": f"all {len(runs)} runs", **told(table)}])
    print(pd.concat([by_run, whole]).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
