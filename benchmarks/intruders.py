"""Intruder dimensions of one 4096 x 4096 module against a full SVD of W0 + dW, in one run on one machine.

    python benchmarks/intruders.py [--size 4096] [--rank 16] [--top-k 10]

Both have W0's SVD at hand. Printed: seconds, ratios, and whether both name the same intruders.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.sparse.linalg import svds

from asym_analysis import LowRankUpdate
from asym_analysis.alignment.intruders import leading_vectors


def base_weight(size: int, generator: torch.Generator) -> torch.Tensor:
    """A random weight whose singular values decay, as those of trained weights do."""
    columns = torch.arange(1, size + 1, dtype=torch.float32) ** -0.3
    return torch.randn(size, size, generator=generator) * columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=10)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    weight = base_weight(options.size, generator)
    A = torch.randn(options.rank, options.size, generator=generator)
    B = torch.randn(options.size, options.rank, generator=generator) * torch.linspace(2, 0.05, options.rank)
    update = LowRankUpdate(A, B, scaling=float(torch.linalg.matrix_norm(weight, 2)) / (2 * options.size))

    started = time.perf_counter()
    U, S, Vh = torch.linalg.svd(weight)
    cached = time.perf_counter() - started
    print(f"W0's SVD, once: {cached:.2f} s")

    times = []
    for _ in range(5):
        started = time.perf_counter()
        values, vectors = leading_vectors(U, S, Vh, update, options.top_k)
        cosines = np.abs(vectors).max(0)
        times.append(time.perf_counter() - started)
    ours = sorted(times)[2]

    merged = weight + update.delta()
    started = time.perf_counter()
    full, full_values, _ = torch.linalg.svd(merged)
    full_cosines = (U.mT @ full[:, : options.top_k]).abs().max(0).values.numpy()
    whole = time.perf_counter() - started

    started = time.perf_counter()
    left, _, _ = svds(merged.numpy(), k=options.top_k, v0=np.ones(options.size, dtype=np.float32))
    _ = (U.mT @ torch.from_numpy(left.copy())).abs().max(0)
    lanczos = time.perf_counter() - started

    same = bool(((cosines < 0.5) == (full_cosines < 0.5)).all())
    print(f"full SVD of the sum: {whole:.2f} s; scipy svds of the sum: {lanczos:.2f} s; here: {ours:.3f} s")
    print(f"ratio to the full SVD: {whole / ours:.0f}; to svds: {lanczos / ours:.1f}")
    print(f"same intruders: {same} ({int((cosines < 0.5).sum())} of {options.top_k})")
    print(f"largest difference of a cosine: {np.abs(cosines - full_cosines).max():.1e}")
    print(f"relative, of a singular value: {np.abs(values / full_values[: options.top_k].numpy() - 1).max():.1e}")


if __name__ == "__main__":
    main()
