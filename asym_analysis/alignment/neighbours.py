"""Neighbours and clusters in collections of thousands of adapters, without comparing all pairs.

Every adapter becomes one vector of random features, in time that grows linearly with the collection; an index of the
vectors (HNSW, Malkov and Yashunin 2018, as faiss builds it) answers in time that grows with its logarithm. The nearest
adapters it finds are compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapter, as_adapters
from asym_analysis.alignment.module_pairs import factor_frames
from asym_analysis.alignment.random_features import BY, features_of, standard_error
from asym_analysis.alignment.side_by_side import side_by_side
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces.measures import measure_named
from asym_analysis.vocabulary import choose, finite, whole

__all__ = ["AdapterIndex", "Clusters", "Neighbours", "cluster", "index_adapters", "nearest"]

EXHAUSTIVE = 5000  # vectors up to which all are looked at
LINKS = 32  # of each vector in the graph of an index
WIDTH = 128  # vectors that a search of the graph keeps
MORE = 4  # times as many vectors are found as are compared exactly and given

Collection = AdapterSet | Adapter | Source | Iterable[Adapter | Source]


@dataclass(frozen=True, eq=False, repr=False)
class AdapterIndex:
    """Feature vectors of a collection of adapters, ready to be asked for neighbours.

    Attributes
    ----------
    adapters
        The collection.
    modules
        Names of the modules that the features are of.
    vectors
        One row an adapter, float32, of length 1.
    settings
        by, features, seed, standard_error and versions.
    """

    adapters: AdapterSet
    modules: tuple[str, ...]
    vectors: Float[np.ndarray, "adapters features"]
    settings: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        by, features = self.settings["by"], self.vectors.shape[1]
        return f"AdapterIndex({len(self):,} adapters by {by}, {features} features of {len(self.modules)} modules)"

    @cached_property
    def graph(self) -> Any:
        """The faiss index; one that looks at every vector up to 5,000 adapters."""
        try:
            import faiss
        except ImportError as error:
            raise ImportError("neighbours need faiss: pip install 'asym_analysis[neighbours]'") from error
        width = self.vectors.shape[1]
        built: Any
        if len(self) <= EXHAUSTIVE:
            built = faiss.IndexFlatIP(width)
        else:
            built = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
            built.hnsw.efConstruction = WIDTH
            built.hnsw.efSearch = WIDTH
        built.add(np.ascontiguousarray(self.vectors))
        return built

    def search(
        self, vectors: Float[np.ndarray, "n features"], count: int
    ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
        """Estimated similarities and places of the adapters most similar to given vectors.

        Parameters
        ----------
        vectors
            From `features_of`, shape (n, features), float32.
        count
            How many for each; fewer where the collection is smaller.

        Returns
        -------
        tuple
            Similarities, descending, and places in the collection.
        """
        values, places = self.graph.search(np.ascontiguousarray(vectors), min(count, len(self)))
        return values, places


class Neighbours(TableResult):
    """The adapters of a collection that are most similar to one adapter.

    Attributes
    ----------
    frame
        One row a neighbour, the most similar first. Columns:

        - adapter: its name
        - place: its place in the collection
        - similarity: mean over the modules of the overlap of A or of B, or of the cosine of the updates; exact
        - estimate: of the random features
        - standard_error: of the estimate between unrelated adapters
    settings
        adapter, by, features, seed, modules and versions.
    """


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


def index_adapters(
    adapters: Collection,
    *,
    by: str = "B",
    features: int = 4096,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = False,
) -> AdapterIndex:
    """Turn every adapter of a collection into a vector of random features.

    Time grows linearly with the collection, and one adapter is in memory at a time; the vectors take 4 bytes a feature.

    Parameters
    ----------
    adapters : AdapterSet, source or iterable of these
        One or more, or anything that `load_adapters` reads.
    by : str, default "B"
        "A" or "B", the subspaces; "update", the product.
    features : int, default 4096
        Length of the vectors. The standard error of a similarity between unrelated adapters is one over its root.
    seed : int, default 0
        Of the random features.
    executor : executor, optional
        Any `concurrent.futures.Executor`; adapters are shared out over it. None computes here.
    progress : bool, default False
        Show a bar, one step an adapter.

    Returns
    -------
    AdapterIndex
        To be given to `nearest` and `cluster` in place of the collection.

    Raises
    ------
    ValueError
        If there are fewer features than modules, or an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> runs = [Adapter.from_factors({"q": (torch.eye(2, 8).roll(i, 1), torch.ones(4, 2))}) for i in range(3)]
    >>> index_adapters(runs, by="A", features=64)
    AdapterIndex(3 adapters by A, 64 features of 1 modules)
    """
    choose(by, BY, "by")
    seed = whole(seed, "seed", least=0)
    runs = as_adapters(adapters)
    modules = tuple(dict.fromkeys(module for run in runs for module in run))
    features = whole(features, "features", least=max(len(modules), 1))
    work = partial(_vector, modules=modules, by=by, features=features, seed=seed)
    done = _in_order(work, runs, executor)
    vectors = np.stack(list(tqdm(done, total=len(runs), disable=not progress, unit="adapter")))
    settings = settings_of(by=by, features=features, seed=seed, standard_error=standard_error(features))
    return AdapterIndex(runs, modules, vectors, settings)


def nearest(
    adapter: Adapter | AdapterSet | Source,
    collection: AdapterIndex | Collection,
    k: int = 10,
    *,
    by: str | None = None,
    features: int = 4096,
    seed: int = 0,
) -> Neighbours:
    """Find the adapters of a collection that are most similar to one.

    The random features propose four times as many as are asked for; these are compared exactly.

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
        As for `index_adapters`; those of the index where one is given.

    Returns
    -------
    Neighbours
        See there for the columns.

    Raises
    ------
    AdapterError
        If the adapter shares no module with the collection.
    ValueError
        If an argument is out of range, or `by` is not what the index was made for.

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
    index = _indexed(collection, by, features, seed)
    query = as_adapter(adapter)
    if not any(module in query for module in index.modules):
        raise AdapterError(f"{query.name} shares no module with the collection")
    vector = _vector(
        query,
        modules=index.modules,
        by=index.settings["by"],
        features=index.vectors.shape[1],
        seed=index.settings["seed"],
    )
    estimates, places = (found[0] for found in index.search(vector[None], MORE * k))
    exact = _exact(query, index, places)
    order = np.argsort(-exact, kind="stable")[:k]
    frame = pd.DataFrame(
        {
            "adapter": [index.adapters.names[place] for place in places[order]],
            "place": places[order],
            "similarity": exact[order],
            "estimate": estimates[order].astype(float),
            "standard_error": index.settings["standard_error"],
        }
    )
    return Neighbours(frame, {**index.settings, "adapter": query.name, "modules": len(index.modules)})


