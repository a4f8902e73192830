"""Do the bounds hold? Many small trainings on fresh samples, each certified, each compared with its true risk.

The model is the smallest one with the two factors: a softmax classifier whose weight is B·A, with A or B frozen at
random, or both trained. All runs are trained at once, by full-batch gradient descent without randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.certification import PILOT_DRAWS
from asym_analysis.bounds.certify import certify
from asym_analysis.bounds.compute import compute_bound
from asym_analysis.bounds.conditional import Supersample, train_on_supersamples
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.risk import chernoff_risk
from asym_analysis.vocabulary import Tuned

__all__ = [
    "LowRankClassifier",
    "Sampler",
    "gaussian_classes",
    "low_rank_factors",
    "low_rank_supersamples",
    "repeated_certificates",
    "summarize_repeats",
    "train_low_rank",
]

MODULE = "classifier"
Sampler = Callable[[int, int], tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]]


@dataclass(frozen=True)
class LowRankClassifier:
    """Softmax of B·A·x. The seed draws the randomly initialized factor (rows of A or columns of B orthonormal)."""

    dimension: int
    classes: int
    rank: int
    tuned: Tuned
    seed: int = 0
    steps: int = 150
    rate: float = 1.0

    def start(self) -> tuple[Float[Tensor, "rank d"], Float[Tensor, "classes rank"]]:
        """A and B before training: one random, the other zero."""
        generator = generator_for(self.seed, "initialization")
        A = torch.linalg.qr(torch.randn(self.dimension, self.rank, generator=generator))[0].mT.contiguous()
        B = torch.linalg.qr(torch.randn(self.classes, self.rank, generator=generator))[0].contiguous()
        return (torch.zeros_like(A), B) if self.tuned == "A" else (A, torch.zeros_like(B))


def gaussian_classes(dimension: int, classes: int, separation: float) -> Sampler:
    """Samples of equally likely Gaussian classes around fixed random centres of norm `separation`, unit covariance.

    Examples
    --------
    >>> x, y = gaussian_classes(dimension=5, classes=3, separation=2.0)(100, 0)
    >>> x.shape, sorted(set(y.tolist()))
    ((100, 5), [0, 1, 2])
    """
    centres = np.random.default_rng(20_240_216).standard_normal((classes, dimension))
    centres *= separation / np.linalg.norm(centres, axis=1, keepdims=True)

    def draw(n: int, seed: int) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]:
        generator = np.random.default_rng(seed)
        y = generator.integers(0, classes, n)
        return (centres[y] + generator.standard_normal((n, dimension))).astype(np.float32), y

    return draw


def low_rank_factors(
    model: LowRankClassifier, x: Float[np.ndarray, "runs n d"], y: Int[np.ndarray, "runs n"]
) -> tuple[Float[Tensor, "runs rank d"], Float[Tensor, "runs classes rank"]]:
    """Train one classifier on each run's samples and give all A and all B."""
    features, runs, n = torch.from_numpy(np.ascontiguousarray(x)), x.shape[0], x.shape[1]
    targets = torch.nn.functional.one_hot(torch.from_numpy(y).long(), model.classes).to(features)
    A, B = (factor.expand(runs, *factor.shape).clone() for factor in model.start())
    speed_a, speed_b = torch.zeros_like(A), torch.zeros_like(B)
    low = features @ A.mT
    for _ in range(model.steps):
        if model.tuned != "B":
            low = features @ A.mT
        error = (torch.softmax(low @ B.mT, dim=-1) - targets) / n
        if model.tuned != "A":
            speed_b = 0.9 * speed_b - model.rate * 0.1 * (error.mT @ low)
        if model.tuned != "B":
            speed_a = 0.9 * speed_a - model.rate * 0.1 * ((error @ B).mT @ features)
        A, B = A + speed_a, B + speed_b
    return A, B


