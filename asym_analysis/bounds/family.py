"""How much a family of adapters, trained on several subsets with several seeds, tells about its subset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from asym_analysis._deprecated import warn
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import as_adapters
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import TUNED, whole

__all__ = ["FamilyInformation", "mutual_information_of_family"]

PARTS: Mapping[str, tuple[str, ...]] = {"B": ("B",), "A": ("A",), "both": ("A", "B")}


@dataclass(frozen=True, eq=False, repr=False)
class FamilyInformation(TableResult):
    """Estimates of I(A; S), I(B; S) and I(A, B; S), where S is the subset that an adapter was trained on.

    Attributes
    ----------
    frame
        One row for "B", "A" and "both":

        - tuned: which factors
        - nats: the estimate above its zero point, at most `limit`; that of "both" is at least those of A and of B
        - limit: ln of the number of subsets, which no information about the subset can exceed
        - raw: the estimate before the zero point is subtracted
        - shuffled_mean, shuffled_std: of the raw estimate with subsets shuffled among adapters
        - p_value: of the raw estimate among the shuffled ones
        - standard_error: in nats, by the jackknife over subsets
        - directions, explained: principal directions, and the share of the variance that they hold
        - subsets, seeds: counts
        - kind: always "diagnostic"
    settings
        directions, shuffles, seed and versions.
    """

    def as_mutual_information(self) -> dict[str, float]:
        """What `compute_bound` takes as `mutual_information`; estimates below zero count as zero.

        Returns
        -------
        dict of str to float
            Trained factors ("B", "A", "both") -> nats.
        """
        return {
            str(tuned): max(float(nats), 0.0)
            for tuned, nats in zip(self.frame["tuned"], self.frame["nats"], strict=True)
        }


def mutual_information_of_family(
    adapters: Any,
    *,
    subset: str | Sequence[Any],
    runs: str | Sequence[Any] | None = None,
    directions: int = 3,
    shuffles: int = 500,
    seed: int | str | Sequence[Any] = 0,
    random_state: int | None = None,
) -> FamilyInformation:
    """Estimate what A, B and both tell about the subset that an adapter was trained on.

    From the factors of all modules, less their recorded initialization where every adapter has one, each seed's mean
    over the subsets is taken: what the seed alone decides, A_0 above all, tells nothing of the subset and hides it
    (not where every adapter has its own seed). The rest is projected on its first principal directions, chosen over
    all adapters without regard to subsets. There the adapters are taken as
    Gaussian around a mean that depends on the subset, and I = 1/2 ln(det total/det within) compares the variance over
    all with that among the seeds of one subset. With so few adapters the raw number is far from zero without any
    dependence: what shuffled subsets give is subtracted.

    The number concerns these directions of this family: a diagnostic, of no use as a certificate.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        At least 2 subsets with at least 2 seeds each, all with the same modules and shapes.
    subset, runs : str or sequence
        What each adapter was trained on, and the seed of its training: a column of the set's table, or one value for
        each adapter.
    directions : int, default 3
        Number of principal directions; few, for there are few adapters.
    shuffles : int, default 500
        Shuffled assignments for the zero point. Subsets are shuffled within each seed.
    seed : int, default 0
        Of the shuffles.
    random_state : int, optional
        Deprecated name of `seed`, from when `seed` was the name of `runs`.

    Returns
    -------
    FamilyInformation
        One row each for A, B and both.

    Raises
    ------
    AdapterError
        If the adapters differ in modules or shapes, or are too few.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter
    >>> def make(subset, seed):
    ...     draw = torch.Generator().manual_seed(100 * subset + seed)
    ...     mean = torch.Generator().manual_seed(subset)
    ...     B = 2 * torch.randn(8, 2, generator=mean) + 0.1 * torch.randn(8, 2, generator=draw)
    ...     return Adapter.from_factors({"q": (torch.randn(2, 8, generator=draw), B)})
    >>> labels = [(subset, seed) for subset in range(6) for seed in range(4)]
    >>> found = mutual_information_of_family(
    ...     [make(*label) for label in labels], subset=[k for k, _ in labels], runs=[s for _, s in labels]
    ... )
    >>> table = found.frame.set_index("tuned")
    >>> bool(table.loc["B", "nats"] > 3 * table.loc["B", "shuffled_std"] > abs(table.loc["A", "nats"]))
    True
    """
    if runs is None and not isinstance(seed, int):
        warn("seed= with the seeds of the trainings", "runs=")
        runs, seed = seed, 0
    if random_state is not None:
        warn("random_state=", "seed=")
        seed = random_state
    if runs is None:
        raise ValueError("runs is missing: give a column of the set's table, or the seed of each adapter's training")
    family = as_adapters(adapters)
    subsets, seeds = _labels(family, subset, "subset"), _labels(family, runs, "runs")
    count, groups = len(family), int(subsets.max()) + 1
    taken = int(seeds.max()) + 1 if _crossed(seeds) else 1
    if groups < 2 or count - groups - taken + 1 < directions:
        raise AdapterError(
            f"{count} adapters of {groups} subsets are too few for {directions} directions: "
            f"take at least 2 subsets and {directions + taken - 1} more adapters than subsets"
        )
    values = _flat(family)
    generator = np.random.default_rng(whole(seed, "seed", least=0))
    orders = [_shuffled(subsets, seeds, generator) for _ in range(shuffles)]
    rows = []
    for tuned in TUNED:
        points, explained = _principal([_without_seeds(values[part], seeds) for part in PARTS[tuned]], directions)
        raw = _information(points, subsets, seeds)
        zero = np.array([_information(points, order, seeds) for order in orders])
        rows.append(
            {
                "tuned": tuned,
                "nats": min(raw - float(zero.mean()), math.log(groups)),
                "limit": math.log(groups),
                "raw": raw,
                "shuffled_mean": float(zero.mean()),
                "shuffled_std": float(zero.std(ddof=1)),
                "p_value": float((1 + (zero >= raw).sum()) / (1 + shuffles)),
                "standard_error": _jackknife(points, subsets, seeds),
                "directions": points.shape[1],
                "explained": explained,
                "subsets": groups,
                "seeds": int(seeds.max()) + 1,
                "kind": "diagnostic",
            }
        )
    frame = pd.DataFrame(rows)
    # I(A, B; S) is at least I(A; S) and I(B; S): the joint estimate looks at other directions than theirs.
    joint = frame["tuned"] == "both"
    frame.loc[joint, "nats"] = frame["nats"].max()
    return FamilyInformation(frame, settings_of(directions=directions, shuffles=shuffles, seed=seed))


def _labels(family: AdapterSet, given: str | Sequence[Any], what: str) -> Int[np.ndarray, "n"]:
    if isinstance(given, str):
        if given not in family.table:
            raise AdapterError(
                f"the table has no column {given!r} for the {what}; it has {', '.join(map(str, family.table.columns))}"
            )
        given = family.table[given].tolist()
    if len(given) != len(family):
        raise AdapterError(f"{len(given)} values of {what} for {len(family)} adapters: give one for each")
    return np.unique(np.asarray(given), return_inverse=True)[1].astype(np.int64)


def _flat(family: AdapterSet) -> dict[str, Float[np.ndarray, "n size"]]:
    """A and B of every adapter as one long row."""
    first = family[0]
    from_start = all(adapter.initial is not None and set(adapter) <= set(adapter.initial) for adapter in family)
    found: dict[str, list[np.ndarray]] = {"A": [], "B": []}
    for adapter in family:
        if list(adapter) != list(first):
            raise AdapterError(f"{adapter.name} has other modules than {first.name}: a family has the same ones")
        for factor, rows in found.items():
            parts = []
            for module in adapter:
                value = getattr(adapter[module], factor)
                if from_start:
                    value = value - getattr(adapter.initial[module], factor).to(value)  # type: ignore[index]
                parts.append(value.reshape(-1).double().numpy())
            rows.append(np.concatenate(parts))
            if len(rows[-1]) != len(rows[0]):
                raise AdapterError(f"{adapter.name} has other shapes than {first.name}: a family has the same ones")
    return {factor: np.stack(rows) for factor, rows in found.items()}


def _crossed(seeds: Int[np.ndarray, "n"]) -> bool:
    """Whether every seed was used with several subsets."""
    return bool((np.bincount(seeds) > 1).all())


def _without_seeds(values: Float[np.ndarray, "n size"], seeds: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n size"]:
    """Less each seed's mean over its subsets; less the mean of all where seeds are not crossed with subsets."""
    if not _crossed(seeds):
        seeds = np.zeros_like(seeds)
    centred = values.copy()
    for one in np.unique(seeds):
        centred[seeds == one] -= values[seeds == one].mean(axis=0)
    # A frozen factor is the same in every adapter of a seed, up to the rounding of its mean.
    return centred if np.linalg.norm(centred) > 1e-9 * np.linalg.norm(values) else np.zeros_like(values)


