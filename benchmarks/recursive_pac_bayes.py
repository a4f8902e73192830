"""Recursive PAC-Bayes beside a prior from half of the samples: which certifies less on small low-rank classifiers?

    python benchmarks/recursive_pac_bayes.py --out benchmarks/results --seeds 5

A prototype of Wu, Zhang, Cherief-Abdellatif and Seldin (NeurIPS 2024, arXiv 2405.14681). The samples are split into T
parts. A posterior pi_t is trained on the first t parts with pi_(t-1) as its prior, and its risk is bounded by the bound
on the risk of pi_(t-1), times gamma, plus a split-kl PAC-Bayes bound on the loss in excess of it, from parts t to T.
Every posterior is Gaussian over the entries of A and B of a softmax classifier, trained by the same rule: cross-entropy
plus KL/n. All confidence is .95. Gibbs losses are means over the same number of draws, without a sampling margin, for
every method alike. Writes recursive_pac_bayes.csv: one row a setting, seed and method.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from asym_analysis.atomic import replacing
from asym_analysis.bounds.repeated import gaussian_classes
from asym_analysis.bounds.risk import chernoff_risk, kl_inverse, kl_inverse_risk

DELTA, GAMMA, RANK, STEPS, DRAWS = 0.05, 0.5, 4, 250, 100


@dataclass
class Gaussian:
    """Means and log standard deviations of the entries of A (rank x d) and B (classes x rank), one after the other."""

    mean: Tensor
    log_std: Tensor

    def kl(self, prior: Gaussian) -> Tensor:
        ratio = (2 * (self.log_std - prior.log_std)).exp()
        moved = (self.mean - prior.mean).square() * (-2 * prior.log_std).exp()
        return 0.5 * (ratio - 1 - 2 * (self.log_std - prior.log_std) + moved).sum()

    def draw(self, generator: torch.Generator) -> Tensor:
        return self.mean + self.log_std.exp() * torch.randn(self.mean.shape, generator=generator)


def scores(weights: Tensor, x: Tensor, classes: int) -> Tensor:
    """Scores of the classifier B A x."""
    d = x.shape[1]
    A, B = weights[: RANK * d].reshape(RANK, d), weights[RANK * d :].reshape(classes, RANK)
    return x @ A.T @ B.T


def fit(prior: Gaussian, x: Tensor, y: Tensor, n: int, generator: torch.Generator) -> Gaussian:
    """Minimize cross-entropy + KL(posterior, prior)/n, from the prior on."""
    mean, log_std = (part.clone().requires_grad_() for part in (prior.mean, prior.log_std))
    optimizer = torch.optim.Adam([mean, log_std], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    classes = int(y.max()) + 1
    for _ in range(STEPS):
        posterior = Gaussian(mean, log_std)
        loss = torch.nn.functional.cross_entropy(scores(posterior.draw(generator), x, classes), y)
        value = loss + posterior.kl(prior) / n
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return Gaussian(mean.detach(), log_std.detach())


@torch.no_grad()
def errors(posterior: Gaussian, x: Tensor, y: Tensor, generator: torch.Generator) -> np.ndarray:
    """Zero-one losses, one row a draw."""
    classes = int(y.max()) + 1
    found = [scores(posterior.draw(generator), x, classes).argmax(1) != y for _ in range(DRAWS)]
    return torch.stack(found).numpy()


def excess_bound(own: np.ndarray, before: np.ndarray, nats: float, delta: float) -> float:
    """Split-kl bound on E[loss of pi_t - gamma loss of pi_(t-1)], whose values are -gamma, 0, 1 - gamma and 1."""
    n = own.shape[1]
    values = own.astype(float) - GAMMA * before.astype(float)
    steps = [-GAMMA, 0.0, 1 - GAMMA, 1.0]
    per_step = (nats + math.log(2 * 3 * math.sqrt(n) / delta)) / n
    return steps[0] + sum(
        (steps[j] - steps[j - 1]) * kl_inverse(float((values >= steps[j] - 1e-9).mean()), per_step) for j in (1, 2, 3)
    )


def recursive(start: Gaussian, x: Tensor, y: Tensor, sizes: list[int], seed: int) -> tuple[float, Gaussian]:
    """The bound on the last posterior, and that posterior."""
    generator = torch.Generator().manual_seed(seed)
    ends = np.cumsum(sizes)
    before, bound, parts = start, 1.0, len(sizes)
    for step, end in enumerate(ends):
        first = 0 if step == 0 else int(ends[step - 1])
        n = len(y) - first
        own = fit(before, x[:end], y[:end], n, generator)
        nats = float(own.kl(before))
        losses = errors(own, x[first:], y[first:], generator)
        if step == 0:
            bound = kl_inverse_risk(float(losses.mean()), nats, n, 1 - DELTA / parts)
        else:
            earlier = errors(before, x[first:], y[first:], generator)
            bound = min(1.0, excess_bound(losses, earlier, nats, DELTA / parts) + GAMMA * bound)
        before = own
    return bound, before


def certificates(x: Tensor, y: Tensor, fresh: tuple[Tensor, Tensor], seed: int) -> list[dict[str, object]]:
    """Every method on one sample."""
    generator = torch.Generator().manual_seed(seed)
    n, classes = len(y), int(y.max()) + 1
    size = RANK * (x.shape[1] + classes)
    start = Gaussian(0.3 * torch.randn(size, generator=generator), torch.full((size,), math.log(0.3)))
    half = n // 2
    rows: list[dict[str, object]] = []

    def add(method: str, certified: float, posterior: Gaussian) -> None:
        true = float(errors(posterior, *fresh, torch.Generator().manual_seed(1)).mean())
        rows.append({"method": method, "certified": certified, "true_risk": true, "violated": true > certified})

    plain = fit(start, x, y, n, generator)
    loss = float(errors(plain, x, y, generator).mean())
    add("prior before the data", kl_inverse_risk(loss, float(plain.kl(start)), n, 1 - DELTA), plain)
    prior = fit(start, x[:half], y[:half], half, generator)
    own = fit(prior, x, y, n - half, generator)
    loss = float(errors(own, x[half:], y[half:], generator).mean())
    add("prior from half", kl_inverse_risk(loss, float(own.kl(prior)), n - half, 1 - DELTA), own)
    held = float(errors(prior, x[half:], y[half:], generator).mean())
    add("hold-out of that prior", chernoff_risk(held, 0.0, n - half, 1 - DELTA), prior)
    quarter, eighth = n // 4, n // 8
    for name, sizes in (
        ("recursive, 1/2 1/2", [half]),
        ("recursive, 1/4 1/4 1/2", [quarter, quarter]),
        ("recursive, 1/8 1/8 1/4 1/2", [eighth, eighth, 2 * eighth]),
    ):
        add(name, *recursive(start, x, y, [*sizes, n - sum(sizes)], seed + 100 * len(sizes)))
    return rows


def synthetic(d: int, classes: int, separation: float, n: int) -> Callable[[int], list[Tensor]]:
    """Gaussian classes: n samples, and 5,000 fresh ones."""
    draw = gaussian_classes(d, classes, separation)

    def give(seed: int) -> list[Tensor]:
        parts = [torch.from_numpy(part) for part in draw(n + 5000, 1000 + seed)]
        return [part[:n] for part in parts] + [part[n:] for part in parts]

    return give


def digits(seed: int) -> list[Tensor]:
    """1,200 digits, and the other 597."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    a, b = torch.from_numpy((x[order] / 16).astype(np.float32)), torch.from_numpy(y[order])
    return [a[:1200], b[:1200], a[1200:], b[1200:]]


