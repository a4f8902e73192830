"""Neighbours among thousands of adapters: seconds to index and to ask, and what is found of the exact answer.

Families of ten adapters are planted: B leans to a direction of the family, by a strength of each adapter's own; A has
the family's initialization, with movement; one adapter in ten belongs to no family. The exact answer is the overlap (or
the cosine) with every adapter of the collection.

    python benchmarks/neighbours.py                          # 1,000, 3,000 and 10,000 adapters, by B
    python benchmarks/neighbours.py --by A update --sizes 1000
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment import adapter_index
from asym_analysis.alignment.adapter_index import index_adapters, vector_of
from asym_analysis.alignment.module_pairs import factor_frames
from asym_analysis.alignment.neighbours import cluster, nearest
from asym_analysis.subspaces.measures import measure_named

FAMILY, MODULES, SIZE, RANK = 10, 4, 128, 4


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


def measured(count: int, by: str, features: int, questions: int) -> None:
    runs = collection(count)
    asked = np.linspace(0, count - 1 - count // FAMILY, questions).astype(int).tolist()  # members of families
    begun = time.process_time()
    index = index_adapters(runs, by=by, features=features)
    vectors = time.process_time() - begun
    begun = time.process_time()
    assert index.graph.ntotal == count
    graph = time.process_time() - begun
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
    print(
        f"{count:7,d} by {by:6s} features {vectors / count * 1e3:.2f} ms an adapter, graph {graph:.2f} s, "
        f"search {search * 1e3:.2f} ms, nearest {ask * 1e3:.1f} ms; recall of the exact ten {np.mean(recall):.3f}, "
        f"kin told {hits / clear:.3f}, strangers told {strange}; error of the estimate {(estimate - truth).std():.4f} "
        f"(stated {index.settings['standard_error']:.4f}); clusters {clustering:.1f} s, "
        f"{groups.frame.cluster.max() + 1} groups, {joined / families:.3f} of the families in one; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--by", nargs="+", default=["B"])
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--graph", action="store_true", help="search small collections by the graph, too")
    options = parser.parse_args()
    if options.graph:
        adapter_index.EXHAUSTIVE = 0
    for by in options.by:
        for count in options.sizes:
            measured(count, by, options.features, options.questions)


if __name__ == "__main__":
    main()