def cluster(
    collection: AdapterIndex | Collection,
    *,
    least: float = 0.1,
    neighbours: int = 10,
    by: str | None = None,
    features: int = 4096,
    seed: int = 0,
) -> Clusters:
    """Group adapters that are linked by similarity, directly or through others.

    Parameters
    ----------
    collection : AdapterIndex, AdapterSet, source or iterable of these
        What `index_adapters` returned, or a collection, which is indexed first.
    least : float, default 0.1
        Similarity from which two adapters are linked; at least five standard errors of the features.
    neighbours : int, default 10
        How many of its nearest neighbours an adapter can be linked to.
    by : str, optional
        "A", "B" (the default) or "update".
    features, seed : int, optional
        As for `index_adapters`; those of the index where one is given.

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
    index = _indexed(collection, by, features, seed)
    error = index.settings["standard_error"]
    least = finite(least, "least", least=5 * error, most=1.0)
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
    names = np.asarray(index.adapters.names, dtype=object)
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


def _indexed(collection: AdapterIndex | Collection, by: str | None, features: int, seed: int) -> AdapterIndex:
    if not isinstance(collection, AdapterIndex):
        return index_adapters(collection, by=by or "B", features=features, seed=seed)
    if by is not None and by != collection.settings["by"]:
        raise ValueError(f"the index was made by {collection.settings['by']}, not by {by}: make another")
    return collection


def _vector(
    adapter: Adapter, *, modules: tuple[str, ...], by: str, features: int, seed: int
) -> Float[np.ndarray, "features"]:
    return features_of(adapter, modules, by, features, seed)


def _in_order(work: Any, runs: AdapterSet, executor: Executor | None) -> Iterator[np.ndarray]:
    if executor is not None:
        yield from executor.map(work, runs)
        return
    found: dict[int, np.ndarray] = {}
    following = 0
    for place, vector in side_by_side(lambda place: work(runs[place]), range(len(runs))):
        found[place] = vector
        while following in found:
            yield found.pop(following)
            following += 1


def _exact(query: Adapter, index: AdapterIndex, places: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Mean similarity over the modules that both have."""
    by = index.settings["by"]
    measure = measure_named("cosine" if by == "update" else "overlap")
    totals, counts = np.zeros(len(places)), np.zeros(len(places))
    for module in index.modules:
        if module not in query:
            continue
        members = [i for i, place in enumerate(places) if module in index.adapters[int(place)]]
        held = [query[module], *(index.adapters[int(places[i])][module] for i in members)]
        alike = [0, *(i for i in range(1, len(held)) if held[i].shape == held[0].shape)]
        if len(alike) < 2:
            continue
        frames = factor_frames(measure, by, [held[i] for i in alike], "cpu")
        values = measure.compare(frames[:1], frames[1:])[0].double().numpy()
        where = np.array([members[i - 1] for i in alike[1:]])
        known = np.isfinite(values)
        totals[where[known]] += values[known]
        counts[where[known]] += 1
    return np.divide(totals, counts, out=np.full(len(places), -1.0), where=counts > 0)