SETTINGS = {
    "4 classes in 10 dimensions, n 800": synthetic(10, 4, 3.0, 800),
    "4 classes in 10 dimensions, n 4000": synthetic(10, 4, 3.0, 4000),
    "8 classes in 30 dimensions, n 2000": synthetic(30, 8, 4.0, 2000),
    "digits, n 1200": digits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    rows: list[dict[str, object]] = []
    frame = pd.DataFrame()
    for seed in range(chosen.seeds):
        for name, give in SETTINGS.items():
            x, y, new_x, new_y = give(seed)
            rows += [{"setting": name, "seed": seed, **row} for row in certificates(x, y, (new_x, new_y), seed)]
        frame = pd.DataFrame(rows)
        with replacing(chosen.out / "recursive_pac_bayes.csv") as part:
            frame.round(5).to_csv(part, index=False)
    half = frame[frame["method"] == "prior from half"].set_index(["setting", "seed"])["certified"]
    frame["less_than_half"] = [
        half[setting, seed] - value
        for setting, seed, value in zip(frame["setting"], frame["seed"], frame["certified"], strict=True)
    ]
    columns = ["certified", "true_risk", "violated", "less_than_half"]
    print(frame.groupby(["setting", "method"], sort=False)[columns].mean().round(4).to_string())


if __name__ == "__main__":
    main()
