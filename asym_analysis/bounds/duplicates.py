"""Samples that repeat each other: copies and near copies in texts or arrays, which break independence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import finite

__all__ = ["Duplicates", "find_duplicates", "repeats_across_groups"]

SHINGLE = 5  # words in a row
HASHES = 64  # of the MinHash signature


@dataclass(frozen=True, eq=False)
class Duplicates(Result):
    """How many samples repeat another one.

    Attributes
    ----------
    groups
        A label for each sample: samples that repeat each other, directly or through others, share one. It can be
        passed to `certify` as `groups`.
    within
        Share of the samples that repeat another of the same sample.
    across
        Share of the samples that repeat one of the other sample; NaN where none was given.
    settings
        Counts, threshold and versions.

    Notes
    -----
    `frame` has one row: samples, groups, within, across.
    """

    groups: np.ndarray
    within: float
    across: float
    settings: Any

    @property
    def frame(self) -> pd.DataFrame:
        """One row; columns as in the class's docstring."""
        row = {"samples": len(self.groups), "groups": len(np.unique(self.groups))}
        return pd.DataFrame([row | {"within": self.within, "across": self.across}])


def find_duplicates(
    samples: Sequence[Any] | np.ndarray, others: Sequence[Any] | np.ndarray | None = None, *, threshold: float = 0.8
) -> Duplicates:
    """Find samples that are copies or near copies of each other.

    Parameters
    ----------
    samples : sequence of str or sequence of array or array
        Texts, arrays such as the token ids of each sample, or one array with a sample a row.
    others : sequence of str or sequence of array or array, optional
        Samples that a prior was trained on, to compare with as well.
    threshold : float, default 0.8
        For texts, the share of common runs of five words (of all words, in shorter texts) above which one of two is a
        near copy: Jaccard similarity, estimated by MinHash. Case, spacing, punctuation and ways of writing the same
        letter do not count. Arrays repeat each other where they are equal to six digits; arrays of different lengths,
        such as token ids, are compared as texts.

    Returns
    -------
    Duplicates
        Groups, and the shares of samples that repeat others.

    Raises
    ------
    ValueError
        If samples are neither texts nor numbers, or texts are compared with arrays.

    References
    ----------
    .. [1] A. Broder, On the resemblance and containment of documents, SEQUENCES 1997.

    Examples
    --------
    >>> found = find_duplicates(["a good film", "a good film", "a bad film"])
    >>> found.groups.tolist(), round(found.within, 2)
    ([0, 0, 1], 0.67)
    """
    finite(threshold, "threshold", above=0, most=1)
    size = len(samples)
    whole = [*samples, *(others if others is not None else [])]
    labels = _labels(whole, threshold) if whole else np.zeros(0, dtype=int)
    own, rest = labels[:size], labels[size:]
    counts = pd.Series(own).map(pd.Series(own).value_counts())
    groups = pd.factorize(own)[0]
    return Duplicates(
        groups=groups,
        within=float((counts > 1).mean()) if size else 0.0,
        across=float(np.isin(own, rest).mean()) if others is not None and size else float("nan"),
        settings=settings_of(samples=size, others=len(rest), threshold=threshold),
    )


def repeats_across_groups(copies: np.ndarray, groups: np.ndarray | None) -> float:
    """Share of the samples that repeat a sample of another group.

    Parameters
    ----------
    copies
        A label for each sample, which samples that repeat each other share.
    groups
        A label for each sample, which samples of one group share; None where every sample stands for itself.

    Returns
    -------
    float
        Copies within one group count once in any case.

    Examples
    --------
    >>> repeats_across_groups(np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "c"]))
    0.5
    """
    if not len(copies):
        return 0.0
    labels = np.arange(len(copies)) if groups is None else pd.factorize(np.asarray(groups))[0]
    return float((pd.Series(labels).groupby(copies).transform("nunique") > 1).mean())


def _labels(samples: list[Any], threshold: float) -> np.ndarray:
    """A label for each sample, which copies and near copies share."""
    texts = sum(isinstance(sample, str) for sample in samples)
    if 0 < texts < len(samples):
        raise ValueError("texts are compared with arrays: give both samples in one form")
    if texts:
        return _of_texts(samples, threshold)
    try:
        arrays = [np.asarray(sample, dtype=np.float64).reshape(-1) for sample in samples]
    except (TypeError, ValueError):
        raise ValueError("samples are neither texts nor numbers: give the texts, or one array a sample") from None
    if len({array.size for array in arrays}) == 1:
        return _of_arrays(np.stack(arrays))
    return _of_texts([" ".join(map(str, array.tolist())) for array in arrays], threshold)  # such as token ids


def _of_arrays(flat: np.ndarray) -> np.ndarray:
    finite = np.isfinite(flat)
    scale = np.abs(flat[finite]).max(initial=0.0) or 1.0
    with np.errstate(invalid="ignore"):
        rounded = np.where(finite, np.round(flat / scale, 6), np.nan_to_num(flat, nan=2.0, posinf=3.0, neginf=-3.0))
    return np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1)


def _of_texts(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Connected components of near copies, found by MinHash signatures in bands."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    signatures = np.stack([_signature(text) for text in texts])
    rows = 4
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for band in range(0, HASHES, rows):
        keys = np.unique(signatures[:, band : band + rows], axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        first, second = order[:-1][same], order[1:][same]
        close = (signatures[first] == signatures[second]).mean(axis=1) >= threshold
        links.append((first[close], second[close]))
    first, second = (np.concatenate(part) for part in zip(*links, strict=True))
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(texts),) * 2)
    return connected_components(graph, directed=False)[1]


_PRIME = (1 << 61) - 1
_draw = np.random.default_rng(0)
_SLOPES, _OFFSETS = (_draw.integers(1, 1 << 31, HASHES, dtype=np.uint64) for _ in range(2))


def _words(text: str) -> list[str]:
    """Words without case, punctuation, spacing, invisible characters and ways of writing the same letter."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return re.findall(r"\w+", plain) or plain.split()


def _signature(text: str) -> np.ndarray:
    import zlib

    words = _words(text)
    runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1))}
    if len(words) < SHINGLE:
        runs |= set(words)
    codes = np.array([zlib.crc32(run.encode()) for run in runs], dtype=np.uint64)
    return ((codes[:, None] * _SLOPES + _OFFSETS) % np.uint64(_PRIME)).min(axis=0)
