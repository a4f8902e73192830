"""Conditional mutual information from repeated training: what the losses tell about which samples were trained on.

A supersample holds n pairs of samples; a fair coin U_i for each pair says which member is trained on. From many
trainings with fresh coins one sees how much the outcome on pair i says about U_i. With losses in [0, 1]:

- "f": |gap| <= mean over i of sqrt(2 I(f_i; U_i)), f_i the two predictions (Harutyunyan and others 2021)
- "loss pair" and "loss difference": the same with the two losses, or with their difference (Hellstrom and Durisi 2022;
  Wang and Mao 2023). The true information is never larger from line to line, because each quantity is a function of
  the one before; estimates may be, by their standard errors.

averaged over supersamples. The information is estimated from finitely many trainings, so that these are diagnostics:
the plain estimate is biased upward, and the square root of a bias is large. The table gives the estimate with the
Miller-Madow correction over occupied cells, and the floor that the plain one would show without any dependence
(docs/theory.md, section 5.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from asym_analysis._deprecated import FormerTable
from asym_analysis.results import TableResult, settings_of

__all__ = ["KINDS", "ConditionalInformation", "Supersample", "conditional_information", "train_on_supersamples"]

KINDS = ("f", "loss pair", "loss difference")


@dataclass(frozen=True)
class Supersample:
    """What repeated training on one supersample of n pairs gave.

    Attributes
    ----------
    coins
        Shape (trainings, n): True where the second member of the pair was trained on.
    predictions
        Shape (trainings, n, 2): the label predicted for either member.
    labels
        Shape (n, 2): the true labels.
    """

    coins: Bool[np.ndarray, "trainings n"] = field(repr=False)
    predictions: Int[np.ndarray, "trainings n 2"] = field(repr=False)
    labels: Int[np.ndarray, "n 2"] = field(repr=False)

    @property
    def losses(self) -> Int[np.ndarray, "trainings n 2"]:
        """0-1 losses of either member."""
        return (self.predictions != self.labels).astype(np.int64)

    @property
    def gaps(self) -> Float[np.ndarray, "trainings"]:
        """Loss on the members left out minus loss on those trained on, of each training."""
        difference = self.losses[..., 0] - self.losses[..., 1]
        return np.where(self.coins, difference, -difference).mean(axis=1)


def train_on_supersamples(
    pairs: Callable[[int], Int[np.ndarray, "n 2"]],
    train: Callable[[int, Bool[np.ndarray, "trainings n"]], Int[np.ndarray, "trainings n 2"]],
    *,
    supersamples: int,
    trainings: int,
    seed: int = 0,
    progress: bool = False,
) -> list[Supersample]:
    """Draw coins, train, and keep the predictions.

    Parameters
    ----------
    pairs : callable
        Labels, shape (n, 2), of the supersample of that number.
    train : callable
        Given the supersample's number and coins of shape (trainings, n): trains once for each row of coins, and gives
        the labels predicted for both members of every pair.
    supersamples, trainings : int
        How many of either; below some 300 trainings the floor of "f" exceeds .1.
    seed : int, default 0
        Of the coins.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    list of Supersample
        One for each supersample, for `conditional_information`.

    Examples
    --------
    >>> def forget(number, coins):
    ...     return np.zeros((*coins.shape, 2), dtype=int)
    >>> runs = train_on_supersamples(lambda k: np.zeros((5, 2), int), forget, supersamples=2, trainings=4)
    >>> len(runs), runs[0].gaps.tolist()
    (2, [0.0, 0.0, 0.0, 0.0])
    """
    found = []
    for number in tqdm(range(supersamples), desc="supersamples", disable=not progress):
        labels = pairs(number)
        coins = np.random.default_rng([seed, number]).integers(0, 2, (trainings, len(labels))).astype(bool)
        found.append(Supersample(coins, train(number, coins), labels))
    return found


@dataclass(frozen=True, eq=False, repr=False)
class ConditionalInformation(FormerTable, TableResult):
    """Bounds on the expected gap from conditional mutual information.

    Attributes
    ----------
    frame
        One row a kind of information:

        - information: "f", "loss pair" or "loss difference"
        - bound: mean over pairs and supersamples of sqrt(2 I), after the Miller-Madow correction over occupied cells
        - standard_error: of `bound`, over supersamples; infinite for a single one
        - plain: the same without the correction
        - floor: what `plain` shows, on average, where nothing depends on the coins (measured with shuffled coins)
        - interpolating_risk: for "loss difference" where every training loss was 0, information/ln 2, which then
          bounds the risk itself
        - measured_gap: loss outside the training half minus loss inside, mean over trainings
        - trainings, supersamples: counts
        - kind: always "diagnostic"
    settings
        Counts and versions.
    """


def conditional_information(supersamples: Sequence[Supersample]) -> ConditionalInformation:
    """Bounds on the expected gap, one row for each of the three kinds of information.

    Parameters
    ----------
    supersamples : sequence of Supersample
        From `train_on_supersamples`, or made by hand.

    Returns
    -------
    ConditionalInformation
        Diagnostics: the information is estimated from finitely many trainings.

    Raises
    ------
    ValueError
        If no supersample is given.

    Notes
    -----
    A corrected estimate of a single pair may be negative, and setting such estimates to zero would bring the bias
    back. As the square root is concave, sqrt of twice the mean corrected information over the pairs of a supersample
    bounds the mean of the square roots from above; `bound` is this number, averaged over supersamples.

    References
    ----------
    .. [1] H. Harutyunyan and others, Information-theoretic generalization bounds for black-box learning algorithms,
       arXiv 2110.01584 (2021).
    .. [2] F. Hellstrom, G. Durisi, arXiv 2210.06422 (2022); Z. Wang, Y. Mao, arXiv 2302.02432 (2023).
    .. [3] docs/theory.md, section 5.8.

    Examples
    --------
    >>> coins = np.random.default_rng(0).integers(0, 2, (400, 6)).astype(bool)
    >>> labels = np.zeros((6, 2), dtype=int)
    >>> wrong_outside = np.stack([coins, ~coins], axis=-1).astype(int)
    >>> found = conditional_information([Supersample(coins, wrong_outside, labels)])
    >>> found.frame[["information", "bound", "measured_gap"]].round(2).to_dict("list")
    {'information': ['f', 'loss pair', 'loss difference'], 'bound': [1.18, 1.18, 1.18], 'measured_gap': [1.0, 1.0, 1.0]}
    """
    if not supersamples:
        raise ValueError("no supersample is given")
    rows = []
    measured = np.concatenate([one.gaps for one in supersamples])
    interpolating = not any(np.where(one.coins, one.losses[..., 1], one.losses[..., 0]).any() for one in supersamples)
    for kind in KINDS:
        plain, corrected, floor, nats = [], [], [], []
        for number, one in enumerate(supersamples):
            codes = _codes(one, kind)
            raw, bias = _pairwise(codes, one.coins)
            shuffled = np.random.default_rng(number).permuted(one.coins, axis=0)
            plain.append(np.sqrt(2 * raw).mean())
            floor.append(np.sqrt(2 * _pairwise(codes, shuffled)[0]).mean())
            nats.append(float((raw - bias).mean()))
            corrected.append(math.sqrt(2 * max(nats[-1], 0.0)))
        count = len(supersamples)
        rows.append(
            {
                "information": kind,
                "bound": float(np.mean(corrected)),
                "standard_error": float(np.std(corrected, ddof=1) / math.sqrt(count)) if count > 1 else math.inf,
                "plain": float(np.mean(plain)),
                "floor": float(np.mean(floor)),
                "interpolating_risk": float(np.mean(nats)) / math.log(2)
                if interpolating and kind == "loss difference"
                else math.nan,
                "measured_gap": float(measured.mean()),
                "trainings": len(supersamples[0].coins),
                "supersamples": count,
                "kind": "diagnostic",
            }
        )
    settings = settings_of(
        supersamples=count, trainings=len(supersamples[0].coins), pairs=supersamples[0].coins.shape[1]
    )
    return ConditionalInformation(pd.DataFrame(rows), settings)


def _codes(one: Supersample, kind: str) -> Int[np.ndarray, "trainings n"]:
    """One whole number for each outcome of each pair."""
    if kind == "f":
        size = int(one.predictions.max()) + 1
        return one.predictions[..., 0] * size + one.predictions[..., 1]
    losses = one.losses
    return losses[..., 0] * 2 + losses[..., 1] if kind == "loss pair" else losses[..., 0] - losses[..., 1] + 1


def _pairwise(
    codes: Int[np.ndarray, "trainings n"], coins: Bool[np.ndarray, "trainings n"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Plug-in information of each pair's outcome and coin, and Miller and Madow's bias of it."""
    trainings, n = codes.shape
    size = int(codes.max()) + 1
    cells = (codes * 2 + coins) + 2 * size * np.arange(n)
    table = np.bincount(cells.ravel(), minlength=2 * size * n).reshape(n, size, 2) / trainings
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = table / (table.sum(axis=2, keepdims=True) * table.sum(axis=1, keepdims=True))
        terms = np.where(table > 0, table * np.log(ratio), 0.0)
    occupied = (table > 0).sum(axis=(1, 2))
    outcomes = (table.sum(axis=2) > 0).sum(axis=1)
    sides = (table.sum(axis=1) > 0).sum(axis=1)
    bias = (occupied - outcomes - sides + 1) / (2 * trainings)
    return np.maximum(terms.sum(axis=(1, 2)), 0.0), bias
