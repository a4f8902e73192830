"""Neighbours and clusters in collections of thousands of adapters, without comparing all pairs.

An index of random features proposes the nearest adapters; these are compared exactly, and against what chance gives the
most similar of as many unrelated adapters.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.alignment.adapter_index import AdapterIndex, Collection, index_adapters, vector_of
from asym_analysis.alignment.module_pairs import factor_frames
from asym_analysis.chance.null import BetaNull
from asym_analysis.chance.overlap import overlap_null
from asym_analysis.chance.products import probability_of_products
from asym_analysis.chance.tabulated import LEAST
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult
from asym_analysis.subspaces.measures import Frames, measure_named
from asym_analysis.vocabulary import finite, whole

__all__ = ["Clusters", "Neighbours", "cluster", "nearest"]

MORE = 4  # times as many vectors are found as are compared exactly and given
CLEAR = 0.01  # p-value below which a neighbour is closer than chance
TIGHT, TIGHT_LEAST = 16, 0.01  # in fewer dimensions no smaller p-value is told of a pair: Beta tails are too light
DIGITS = 6  # of similarities: adapters that agree in these are tied


class Neighbours(TableResult):
    """The adapters of a collection that are most similar to one adapter.

    Attributes
    ----------
    frame
        One row a neighbour, the most similar first, and of equal ones the one that stands first in the collection.
        Columns:

        - adapter: its name
        - place: its place in the collection
        - similarity: mean over the modules that both have of the overlap of A or of B, or of the cosine of the
          updates; exact. NaN, and the p-value with it, where a factor is zero in all of them; these stand last
        - modules: how many these are
        - chance: the mean similarity of unrelated adapters of these ranks
        - p_value: probability that the most similar of as many unrelated adapters as the collection holds is at least
          as similar, if modules are independent; those that hold one and the same factor count as one. A millionth
          means "below", and no pair has less than .01 where all modules are narrower than 16
        - estimate: of the random features
        - standard_error: of the estimate between unrelated adapters
    settings
        adapter, collection (its size), by, features, seed, modules and versions.
    """

    def summary(self) -> pd.DataFrame:
        """One row: how many of the neighbours are closer than chance, and how near the nearest is.

        Returns
        -------
        DataFrame
            neighbours, closer_than_chance (p_value below .01), nearest, similarity, chance.
        """
        first = self.frame.iloc[0]
        return pd.DataFrame(
            {
                "neighbours": [len(self.frame)],
                "closer_than_chance": [int((self.frame.p_value < CLEAR).sum())],
                "nearest": [first.adapter],
                "similarity": [first.similarity],
                "chance": [first.chance],
            }
        )


class Clusters(TableResult):
    """Groups of similar adapters.

    Attributes
    ----------
    frame
        One row an adapter. Columns:

        - adapter: its name
        - cluster: number of its group, from 0 for the largest; -1 for an adapter without a neighbour
        - size: number of adapters in the group
        - nearest: name of the most similar other adapter
        - estimate: of their similarity
    settings
        by, least, neighbours, features, seed, standard_error and versions.
    """

    def summary(self) -> pd.DataFrame:
        """One row a group, the largest first.

        Returns
        -------
        DataFrame
            cluster, size, and the names of up to three of its adapters.
        """
        grouped = self.frame[self.frame.cluster >= 0].groupby("cluster")
        named = grouped.adapter.agg(lambda names: ", ".join(names.head(3)))
        return pd.concat([grouped.size().rename("size"), named.rename("adapters")], axis=1).reset_index()


def nearest(
    adapter: Adapter | AdapterSet | Source,
    collection: AdapterIndex | Collection,
    k: int = 10,
    *,
    by: str | None = None,
    features: int | None = None,
    seed: int | None = None,
) -> Neighbours:
    """Find the adapters of a collection that are most similar to one.

    The random features propose four times as many as are asked for; these are compared exactly. There is always a
    nearest adapter: `p_value` says whether it is nearer than the nearest of as many unrelated ones.

    Parameters
    ----------
    adapter : Adapter, AdapterSet or source
        An adapter, or anything that `load_adapter` reads. It need not be in the collection; where it is, it is its own
        nearest neighbour.
    collection : AdapterIndex, AdapterSet, source or iterable of these
        What `index_adapters` returned, or a collection, which is indexed first.
    k : int, default 10
        How many are given.
    by : str, optional
        "A", "B" (the default) or "update".
    features, seed : int, optional
        As for `index_adapters`; those of the index where one is given, which may not be asked for others.

    Returns
    -------
    Neighbours
        See there for the columns.

    Raises
    ------
    AdapterError
        If the adapter shares no module with the collection.
    ValueError
        If an argument is out of range, or the index was made with other settings than those asked for.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: (torch.randn(2, 32, generator=generator), torch.randn(24, 2, generator=generator))
    >>> runs = [Adapter.from_factors({"q": draw()}, name=f"run {i}") for i in range(20)]
    >>> nearest(runs[7], runs, k=3, by="A").frame.adapter[0]
    'run 7'
    """
    k = whole(k, "k", least=1)
    index = indexed(collection, by, features, seed)
    query = as_adapter(adapter)
    if not any(module in query for module in index.modules):
        raise AdapterError(f"{query.name} shares no module with the collection")
    vector = vector_of(query, index.modules, index.settings)
    estimates, places = (found[0] for found in index.search(vector[None], MORE * k))
    estimates, places = estimates[places >= 0], places[places >= 0]
    exact, shared, chance, p_value = exact_similarities(query, index, places)
    order = np.lexsort((places, -np.round(exact, DIGITS)))[:k]
    frame = pd.DataFrame(
        {
            "adapter": [index.names[place] for place in places[order]],
            "place": places[order],
            "similarity": np.where(shared[order] > 0, exact[order], np.nan),
            "modules": shared[order],
            "chance": chance[order],
            "p_value": np.where(shared[order] > 0, of_the_nearest(p_value[order], len(index)), np.nan),
            "estimate": estimates[order].astype(float),
            "standard_error": index.settings["standard_error"],
        }
    )
    facts = {"adapter": query.name, "collection": len(index), "modules": len(index.modules)}
    return Neighbours(frame, {**index.settings, **facts})


def cluster(
    collection: AdapterIndex | Collection,
    *,
    least: float | None = None,
    neighbours: int = 10,
    by: str | None = None,
    features: int | None = None,
    seed: int | None = None,
) -> Clusters:
    """Group adapters that are linked by similarity, directly or through others.

    Parameters
    ----------
    collection : AdapterIndex, AdapterSet, source or iterable of these
        What `index_adapters` returned, or a collection, which is indexed first.
    least : float, optional
        Similarity from which two adapters are linked. By default .1, or more where unrelated adapters may reach that:
        so much that with probability .99 no pair of unrelated adapters is linked, by chance or by the error of the
        features. It may be 1 or more, and nothing is linked then, where ranks are near the width. A smaller value may
        be given, down to where the error of the features alone links unrelated pairs.
    neighbours : int, default 10
        How many of its nearest neighbours an adapter can be linked to.
    by : str, optional
        "A", "B" (the default) or "update".
    features, seed : int, optional
        As for `index_adapters`; those of the index where one is given, which may not be asked for others.

    Returns
    -------
    Clusters
        See there for the columns.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = torch.randn(2, 24, 2, generator=generator)
    >>> near = lambda i: tasks[i % 2] + 0.2 * torch.randn(24, 2, generator=generator)
    >>> runs = [Adapter.from_factors({"q": (torch.eye(2, 8), near(i))}, name=str(i)) for i in range(6)]
    >>> cluster(runs, least=0.5).frame.cluster.tolist()
    [0, 1, 0, 1, 0, 1]
    """
    index = indexed(collection, by, features, seed)
    error = -float(ndtri(_level_of_a_pair(index))) * index.settings["standard_error"]
    if least is None:
        least = max(0.1, float((index.levels + np.hypot(error, _beyond_mean(index))).max()))
    else:
        least = finite(least, "least", least=float(index.levels.max()) + error, most=1.0)
    neighbours = whole(neighbours, "neighbours", least=1)
    values, places = index.search(index.vectors, neighbours + 1)
    rows = np.repeat(np.arange(len(index))[:, None], places.shape[1], axis=1)
    other = (places != rows) & (places >= 0)
    linked = other & (values >= least)
    graph = coo_array((np.ones(linked.sum()), (rows[linked], places[linked])), shape=(len(index),) * 2)
    _, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty(len(sizes), dtype=int)
    number[order] = np.arange(len(sizes))
    best = np.where(other, values, -np.inf).argmax(1)
    names = np.asarray(index.names, dtype=object)
    alone = len(index) < 2
    frame = pd.DataFrame(
        {
            "adapter": names,
            "cluster": np.where(sizes[labels] > 1, number[labels], -1),
            "size": sizes[labels],
            "nearest": None if alone else names[places[np.arange(len(index)), best]],
            "estimate": np.nan if alone else values[np.arange(len(index)), best].astype(float),
        }
    )
    return Clusters(frame, {**index.settings, "least": least, "neighbours": neighbours})


def _level_of_a_pair(index: AdapterIndex) -> float:
    return CLEAR / max(len(index) * (len(index) - 1) / 2, 1)


def _beyond_mean(index: AdapterIndex) -> Float[np.ndarray, "adapters"]:
    """How far above its mean chance takes the similarity of an unrelated pair, at the level of a pair."""
    level = _level_of_a_pair(index)
    kinds, place = np.unique(np.stack([index.levels, index.spreads]), axis=1, return_inverse=True)
    beyond = np.zeros(kinds.shape[1])
    for at, (mean, std) in enumerate(kinds.T):
        if std > 0 and index.settings["by"] == "update":
            beyond[at] = std * brentq(lambda x: probability_of_products(x, 1.0, 1) - level, 0, 100)
        elif std > 0:
            beyond[at] = float(BetaNull(mean, std).critical_value(level)) - mean
    return beyond[place.ravel()]


def of_the_nearest(p_value: Float[np.ndarray, "k"], count: int) -> Float[np.ndarray, "k"]:
    """Probability that the most similar of `count` unrelated adapters is as similar, from that of one.

    No less than a millionth: nothing is checked of what lies below.
    """
    return np.maximum(-np.expm1(count * np.log1p(-np.minimum(p_value, 1 - 1e-16))), LEAST)


def indexed(
    collection: AdapterIndex | Collection, by: str | None, features: int | None, seed: int | None
) -> AdapterIndex:
    """The index of a collection; one that is given as it is, where nothing else is asked of it.

    Raises
    ------
    ValueError
        If it was made with other settings than those asked for.
    """
    if not isinstance(collection, AdapterIndex):
        return index_adapters(
            collection, by=by or "B", features=4096 if features is None else features, seed=0 if seed is None else seed
        )
    for name, asked in (("by", by), ("features", features), ("seed", seed)):
        if asked is not None and asked != collection.settings[name]:
            made = collection.settings[name]
            raise ValueError(f"the index was made with {name} {made}, not {asked}: make another")
    return collection


def exact_similarities(
    query: Adapter, index: AdapterIndex, places: Int[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"], Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Mean similarity over the modules that both have, their number, and what chance gives: mean and p-value."""
    by = index.settings["by"]
    measure = measure_named("cosine" if by == "update" else "overlap")
    found = [index.adapters[int(place)] for place in places]
    totals, counts, means, variances, terms, widest = np.zeros((6, len(places)))
    times: Counter[tuple[int, float]] = Counter()  # how many modules gave this candidate this very similarity
    for module in index.modules:
        if module not in query:
            continue
        members = [i for i, adapter in enumerate(found) if module in adapter]
        held = [query[module], *(found[i][module] for i in members)]
        alike = [0, *(i for i in range(1, len(held)) if held[i].shape == held[0].shape)]
        if len(alike) < 2:
            continue
        frames = factor_frames(measure, by, [held[i] for i in alike], "cpu")
        values = measure.compare(frames[:1], frames[1:])[0].double().numpy()
        known = np.isfinite(values)
        where = np.array([members[i - 1] for i in alike[1:]])[known]
        mean, variance, number = _chance(by, frames, held[0].shape)
        # Modules that share one factor, as a tied A, say the same thing again: the variance of n equal terms is n^2.
        keys = [(int(place), round(float(value), DIGITS)) for place, value in zip(where, values[known], strict=True)]
        times.update(keys)
        again = np.array([times[key] for key in keys])
        variance[known] *= 2 * again - 1
        number[known] *= again == 1
        for total, each in (
            (totals, values),
            (counts, np.ones_like(values)),
            (means, mean),
            (variances, variance),
            (terms, number),
        ):
            total[where] += each[known]
        widest[where] = np.maximum(widest[where], held[0].shape[1] if by == "A" else held[0].shape[0])
    whole_number = np.maximum(counts, 1)
    similarity = np.where(counts > 0, totals / whole_number, -2.0)  # behind the lowest cosine
    mean, std = means / whole_number, np.sqrt(variances) / whole_number
    p_value = np.ones(len(places))
    for i in np.flatnonzero(counts):
        if by == "update":
            p_value[i] = probability_of_products(similarity[i], std[i], max(1, int(terms[i])))
        else:
            p_value[i] = BetaNull(mean[i], std[i]).p_value(similarity[i : i + 1])[0]
            p_value[i] = max(p_value[i], TIGHT_LEAST if widest[i] < TIGHT else 0.0)
    return similarity, counts.astype(int), np.where(counts > 0, mean, np.nan), p_value


def _chance(
    by: str, frames: Frames, shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Mean and variance of the similarity of the first and each other, if unrelated; independent terms at least."""
    ranks = frames.rank.numpy()
    if by == "update":
        # As many as the query's spectrum spreads over; the other's is taken as one direction, whose tails are longest.
        strengths = frames.other["spectrum"][0].double().numpy()
        fourth = max(float((strengths**4).sum()), 1e-300)
        spread = np.full(len(ranks) - 1, float((strengths**2).sum()) ** 2 / fourth)
        return np.zeros_like(spread), np.full_like(spread, 1 / (shape[0] * shape[1])), spread
    size = shape[1] if by == "A" else shape[0]
    laws = [overlap_null(int(ranks[0]), int(rank), size) if ranks[0] and rank else None for rank in ranks[1:]]
    mean = np.array([np.nan if law is None else float(law.mean) for law in laws])
    variance = np.array([np.nan if law is None else float(law.std) ** 2 for law in laws])
    return mean, variance, np.ones(len(laws))
