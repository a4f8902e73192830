"""An index of thousands of adapters: one vector of random features each, and what finds the largest inner products.

The vectors take time that grows linearly with the collection. Large collections are searched by cells (an inverted
file of faiss): the centres of 8 sqrt(N) cells are found from a fixed number of adapters, each adapter is put into the
cell of the nearest centre, and a question looks into 64 cells, that is at 8 sqrt(N) adapters. The centres are found
from half of the adapters at most: one that made a centre stays with it, whatever it resembles.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapters
from asym_analysis.alignment.random_features import BY, features_of, standard_error
from asym_analysis.alignment.side_by_side import side_by_side
from asym_analysis.chance.overlap import overlap_null
from asym_analysis.errors import AdapterError
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import choose, whole

__all__ = ["AdapterIndex", "Collection", "index_adapters", "vector_of"]

EXHAUSTIVE = 5000  # vectors up to which all are looked at
CELLS = 8  # times the root of the collection's size
PROBED = 64  # cells that are looked into
CENTRED, ROUNDS = 8192, 5  # vectors that the centres are found from, at most, and rounds of k-means
BATCH, IN_FLIGHT = 16, 8  # adapters that an executor gets at a time, and batches that wait for it

Collection = AdapterSet | Adapter | Source | Iterable[Adapter | Source]


@dataclass(frozen=True, eq=False, repr=False)
class AdapterIndex:
    """Feature vectors of a collection of adapters, ready to be asked for neighbours.

    Attributes
    ----------
    adapters
        The collection, in order: adapters, or what opens them when they are asked for.
    names
        Of the adapters.
    modules
        Names of the modules that the features are of.
    vectors
        One row an adapter, float32, of length 1.
    levels
        For each adapter, the mean similarity of an unrelated one of its ranks: rank/d, 0 for updates.
    spreads
        For each adapter, the standard deviation of that similarity, if modules are independent.
    settings
        by, features, seed, standard_error and versions.
    """

    adapters: Sequence[Any]  # of Adapter; a check of every entry's type would open its file
    names: tuple[str, ...]
    modules: tuple[str, ...]
    vectors: Float[np.ndarray, "adapters features"]
    levels: Float[np.ndarray, "adapters"]
    spreads: Float[np.ndarray, "adapters"]
    settings: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        by, features = self.settings["by"], self.vectors.shape[1]
        return f"AdapterIndex({len(self):,} adapters by {by}, {features} features of {len(self.modules)} modules)"

    @cached_property
    def searcher(self) -> Any:
        """The faiss index; one that looks at every vector up to 5,000 adapters, and into cells beyond."""
        faiss = _faiss()
        width, vectors = self.vectors.shape[1], np.ascontiguousarray(self.vectors)
        built: Any = faiss.IndexFlatIP(width)
        if len(self) > EXHAUSTIVE:
            chosen = np.random.default_rng(0).permutation(len(self))[: min(CENTRED, len(self) // 2)]
            cells = min(round(CELLS * len(self) ** 0.5), len(chosen))
            built = faiss.IndexIVFFlat(built, width, cells, faiss.METRIC_INNER_PRODUCT)
            built.nprobe = PROBED
            built.cp.niter, built.cp.spherical = ROUNDS, True
            built.cp.min_points_per_centroid, built.cp.max_points_per_centroid = 1, CENTRED
            built.train(vectors[np.sort(chosen)])
        built.add(vectors)
        return built

    def search(
        self, vectors: Float[np.ndarray, "n features"], count: int
    ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
        """Estimated similarities and places of the adapters most similar to given vectors.

        Parameters
        ----------
        vectors
            From `vector_of`, shape (n, features), float32.
        count
            How many for each; fewer where the collection is smaller.

        Returns
        -------
        tuple
            Similarities, descending, and places in the collection; place -1 where fewer were found.
        """
        values, places = self.searcher.search(np.ascontiguousarray(vectors), min(count, len(self)))
        return values, places

    def add(self, adapters: Collection, *, executor: Executor | None = None, progress: bool = False) -> AdapterIndex:
        """Add adapters behind those that are there; only theirs are the vectors that are made.

        Parameters
        ----------
        adapters : AdapterSet, source or iterable of these
            One or more, with other names.
        executor, progress : optional
            As for `index_adapters`.

        Returns
        -------
        AdapterIndex
            A new index; this one stays as it is.

        Raises
        ------
        AdapterError
            If a name is there already, or an adapter has a module that the index does not know.

        Examples
        --------
        >>> import torch
        >>> run = lambda i: Adapter.from_factors({"q": (torch.eye(2, 8).roll(i, 1), torch.ones(4, 2))}, name=str(i))
        >>> index_adapters([run(0), run(1)], by="A", features=64).add(run(2)).names
        ('0', '1', '2')
        """
        runs = as_adapters([adapters] if isinstance(adapters, Adapter) else adapters)
        known = set(self.names)
        again = [name for name in runs.names if name in known]
        if again:
            raise AdapterError(f"the index holds {', '.join(again[:3])} already: give other names")
        strange = {module for run in runs for module in run} - set(self.modules)
        if strange:
            raise AdapterError(
                f"the index does not know the module {min(strange)}: its features are of {len(self.modules)} others; "
                "make the index again with index_adapters"
            )
        vectors, (levels, spreads) = _vectors(runs, self.modules, self.settings, executor, progress)
        larger = replace(
            self,
            adapters=[*self.adapters, *runs] if isinstance(self.adapters, list) else _Chain(self.adapters, list(runs)),
            names=(*self.names, *runs.names),
            vectors=np.concatenate([self.vectors, vectors]),
            levels=np.concatenate([self.levels, levels]),
            spreads=np.concatenate([self.spreads, spreads]),
        )
        if len(self) > EXHAUSTIVE and "searcher" in self.__dict__:
            searcher = _faiss().clone_index(self.searcher)
            searcher.add(vectors)
            larger.__dict__["searcher"] = searcher
        return larger


class _Chain(Sequence[Adapter]):
    """Two sequences, one behind the other."""

    def __init__(self, first: Sequence[Adapter], second: Sequence[Adapter]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, place: Any) -> Any:
        return self.first[place] if place < len(self.first) else self.second[place - len(self.first)]


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

    Time grows linearly with the collection, and a few adapters are in memory at a time; the vectors take 4 bytes a
    feature. A collection too large to be opened at once is indexed a part at a time, with `AdapterIndex.add`.

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
        Any `concurrent.futures.Executor`; adapters are shared out over it, sixteen at a time. None computes here.
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
    settings = settings_of(by=by, features=features, seed=seed, standard_error=standard_error(features))
    vectors, (levels, spreads) = _vectors(runs, modules, settings, executor, progress)
    return AdapterIndex(list(runs), runs.names, modules, vectors, levels, spreads, settings)


def vector_of(adapter: Adapter, modules: Sequence[str], settings: Mapping[str, Any]) -> Float[np.ndarray, "features"]:
    """The vector of one adapter, as an index of these modules and settings holds it.

    Parameters
    ----------
    adapter
        The adapter.
    modules, settings
        The index's.

    Returns
    -------
    array
        float32, of length 1; zero where the adapter has none of the modules.

    Examples
    --------
    >>> import torch
    >>> run = Adapter.from_factors({"q": (torch.eye(2, 8), torch.ones(4, 2))})
    >>> vector_of(run, ["q"], {"by": "A", "features": 64, "seed": 0}).shape
    (64,)
    """
    return features_of(adapter, modules, settings["by"], settings["features"], settings["seed"])


def _vectors(
    runs: AdapterSet,
    modules: tuple[str, ...],
    settings: Mapping[str, Any],
    executor: Executor | None,
    progress: bool,
) -> tuple[Float[np.ndarray, "adapters features"], Float[np.ndarray, "2 adapters"]]:
    """Features of the adapters, and the mean and standard deviation of the similarity with unrelated ones."""
    work = partial(vector_of, modules=modules, settings={name: settings[name] for name in ("by", "features", "seed")})
    found = np.empty((len(runs), settings["features"]), dtype=np.float32)
    done = _in_threads(work, runs) if executor is None else _shared_out(work, runs, executor)
    for place, vector in tqdm(done, total=len(runs), disable=not progress, unit="adapter"):
        found[place] = vector
    return found, np.array([_chance(run, settings["by"]) for run in runs]).T


def _chance(adapter: Adapter, by: str) -> tuple[float, float]:
    """Mean and standard deviation of the similarity with an unrelated adapter of the same ranks."""
    sources = [adapter.source(module) for module in adapter]
    if not sources:
        return 0.0, 0.0
    times = _repeats(adapter, by)
    if by == "update":
        variances = [1 / (source.d_in * source.d_out) for source in sources]
        return 0.0, float(np.dot(times, variances)) ** 0.5 / len(sources)
    sizes = [source.d_in if by == "A" else source.d_out for source in sources]
    laws = [overlap_null(min(s.rank, d), min(s.rank, d), d) for s, d in zip(sources, sizes, strict=True)]
    variances = [float(law.std) ** 2 for law in laws]
    return float(np.mean([law.mean for law in laws])), float(np.dot(times, variances)) ** 0.5 / len(laws)


def _repeats(adapter: Adapter, by: str) -> list[int]:
    """How many modules hold the very factor of each: a tied one is a single draw, not many."""
    held = []
    for module in adapter:
        update = adapter[module]
        parts = {"A": (update.A,), "B": (update.B,)}.get(by, (update.A, update.B))
        held.append(tuple((part.shape, *part.flatten()[:: max(part.numel() // 8, 1)].tolist()) for part in parts))
    times = Counter(held)
    return [times[one] for one in held]


def _in_threads(work: Callable[[Adapter], np.ndarray], runs: AdapterSet) -> Iterator[tuple[int, np.ndarray]]:
    yield from side_by_side(lambda place: work(runs[place]), range(len(runs)))


def _shared_out(
    work: Callable[[Adapter], np.ndarray], runs: AdapterSet, executor: Executor
) -> Iterator[tuple[int, np.ndarray]]:
    waiting: deque[tuple[int, Future[list[np.ndarray]]]] = deque()
    try:
        for start in range(0, len(runs), BATCH):
            batch = [_portable(runs[place]) for place in range(start, min(start + BATCH, len(runs)))]
            waiting.append((start, executor.submit(_batch, work, batch)))
            if len(waiting) >= IN_FLIGHT:
                yield from _oldest(waiting)
        while waiting:
            yield from _oldest(waiting)
    finally:
        for _, future in waiting:
            future.cancel()


def _batch(work: Callable[[Adapter], np.ndarray], adapters: list[Adapter]) -> list[np.ndarray]:
    return [work(adapter) for adapter in adapters]


def _oldest(waiting: deque[tuple[int, Future[list[np.ndarray]]]]) -> Iterator[tuple[int, np.ndarray]]:
    start, future = waiting.popleft()
    yield from enumerate(future.result(), start)


def _portable(adapter: Adapter) -> Adapter:
    """The adapter itself where it can be pickled, and with its factors in memory where it cannot."""
    try:
        pickle.dumps(adapter)
    except Exception:  # pickle raises whatever the object's own code does
        return adapter.copy()
    return adapter


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("neighbours need faiss: pip install 'asym_analysis[neighbours]'") from error
    return faiss
