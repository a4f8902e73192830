"""Neighbours among thousands of adapters: seconds to index and to ask, and what is found of the exact answer.

Families of ten adapters are planted: B leans to a direction of the family, by a strength of each adapter's own; A has
the family's initialization, with movement; one adapter in ten belongs to no family. The exact answer is the overlap (or
the cosine) with every adapter of the collection.

    python benchmarks/neighbours.py                          # 1,000 to 20,000 adapters, by B
    python benchmarks/neighbours.py --by A update --sizes 1000
    python benchmarks/neighbours.py --sizes 1000 --cells     # by cells, where the default looks at all

With several sizes, the last lines are exponents: slopes of log(seconds) over log(adapters). Every size adds its row to
benchmarks/results/neighbours.csv.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment import adapter_index
from asym_analysis.alignment.adapter_index import index_adapters, vector_of
from asym_analysis.alignment.module_pairs import factor_frames
from asym_analysis.alignment.neighbours import cluster, nearest
from asym_analysis.subspaces.measures import measure_named

FAMILY, MODULES, SIZE, RANK = 10, 4, 128, 4
TABLE = Path(__file__).parent / "results" / "neighbours.csv"


def collection(count: int) -> AdapterSet:
    generator = torch.Generator().manual_seed(0)
    families = -(-count // FAMILY)
    directions = torch.randn(families, MODULES, SIZE, RANK, generator=generator)
    starts = torch.randn(families, MODULES, RANK, SIZE, generator=generator)

    def run(i: int) -> Adapter:
        family = i % families
        strength = 0.0 if i // families == FAMILY - 1 else 0.6 + 0.8 * float(torch.rand((), generator=generator))
        lean, kept = strength, 1.0 if strength else 0.0
        A = kept * starts[family] + 0.7 * torch.randn(MODULES, RANK, SIZE, generator=generator)
        B = lean * directions[family] + torch.randn(MODULES, SIZE, RANK, generator=generator)
        return Adapter.from_factors({f"layer.{m}.q": (A[m], B[m]) for m in range(MODULES)}, name=f"run {i}")

    return AdapterSet(run(i) for i in range(count))


def exact(runs: AdapterSet, by: str, asked: list[int]) -> np.ndarray:
    """Similarity of a few adapters with all, in float64 sums over the modules."""
    measure = measure_named("cosine" if by == "update" else "overlap")
    found = np.zeros((len(asked), len(runs)))
    for module in runs.modules:
        for start in range(0, len(runs), 1000):
            places = range(start, min(start + 1000, len(runs)))
            updates = [runs[place][module] for place in (*asked, *places)]
            frames = factor_frames(measure, by, updates, "cpu")
            values = measure.compare(frames[: len(asked)], frames[len(asked) :])
            found[:, start : start + len(places)] += values.double().numpy() / MODULES
    return found


def measured(count: int, by: str, features: int, questions: int) -> dict[str, float]:
    runs = collection(count)
    asked = np.linspace(0, count - 1 - count // FAMILY, questions).astype(int).tolist()  # members of families
    begun = time.process_time()
    index = index_adapters(runs, by=by, features=features)
    vectors = time.process_time() - begun
    begun = time.process_time()
    assert index.searcher.ntotal == count
    cells = time.process_time() - begun
    query = np.stack([vector_of(runs[place], index.modules, index.settings) for place in asked])
    begun = time.process_time()
    for one in query:
        index.search(one[None], 40)
    search = (time.process_time() - begun) / questions
    begun = time.process_time()
    found = [nearest(runs[place], index, 10).frame for place in asked]
    ask = (time.process_time() - begun) / questions
    truth = exact(runs, by, asked)
    estimate = query @ index.vectors.T
    recall, clear, hits, strange = [], 0, 0, 0
    families = -(-count // FAMILY)
    for place, frame, row in zip(asked, found, truth, strict=True):
        recall.append(len(set(np.argsort(-row, kind="stable")[:10]) & set(frame.place)) / 10)
        told = set(frame.place[frame.p_value < 0.01]) - {place}
        kin = {i for i in range(place % families, count, families) if i // families < FAMILY - 1} - {place}
        hits, clear, strange = hits + len(told & kin), clear + len(kin), strange + len(told - kin)
    begun = time.process_time()
    groups = cluster(index)
    clustering = time.process_time() - begun
    labels = groups.frame.cluster.to_numpy()
    joined = sum(len(set(labels[f : count - families : families]) - {-1}) <= 1 for f in range(families))
    row = {
        "features_ms": vectors / count * 1e3,
        "cells_s": cells,
        "build_s": vectors + cells,
        "search_ms": search * 1e3,
        "nearest_ms": ask * 1e3,
        "of_exact_ten": float(np.mean(recall)),
        "kin_told": hits / clear,
        "strangers_told": strange,
        "error": float((estimate - truth).std()),
        "stated_error": index.settings["standard_error"],
        "cluster_s": clustering,
        "families_in_one": joined / families,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(f"{count:7,d} by {by}:", ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2500, 5000, 10000, 20000])
    parser.add_argument("--by", nargs="+", default=["B"])
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--cells", action="store_true", help="search small collections by cells, too")
    options = parser.parse_args()
    if options.cells:
        adapter_index.EXHAUSTIVE = 0
    for by in options.by:
        rows = []
        for count in options.sizes:
            cells = count > adapter_index.EXHAUSTIVE
            row = measured(count, by, options.features, options.questions)
            rows.append({"adapters": count, "by": by, "cells": cells} | row)
            kept = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=list(rows[0]))
            same = (kept.adapters == count) & (kept.by == by) & (kept.cells == cells)
            whole = pd.concat([kept[~same], pd.DataFrame(rows[-1:])]).sort_values(["by", "cells", "adapters"])
            whole.to_csv(TABLE, index=False, float_format="%.4g")
        table = pd.DataFrame([row for row in rows if row["cells"]])
        for name in ("build_s", "cells_s", "search_ms", "nearest_ms") if len(table) > 1 else ():
            slope = np.polyfit(np.log(table.adapters), np.log(table[name]), 1)[0]
            print(f"exponent of {name} over {len(table)} sizes by cells: {slope:.2f}", flush=True)


if __name__ == "__main__":
    main()
