"""How often `check_claims` gives a false verdict where nothing differs, whatever the noise of the scores.

    python benchmarks/claims_attacks.py

LoRA and B alone have the same mean score, 1 above the frozen model, on one task; noise is Gaussian, of t with 2
degrees, Cauchy, or Gaussian and rounded to a tenth, on 3 or 5 seeds. A verdict that there is a difference is
false; at the default confidence of .95 a share of .05 of the tables may have one. benchmarks/results/claims_attacks.csv
has the shares with their standard errors. Takes two minutes of one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from asym_analysis.finetuning import check_claims, score_variants

RESULTS = Path(__file__).parent / "results" / "claims_attacks.csv"
TABLES = 400
LORA, B_ALONE = ("hB_0 hA_Km", 8), ("hB_0 A_rand", 8)
NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: 0.1 * rng.standard_normal(n),
    "t, 2 degrees": lambda rng, n: 0.1 * rng.standard_t(2, n),
    "Cauchy": lambda rng, n: 0.05 * rng.standard_cauchy(n),
    "normal, rounded to a tenth": lambda rng, n: np.round(0.1 * rng.standard_normal(n), 1),
}


def runs(rng: np.random.Generator, noise: str, seeds: int) -> pd.DataFrame:
    draw = NOISE[noise]
    scores = {LORA: 1 + draw(rng, seeds), B_ALONE: 1 + draw(rng, seeds)}
    return pd.DataFrame(
        {
            "task": "t",
            "length": "",
            "variant": variant,
            "seed": seed,
            "rank": rank,
            "learning_rate": 1e-3,
            "metric": "accuracy",
            "lower_is_better": False,
            "value": value,
            "baseline": 0.0,
            "baseline_of": "pretrained model",
        }
        for (variant, rank), values in scores.items()
        for seed, value in enumerate(values)
    )


def verdict(table: pd.DataFrame) -> str:
    return str(check_claims(score_variants(table)).frame.iloc[0]["verdict"])


def main() -> None:
    rows = []
    for noise in NOISE:
        for seeds in (3, 5):
            rng = np.random.default_rng(seeds)
            said = [verdict(runs(rng, noise, seeds)) for _ in range(TABLES)]
            false = np.mean([one not in ("undecided", "equivalent") for one in said])
            error = math.sqrt(max(false, 1 / TABLES) / TABLES)
            rows.append({"noise": noise, "seeds": seeds, "tables": TABLES, "false": false, "std_error": error})
            print(*rows[-1].values(), sep="; ", flush=True)
    pd.DataFrame(rows).to_csv(RESULTS, index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
