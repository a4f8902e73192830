"""How many of the true neighbours `nearest` finds in a collection: a sample of its adapters, compared with all."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.alignment.adapter_index import AdapterIndex, Collection
from asym_analysis.alignment.neighbours import CLEAR, DIGITS, exact_similarities, indexed, nearest, of_the_nearest
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult
from asym_analysis.vocabulary import whole

__all__ = ["NeighbourRecall", "neighbour_recall"]

AT_ONCE = 256  # adapters whose factors are in memory together
CONFIDENCE = 0.95


class NeighbourRecall(TableResult):
    """How many of the exact nearest adapters `nearest` gives.

    Attributes
    ----------
    frame
        One row a sampled adapter. Columns:

        - adapter: its name
        - found: of the `neighbours` that `nearest` gives, the share that is as similar as the last of the exact ones,
          which a comparison with the whole collection gives; the adapter itself is left out
        - last: similarity of that last one
        - closer_than_chance, of_these_found: how many of the exact neighbours `nearest` would call closer than chance
          by their similarity (p-value below .01), and how many of these it gives
    settings
        queries, neighbours, collection (its size), by, features, seed and versions.
    """

    def summary(self) -> pd.DataFrame:
        """One row: the recall, over all sampled adapters.

        Returns
        -------
        DataFrame
            queries, neighbours, recall, low and high (95 % interval), closer_than_chance (number of exact neighbours
            that are), recall_of_these (missing where there are none).
        """
        shares, k = self.frame.found.to_numpy(), self.settings["neighbours"]
        low, high = _interval(shares, k)
        close = int(self.frame.closer_than_chance.sum())
        return pd.DataFrame(
            {
                "queries": [len(shares)],
                "neighbours": [k],
                "recall": [shares.mean()],
                "low": [low],
                "high": [high],
                "closer_than_chance": [close],
                "recall_of_these": [self.frame.of_these_found.sum() / close if close else np.nan],
            }
        )


def _interval(shares: Float[np.ndarray, "queries"], k: int) -> tuple[float, float]:
    """Of Clopper and Pearson, of as many independent neighbours as the spread over the queries leaves."""
    mean = float(shares.mean())
    alone = mean * (1 - mean) / k
    independent = len(shares) * k / (max(1.0, float(shares.var(ddof=1)) / alone) if alone > 0 else 1.0)
    right, tail = mean * independent, (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, right, independent - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(1 - tail, right + 1, independent - right) if right < independent else 1.0
    return float(low), float(high)


def neighbour_recall(
    collection: AdapterIndex | Collection,
    k: int = 10,
    *,
    queries: int = 20,
    by: str | None = None,
    features: int | None = None,
    seed: int | None = None,
) -> NeighbourRecall:
    """Say how many of the true nearest adapters `nearest` finds in this collection.

    Some of its adapters, drawn at random, are compared exactly with all others, which reads the collection once for
    each of them; `nearest` is asked for the same adapters.

    Parameters
    ----------
    collection : AdapterIndex, AdapterSet, source or iterable of these
        What `index_adapters` returned, or a collection, which is indexed first.
    k : int, default 10
        How many neighbours count.
    queries : int, default 20
        How many adapters are drawn; all where the collection is smaller.
    by : str, optional
        "A", "B" (the default) or "update".
    features, seed : int, optional
        As for `index_adapters`; those of the index where one is given. The seed draws the adapters, too.

    Returns
    -------
    NeighbourRecall
        `summary()` has the recall with its interval.

    Raises
    ------
    AdapterError
        If the collection holds no more than k adapters.
    ValueError
        If an argument is out of range, or the index was made with other settings than those asked for.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: (torch.randn(2, 32, generator=generator), torch.randn(24, 2, generator=generator))
    >>> runs = [Adapter.from_factors({"q": draw()}, name=f"run {i}") for i in range(30)]
    >>> bool(neighbour_recall(runs, k=3, queries=5).summary().recall[0] > 0.9)
    True
    """
    k, queries = whole(k, "k", least=1), whole(queries, "queries", least=2)
    index = indexed(collection, by, features, seed)
    if len(index) <= k:
        raise AdapterError(f"the collection holds {len(index)} adapters: it takes more than {k} to have {k} neighbours")
    drawn = np.random.default_rng(index.settings["seed"]).permutation(len(index))[:queries]
    rows = [_recall_of(int(place), index, k) for place in drawn]
    facts = {"queries": len(rows), "neighbours": k, "collection": len(index)}
    return NeighbourRecall(pd.DataFrame(rows), {**index.settings, **facts})


def _recall_of(place: int, index: AdapterIndex, k: int) -> dict[str, object]:
    query: Adapter = index.adapters[place]
    others = np.delete(np.arange(len(index)), place)
    parts = [
        exact_similarities(query, index, others[start : start + AT_ONCE]) for start in range(0, len(others), AT_ONCE)
    ]
    similarity, p_value = (np.concatenate([part[at] for part in parts]) for at in (0, 3))
    similarity = similarity.round(DIGITS)
    order = np.argsort(-similarity, kind="stable")[:k]
    last = similarity[order[-1]]
    given = nearest(query, index, k + 1).frame.place.to_numpy()
    given = given[given != place][:k]
    at = np.searchsorted(others, given)
    close = order[of_the_nearest(p_value[order], len(index)) < CLEAR]
    return {
        "adapter": query.name,
        "found": float((similarity[at] >= last).sum() / k),
        "last": float(last),
        "closer_than_chance": len(close),
        "of_these_found": int(np.isin(others[close], given).sum()),
    }
