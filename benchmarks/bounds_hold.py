"""Do the bounds hold? At least 200 small trainings on fresh samples, certified, each beside its true risk.

    python benchmarks/bounds_hold.py --out results

Writes bounds_hold.csv (one row a repeat and bound) and bounds_hold_summary.csv: the share of repeats whose true risk
exceeds the certificate, beside delta, and the mean gap beside the bounds that hold in expectation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_digits

from asym_analysis.atomic import replacing
from asym_analysis.bounds.conditional import conditional_information
from asym_analysis.bounds.repeated import (
    LowRankClassifier,
    gaussian_classes,
    low_rank_supersamples,
    repeated_certificates,
    summarize_repeats,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--trainings", type=int, default=400, help="on each supersample of the digits")
    chosen = parser.parse_args()
    tables, information = [], []
    for tuned in ("B", "A", "both"):
        model, draw = LowRankClassifier(10, 3, rank=2, tuned=tuned), gaussian_classes(10, 3, separation=2.5)
        table = repeated_certificates(
            model, draw, n_samples=200, repeats=chosen.repeats, confidence=0.9, levels=(2, 3),
            relative_noise=(0.7,), draws=100, fresh=5000, progress=True,
        )  # fmt: skip
        tables.append(table.assign(tuned=tuned))
        x, y = load_digits(return_X_y=True)
        x = ((x - x.mean(axis=0)) / 8).astype("float32")
        found = low_rank_supersamples(
            LowRankClassifier(64, 10, rank=4, tuned=tuned, steps=80), x, y,
            pairs=100, supersamples=8, trainings=chosen.trainings, progress=True,
        )  # fmt: skip
        information.append(conditional_information(found).frame.assign(tuned=tuned))
    frame = pd.concat(tables, ignore_index=True)
    outputs = {
        "bounds_hold": frame,
        "bounds_hold_summary": summarize_repeats(frame, by=["tuned"]),
        "conditional_digits": pd.concat(information, ignore_index=True),
    }
    for name, one in outputs.items():
        with replacing(chosen.out / f"{name}.csv") as part:
            one.to_csv(part, index=False)
    print(outputs["bounds_hold_summary"].to_string(index=False))
    print(outputs["conditional_digits"].to_string(index=False))


if __name__ == "__main__":
    main()