def _principal(centred: list[Float[np.ndarray, "n _"]], directions: int) -> tuple[Float[np.ndarray, "n k"], float]:
    """Coordinates along the first principal directions, each part scaled to the same total variance."""
    moving = [part / np.linalg.norm(part) for part in centred if part.any()]
    if not moving:
        return np.zeros((len(centred[0]), 0)), 0.0
    U, S, _ = np.linalg.svd(np.hstack(moving), full_matrices=False)
    kept = min(directions, int(np.count_nonzero(S / S[0] > 1e-10)))
    return U[:, :kept], float((S[:kept] ** 2).sum() / (S**2).sum())


def _information(points: Float[np.ndarray, "n k"], subsets: Int[np.ndarray, "n"], seeds: Int[np.ndarray, "n"]) -> float:
    if points.shape[1] == 0:
        return 0.0
    groups = np.unique(subsets)
    within = np.concatenate([points[subsets == g] - points[subsets == g].mean(axis=0) for g in groups])
    total = points - points.mean(axis=0)
    taken = len(np.unique(seeds)) if _crossed(seeds) else 1
    dets = [
        np.linalg.slogdet(part.T @ part / free)[1]
        for part, free in ((total, len(points) - taken), (within, len(points) - taken - len(groups) + 1))
    ]
    return float(0.5 * (dets[0] - dets[1]))


def _shuffled(
    subsets: Int[np.ndarray, "n"], seeds: Int[np.ndarray, "n"], generator: np.random.Generator
) -> Int[np.ndarray, "n"]:
    shuffled = subsets.copy()
    for one in np.unique(seeds):
        at = np.flatnonzero(seeds == one)
        shuffled[at] = generator.permutation(subsets[at])
    return shuffled


def _jackknife(points: Float[np.ndarray, "n k"], subsets: Int[np.ndarray, "n"], seeds: Int[np.ndarray, "n"]) -> float:
    groups = np.unique(subsets)
    if len(groups) < 3:
        return math.inf
    left = np.array([_information(points[subsets != g], subsets[subsets != g], seeds[subsets != g]) for g in groups])
    return float(math.sqrt((len(groups) - 1) / len(groups) * np.square(left - left.mean()).sum()))
