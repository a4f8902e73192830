"""PEFT's rule for `rank_pattern` and `alpha_pattern`: the first key that matches the end of a module's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

from asym_analysis.errors import AdapterError

__all__ = ["Patterns"]

Value = TypeVar("Value")
_LITERAL = re.compile(r"[\w.]+")


class Patterns(Generic[Value]):
    r"""A mapping from patterns to values, asked with a module's dotted name.

    Each pattern is a regular expression that must match the name's end, from a dot or from the start. Of patterns
    that overlap the first wins, however much more specific a later one is: PEFT's `get_pattern_key`.

    Patterns that are plain names are found by looking up the ends of the module's name, so that a config with an
    entry for every module takes linear time.

    Parameters
    ----------
    patterns
        Pattern -> value, in the order in which they count.

    Raises
    ------
    AdapterError
        If a pattern is not a regular expression.

    Examples
    --------
    >>> patterns = Patterns({"v_proj": 8, "layers.0.self_attn.v_proj": 64, r"layers\.[12]\..*q_proj": 4})
    >>> patterns.first("model.layers.0.self_attn.v_proj"), patterns.first("layers.2.q_proj")
    (8, 4)
    >>> patterns.first("model.v_proj_2") is None
    True
    """

    def __init__(self, patterns: Mapping[str, Value]) -> None:
        self._values = list(patterns.values())
        self._patterns = list(patterns)
        self._plain: dict[str, list[int]] = {}
        self._regular: list[int] = []
        for index, pattern in enumerate(patterns):
            if _LITERAL.fullmatch(pattern):
                self._plain.setdefault(_comparable(pattern), []).append(index)
            else:
                _compiled(pattern)
                self._regular.append(index)

    def first(self, name: str) -> Value | None:
        """Give the value of the first pattern that matches.

        Parameters
        ----------
        name
            A module's dotted name.

        Returns
        -------
        object or None
            The value; None where no pattern matches.
        """
        return next(iter(self.matching(name)), None)

    def matching(self, name: str) -> list[Value]:
        """Give the values of all patterns that match.

        Parameters
        ----------
        name
            A module's dotted name.

        Returns
        -------
        list
            The values, the one that counts first.
        """
        if not self._patterns:
            return []
        candidates = sorted({*self._plain_candidates(name), *self._regular})
        return [self._values[index] for index in candidates if self._matches(self._patterns[index], name)]

    @staticmethod
    def _matches(pattern: str, name: str) -> bool:
        # Compiling is what costs, and a plain name that ends another needs none.
        return name == pattern or name.endswith(f".{pattern}") or _compiled(pattern).match(name) is not None

    def _plain_candidates(self, name: str) -> Iterable[int]:
        starts = [0, *(found.end() for found in re.finditer(r"\.", name))]
        return (index for start in starts for index in self._plain.get(_comparable(name[start:]), ()))

    def __len__(self) -> int:
        return len(self._values)


def _comparable(name: str) -> str:
    # A dot in a pattern stands for any character, in practice for a dot or an underscore of the name.
    return name.replace("_", ".")


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise AdapterError(f"the config's pattern {pattern!r} is not a regular expression: {error}") from error
