"""Checks of arguments that several least-squares functions take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from asym_analysis.vocabulary import TUNED, Tuned, choose, whole

__all__ = ["TunedChoice", "each_tuned", "whole_numbers"]

TunedChoice = Tuned | Sequence[Tuned]
"""One choice of trained factors, or several."""


def each_tuned(tuned: TunedChoice, allowed: Iterable[str] = TUNED) -> tuple[Tuned, ...]:
    """Check one or several choices of trained factors.

    Parameters
    ----------
    tuned
        "A", "B", "both", or a sequence of them.
    allowed
        What this function knows how to do.

    Returns
    -------
    tuple
        The choices, in the order given.

    Raises
    ------
    ValueError
        If one is not allowed, or none is given.

    Examples
    --------
    >>> each_tuned("both"), each_tuned(["B", "A"])
    (('both',), ('B', 'A'))
    """
    given = (tuned,) if isinstance(tuned, str) else tuple(tuned)
    if not given:
        raise ValueError('tuned is empty: give "A", "B", "both" or several of them')
    allowed = tuple(allowed)
    return tuple(cast(Tuned, choose(choice, allowed, "tuned")) for choice in given)


def whole_numbers(values: int | Sequence[int], name: str, least: int = 1) -> list[int]:
    """Check one or several whole numbers.

    Parameters
    ----------
    values
        A number, or a sequence of them.
    name
        The argument's name, for the message.
    least
        Inclusive limit.

    Returns
    -------
    list
        The numbers.

    Raises
    ------
    ValueError
        If one is not a whole number of at least `least`, or none is given.

    Examples
    --------
    >>> whole_numbers(8, "ranks"), whole_numbers([1, 2], "ranks")
    ([8], [1, 2])
    """
    given = list(values) if isinstance(values, Iterable) else [values]
    if not given:
        raise ValueError(f"{name} is empty: give at least one whole number")
    return [whole(value, name, least=least) for value in given]