def train_low_rank(
    model: LowRankClassifier, x: Float[np.ndarray, "runs n d"], y: Int[np.ndarray, "runs n"]
) -> list[Adapter]:
    """Train one classifier on each run's samples; each adapter records its initialization.

    Examples
    --------
    >>> x, y = gaussian_classes(5, 3, separation=4.0)(200, 0)
    >>> adapter = train_low_rank(LowRankClassifier(5, 3, rank=2, tuned="B"), x[None], y[None])[0]
    >>> float((np.argmax(x @ adapter["classifier"].delta().numpy().T, 1) == y).mean()) > 0.7
    True
    """
    initial = Adapter.from_factors({MODULE: model.start()}, name="start")
    A, B = low_rank_factors(model, x, y)
    return [
        Adapter.from_factors({MODULE: pair}, name=f"{model.tuned}, run {run}", initial=initial)
        for run, pair in enumerate(zip(A, B, strict=True))
    ]


def repeated_certificates(
    model: LowRankClassifier,
    draw: Sampler,
    *,
    n_samples: int,
    repeats: int = 200,
    confidence: float = 0.95,
    levels: Sequence[int] = (2, 3, 5, 9),
    relative_noise: Sequence[float] = (0.25, 0.5, 1.0),
    draws: int = 40,
    prior_samples: int = 0,
    fresh: int = 20_000,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Train and certify on `repeats` fresh samples; one row for each repeat and each bound.

    Columns: repeat, bound ("coded", "gaussian", "one draw", "hold-out": the best row of each in `certify`; "best":
    `best()` over all of them; "parameter count": in expectation; "no complexity": what would be certified if the data
    had chosen nothing, which is no bound), empirical_risk, true_risk (of the same quantized, perturbed or trained
    adapter, on `fresh` new samples), certified, violated.

    With `prior_samples` above 0, each repeat trains a prior on so many further samples and certifies against it.

    Examples
    --------
    >>> model, draw = LowRankClassifier(5, 3, rank=2, tuned="B"), gaussian_classes(5, 3, separation=3.0)
    >>> table = repeated_certificates(model, draw, n_samples=300, repeats=1, levels=(2,), draws=2, fresh=1000)
    >>> table.groupby("bound")["violated"].sum().to_dict()["coded"]
    0
    """
    x, y = (
        np.stack(part) for part in zip(*(draw(n_samples, seed + 1 + repeat) for repeat in range(repeats)), strict=True)
    )
    new_x, new_y = draw(fresh, seed)
    priors: list[Adapter | None] = [None] * repeats
    if prior_samples:
        other = [draw(prior_samples, seed + 1 + repeats + repeat) for repeat in range(repeats)]
        seen_x, seen_y = (np.stack(part) for part in zip(*other, strict=True))
        priors = [*train_low_rank(model, seen_x, seen_y)]
    rows: list[dict[str, object]] = []
    for repeat, adapter in enumerate(
        tqdm(train_low_rank(model, x, y), desc=f"certifying, {model.tuned}", disable=not progress)
    ):
        true: list[float] = []

        def evaluate(candidate: Adapter, repeat: int = repeat, true: list[float] = true) -> np.ndarray:
            true.append(float(_losses(candidate, new_x, new_y).mean()))
            return _losses(candidate, x[repeat], y[repeat])

        report = certify(
            adapter, evaluate, n_samples, tuned=model.tuned, confidence=confidence, levels=levels,
            relative_noise=relative_noise, draws=draws, prior=priors[repeat], seed=seed + repeat,
        )  # fmt: skip
        frame = report.frame[report.frame["form"] == report.settings["headline"]].reset_index(drop=True)
        counts = frame["rung"].value_counts()
        pilot = 0 if len(relative_noise) == 1 else PILOT_DRAWS * len(relative_noise)
        # Before these calls the evaluation was examined, and after them its first call was repeated.
        calls = [counts["coded"], pilot, draws, counts["one draw"] + counts.get("hold-out", 0)]
        coded, _, drawn, single = np.split(np.array(true[-sum(calls) - 1 : -1]), np.cumsum(calls)[:-1])
        frame["true_risk"] = [*coded, drawn.mean(), *single]
        for rung, part in frame.groupby("rung"):
            best = part.loc[part["risk"].idxmin()]
            rows.append(_row(repeat, str(rung), best["empirical_risk"], best["true_risk"], best["risk"]))
        best = frame.loc[frame["risk"].idxmin()]
        rows.append(_row(repeat, "best", best["empirical_risk"], best["true_risk"], best["risk"]))
        empirical, risk = evaluate(adapter).mean(), true[-1]
        count = compute_bound(adapter, n_samples, tuned=model.tuned, rungs=("parameter count",)).frame
        gap = count.loc[count["applies"], "gap"].item()
        rows.append(_row(repeat, "parameter count", empirical, risk, empirical + gap))
        rows.append(
            _row(repeat, "no complexity", empirical, risk, chernoff_risk(empirical, 0.0, n_samples, confidence))
        )
    return pd.DataFrame(rows)


def summarize_repeats(table: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """What `repeated_certificates` found, one row for each bound (and each value of the columns `by`).

    Columns: repeats, violated (share of repeats whose true risk exceeds the certificate), certified, true_risk,
    empirical_risk (means), mean_gap and gap_error (mean of true - empirical risk and its standard error), gap_bound
    (mean of certified - empirical risk).

    Examples
    --------
    >>> row = {"bound": "coded", "empirical_risk": 0.1, "true_risk": 0.2, "certified": 0.3, "violated": False}
    >>> summarize_repeats(pd.DataFrame([row, row])).loc[0, ["repeats", "violated"]].tolist()
    [2.0, 0.0]
    """
    frame = table.assign(
        mean_gap=table["true_risk"] - table["empirical_risk"], gap_bound=table["certified"] - table["empirical_risk"]
    )
    grouped = frame.groupby([*by, "bound"], sort=False)
    means = grouped[["violated", "certified", "true_risk", "empirical_risk", "mean_gap", "gap_bound"]].mean()
    means.insert(0, "repeats", grouped.size())
    means["gap_error"] = grouped["mean_gap"].sem()
    return means.reset_index()


def low_rank_supersamples(
    model: LowRankClassifier,
    x: Float[np.ndarray, "pool d"],
    y: Int[np.ndarray, "pool"],
    *,
    pairs: int,
    supersamples: int,
    trainings: int,
    seed: int = 0,
    progress: bool = False,
) -> list[Supersample]:
    """Repeated training on halves of supersamples drawn from a pool, for `conditional_information`.

    Examples
    --------
    >>> x, y = gaussian_classes(5, 3, separation=2.0)(200, 0)
    >>> model = LowRankClassifier(5, 3, rank=2, tuned="B", steps=20)
    >>> runs = low_rank_supersamples(model, x, y, pairs=20, supersamples=1, trainings=8)
    >>> runs[0].predictions.shape
    (8, 20, 2)
    """
    chosen = [np.random.default_rng([seed, 1, k]).permutation(len(y))[: 2 * pairs] for k in range(supersamples)]

    def train(number: int, coins: Bool[np.ndarray, "trainings n"]) -> Int[np.ndarray, "trainings n 2"]:
        members = chosen[number].reshape(pairs, 2)
        trained = np.where(coins, members[:, 1], members[:, 0])
        A, B = low_rank_factors(model, x[trained], y[trained])
        scores = torch.from_numpy(x[members.ravel()]) @ A.mT @ B.mT
        return scores.argmax(dim=-1).numpy().reshape(len(coins), pairs, 2)

    return train_on_supersamples(
        lambda number: y[chosen[number]].reshape(pairs, 2),
        train,
        supersamples=supersamples,
        trainings=trainings,
        seed=seed,
        progress=progress,
    )


def _row(repeat: int, bound: str, empirical: float, true: float, certified: float) -> dict[str, object]:
    return {
        "repeat": repeat,
        "bound": bound,
        "empirical_risk": float(empirical),
        "true_risk": float(true),
        "certified": float(certified),
        "violated": bool(true > certified),
    }


def _losses(adapter: Adapter, x: Float[np.ndarray, "n d"], y: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    update = adapter[MODULE]
    scores = (x @ update.A.numpy().T) @ (update.scaling * update.B.numpy()).T
    return (scores.argmax(axis=1) != y).astype(np.float64)
