"""Scores of generated sequences: edit distance, and ROUGE by n-grams and by longest common subsequence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

__all__ = ["edit_distance", "rouge"]


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other.

    Examples
    --------
    >>> edit_distance("kitten", "sitting")
    3
    """
    row = np.arange(len(second) + 1)
    for symbol in first:
        replaced = row[:-1] + np.array([symbol != other for other in second], dtype=int)
        best = np.concatenate([[row[0] + 1], np.minimum(replaced, row[1:] + 1)])
        # Insertions run along the row: the running minimum of best[j] - j does them all at once.
        steps = np.arange(len(best))
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures of one summary, each 0 to 1.

    Words are runs of letters and digits, lower-cased, without stemming. Source: Lin (2004), "ROUGE: a package for
    automatic evaluation of summaries".

    Examples
    --------
    >>> rouge("the cat sat", "the cat ran")
    {'rouge1': 0.666..., 'rouge2': 0.5, 'rougeL': 0.666...}
    """
    words, expected = (re.findall(r"[^\W_]+", text.lower()) for text in (prediction, reference))
    scores = {}
    for n in (1, 2):
        found, wanted = (Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for tokens in (words, expected))
        scores[f"rouge{n}"] = _f_measure((found & wanted).total(), found.total(), wanted.total())
    common = _longest_common_subsequence(words, expected)
    scores["rougeL"] = _f_measure(common, len(words), len(expected))
    return scores


def _f_measure(common: int, found: int, wanted: int) -> float:
    return 2 * common / (found + wanted) if found + wanted else 0.0


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = np.zeros(len(second) + 1, dtype=int)
    for word in first:
        extended = row[:-1] + np.array([word == other for other in second], dtype=int)
        row = np.concatenate([[0], np.maximum.accumulate(np.maximum(extended, row[1:]))])
    return int(row[-1])
