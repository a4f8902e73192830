"""Do the bounds hold? A thousand small trainings on fresh samples, certified, each beside its true risk.

    python benchmarks/bounds_hold.py --out benchmarks/results

Three settings: "easy" (much data a trained number), "hard" (little data, so that a bound that charges nothing fails
often whichever factor is trained), and "prior" (hard, with a prior trained on other samples and the hold-out
certificate beside it). Writes bounds_hold.csv (one row a repeat and bound) and bounds_hold_summary.csv: the share of
repeats whose true risk exceeds the certificate, beside delta, and the mean gap beside the bounds that hold in
expectation. With --digits also conditional_digits.csv.
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

DELTA = 0.1


def certified(setting: str, tuned: str, repeats: int) -> pd.DataFrame:
    """One table of `repeated_certificates`."""
    if setting == "easy":
        model, draw, n = LowRankClassifier(10, 3, rank=2, tuned=tuned), gaussian_classes(10, 3, separation=2.5), 200
    else:
        model, draw, n = LowRankClassifier(30, 8, rank=8, tuned=tuned), gaussian_classes(30, 8, separation=1.5), 60
    table = repeated_certificates(
        model, draw, n_samples=n, repeats=repeats, confidence=1 - DELTA, levels=(2, 3), relative_noise=(0.7, 2.0),
        draws=60, fresh=3000, prior_samples=60 if setting == "prior" else 0, seed=len(setting) * 100_000, progress=True,
    )  # fmt: skip
    return table.assign(setting=setting, tuned=tuned, delta=DELTA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--repeats", type=int, default=112, help="of each of the nine settings")
    parser.add_argument("--digits", action="store_true", help="also the conditional information of digits")
    parser.add_argument("--trainings", type=int, default=400, help="on each supersample of the digits")
    chosen = parser.parse_args()
    tables, information = [], []
    for tuned in ("B", "A", "both"):
        tables += [certified(setting, tuned, chosen.repeats) for setting in ("easy", "hard", "prior")]
        if chosen.digits:
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
        "bounds_hold_summary": summarize_repeats(frame, by=["setting", "tuned", "delta"]),
    }
    if information:
        outputs["conditional_digits"] = pd.concat(information, ignore_index=True)
    for name, one in outputs.items():
        with replacing(chosen.out / f"{name}.csv") as part:
            one.to_csv(part, index=False)
        if name != "bounds_hold":
            print(one.to_string(index=False))


if __name__ == "__main__":
    main()
