"""How much faster `simulate` is than a loop over draws, on one core: d = 256, rank 8, 10,000 draws, float64.

    python benchmarks/least_squares_draws.py

Three loops are timed on fewer draws and scaled up, all in processor time of one thread in one run:
- by definition: each draw makes a Haar A by QR, B* by Lemma 4.1 and the loss of the fit by its definition;
- one fit at a time: `problem.freeze_A` on each draw;
- hoisted: the two d x d products of the lemma's trace are computed once, each draw only makes A and two thin products.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from asym_analysis.least_squares import power_law, simulate, synthetic_problem

DIMENSION, RANK, DRAWS = 256, 8, 10_000


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least processor time of a few repeats."""
    times = []
    for _ in range(repeats):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    problem = synthetic_problem(power_law(DIMENSION, 1.0), DIMENSION)
    rng = np.random.default_rng(0)
    delta, sigma = problem.delta.numpy(), problem.covariance.numpy()
    weighted = delta @ sigma
    captured = weighted.T @ weighted

    def haar() -> np.ndarray:
        q, r = np.linalg.qr(rng.standard_normal((DIMENSION, RANK)))
        return (q * np.sign(np.diag(r))).T

    def by_definition() -> float:
        Q = haar()
        B = delta @ sigma @ Q.T @ np.linalg.inv(Q @ sigma @ Q.T)
        residual = delta - B @ Q
        return float(np.trace(residual @ sigma @ residual.T))

    def one_fit() -> float:
        return problem.freeze_A(haar()).loss

    def hoisted() -> float:
        Q = haar()
        return problem.signal - float(np.trace(np.linalg.solve(Q @ sigma @ Q.T, Q @ captured @ Q.T)))

    losses: dict[str, float] = {}

    def batched() -> None:
        losses["simulate"] = float(simulate(problem, RANK, "B", DRAWS, seed=0).summary()["loss"].iloc[0])

    fast = seconds(batched)
    print(f"d = {DIMENSION}, rank {RANK}, {DRAWS:,} draws, one thread, float64")
    print(f"{'simulate':16s} {fast:8.2f} s   mean loss {losses['simulate']:.4f}")
    for name, one, draws in (
        ("by definition", by_definition, 200),
        ("one fit", one_fit, 400),
        ("hoisted", hoisted, 1000),
    ):
        sample: list[float] = []
        slow = seconds(lambda one=one, draws=draws, sample=sample: sample.extend(one() for _ in range(draws)))
        total = slow * DRAWS / draws
        print(f"{name:16s} {total:8.2f} s   mean loss {np.mean(sample):.4f}   {total / fast:6.1f} times simulate")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
