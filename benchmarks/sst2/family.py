"""Where is the information about the data, in A or in B? Six disjoint subsets of SST-2, four seeds, B only and both.

    python benchmarks/sst2/family.py --data glue/SST-2 --out results/sst2

Writes family.csv: the Gaussian estimate of I(A; S), I(B; S) and I(A, B; S) against shuffled subsets. Diagnostics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from model import Setting, start, train
from run import Study

from asym_analysis.adapters import AdapterSet
from asym_analysis.atomic import replacing
from asym_analysis.bounds import mutual_information_of_family

SUBSETS, SEEDS, RANK = 6, 4, 4


def family(study: Study, tuned: str, subsets: tuple[torch.Tensor, ...]) -> AdapterSet:
    adapters, rows = [], []
    for seed in range(SEEDS):
        setting = Setting(tuned, RANK, seed, rate=3e-3, epochs=1.0, weight=0.1)
        begun = start(RANK, seed, tuned)
        projected = study.projected(setting, begun)
        for number, sentences in enumerate(subsets):
            centre, _ = train(study.train, begun, setting, sentences, projected)
            adapters.append(centre.replaced(initial=begun))
            rows.append({"subset": number, "seed": seed})
            print(f"{tuned}: subset {number}, seed {seed}", flush=True)
    return AdapterSet(adapters, pd.DataFrame(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv of SST-2")
    parser.add_argument("--out", type=Path, required=True, help="folder for features and results")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(chosen.data, chosen.out)
    subsets = study.order.tensor_split(SUBSETS)
    tables = []
    for tuned in ("B", "both"):
        adapters = family(study, tuned, subsets)
        for directions in (2, 3, 5):
            found = mutual_information_of_family(adapters, subset="subset", runs="seed", directions=directions)
            tables.append(found.frame.assign(trained=tuned))
    with replacing(chosen.out / "family.csv") as part:
        pd.concat(tables).to_csv(part, index=False)
    print(pd.concat(tables).to_string(index=False))


if __name__ == "__main__":
    main()
