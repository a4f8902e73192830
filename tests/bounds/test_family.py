"""Information about the subset in families that are made to hold it, or not to."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from asym_analysis import compute_bound
from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.bounds.family import mutual_information_of_family
from asym_analysis.errors import AdapterError


def family(strength: float, seed: int = 0, subsets: int = 6, seeds: int = 4, rank: int = 1) -> AdapterSet:
    """B = strength * (a mean for the subset) + noise; A is noise alone."""
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((subsets, 3, rank))
    adapters, table = [], []
    for k in range(subsets):
        for s in range(seeds):
            B = strength * means[k] + generator.standard_normal((3, rank))
            A = generator.standard_normal((rank, 3))
            adapters.append(Adapter.from_factors({"q": (torch.from_numpy(A), torch.from_numpy(B))}, name=f"{k}-{s}"))
            table.append({"part": k, "run": s})
    return AdapterSet(adapters, pd.DataFrame(table))


def test_information_is_found_where_it_is() -> None:
    frame = mutual_information_of_family(family(3.0), subset="part", runs="run", shuffles=200).frame.set_index("tuned")
    assert frame.loc["B", "p_value"] < 0.01 < frame.loc["A", "p_value"]
    assert frame.loc["B", "raw"] - frame.loc["B", "shuffled_mean"] > 10 * frame.loc["B", "shuffled_std"]
    # No information about one of six subsets exceeds ln 6, and both factors tell at least what one does.
    assert frame["limit"].tolist() == pytest.approx([math.log(6)] * 3)
    assert (frame["nats"] <= frame["limit"]).all()
    assert frame.loc["both", "nats"] == frame["nats"].max()
    assert set(frame["kind"]) == {"diagnostic"}


def test_estimate_against_the_truth() -> None:
    """Three dimensions, between-variance strength^2: I = 3/2 ln(1 + strength^2), over families of many subsets."""
    truth = 1.5 * math.log1p(4.0)
    found = [
        mutual_information_of_family(family(2.0, seed, 20, 5), subset="part", runs="run", shuffles=50)
        .frame.set_index("tuned")
        .loc["B", ["nats", "standard_error"]]
        .to_numpy(dtype=float)
        for seed in range(6)
    ]
    nats, errors = np.array(found).T
    assert nats.mean() == pytest.approx(truth, rel=0.15)
    assert 0.4 < np.sqrt((errors**2).mean()) / nats.std(ddof=1) < 2.5


def test_zero_point_is_zero() -> None:
    """Families without dependence: p-values are spread evenly, and estimates average zero."""
    frames = [
        mutual_information_of_family(family(0.0, seed), subset="part", runs="run", shuffles=60).frame
        for seed in range(12)
    ]
    p = np.concatenate([frame["p_value"].to_numpy() for frame in frames])
    assert 0.3 < p.mean() < 0.7
    nats = np.concatenate([frame["nats"].to_numpy() for frame in frames])
    spread = np.concatenate([frame["shuffled_std"].to_numpy() for frame in frames]).mean()
    assert abs(nats.mean()) < 3 * spread / math.sqrt(12)


def test_frozen_factor_tells_nothing() -> None:
    adapters = family(3.0)
    A = adapters[0]["q"].A
    frozen = AdapterSet([Adapter.from_factors({"q": (A, a["q"].B)}) for a in adapters], adapters.table[["part", "run"]])
    frame = mutual_information_of_family(frozen, subset="part", runs="run", shuffles=20).frame.set_index("tuned")
    assert frame.loc["A", ["nats", "raw", "explained"]].tolist() == [0.0, 0.0, 0.0]
    assert frame.loc["both", "raw"] == pytest.approx(frame.loc["B", "raw"])


def test_feeds_the_second_rung() -> None:
    adapters = family(3.0)
    found = mutual_information_of_family(adapters, subset="part", runs="run", shuffles=50)
    report = compute_bound(
        adapters[0], 1000, mutual_information=found.as_mutual_information(), rungs=("mutual information",)
    )
    assert report.frame["tuned"].tolist() == ["B", "A", "both"]
    assert set(report.frame["kind"]) == {"diagnostic"}


def test_too_few_or_unlike_adapters() -> None:
    with pytest.raises(AdapterError, match="too few"):
        mutual_information_of_family(family(1.0, subsets=2, seeds=2), subset="part", runs="run")
    with pytest.raises(AdapterError, match="no column"):
        mutual_information_of_family(family(1.0), subset="fold", runs="run")
    odd = [*family(1.0), *family(1.0, rank=2)]
    with pytest.raises(AdapterError, match="other shapes"):
        mutual_information_of_family(odd, subset=[0, 1] * 24, runs=list(range(48)))
