"""Names of the two factors, and checks of arguments that every public function uses."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, cast

__all__ = ["FACTORS", "TUNED", "Factor", "Tuned", "checked_device", "choose", "finite", "whole"]

#: One factor of an update dW = scaling · B·A.
Factor = Literal["A", "B"]
#: The trained factors of an adapter: B alone, A alone, or both.
Tuned = Literal["B", "A", "both"]

FACTORS: tuple[Factor, ...] = ("A", "B")
TUNED: tuple[Tuned, ...] = ("B", "A", "both")


def choose(value: Any, allowed: Iterable[str], name: str) -> str:
    """Check that an argument is one of the allowed strings.

    Parameters
    ----------
    value
        What the caller gave.
    allowed
        The strings that are accepted.
    name
        The argument's name, for the message.

    Returns
    -------
    str
        `value`, unchanged.

    Raises
    ------
    ValueError
        If `value` is not one of `allowed`. The message lists them and suggests the closest.

    Examples
    --------
    >>> choose("B", TUNED, "tuned")
    'B'
    >>> choose("bth", TUNED, "tuned")
    Traceback (most recent call last):
    ValueError: tuned is 'bth', which is not one of B, A, both; did you mean 'both'?
    """
    options = tuple(allowed)
    if isinstance(value, str) and value in options:
        return value
    folded = {option.casefold(): option for option in options}
    close = [folded[name] for name in get_close_matches(str(value).casefold(), folded, n=1)]
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} is {value!r}, which is not one of {', '.join(options)}{hint}")


def whole(value: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """Check that an argument is a whole number in a range.

    Parameters
    ----------
    value
        What the caller gave. A float with a whole value is accepted; a bool is not.
    name
        The argument's name, for the message.
    least, most
        Inclusive limits; None for no limit.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ValueError
        If `value` is not a finite whole number in the range.

    Examples
    --------
    >>> whole(8, "rank", least=1)
    8
    >>> whole(0, "rank", least=1)
    Traceback (most recent call last):
    ValueError: rank is 0: give a whole number of at least 1
    """
    number = _number(value)
    if number is not None and math.isfinite(number) and number == int(number) and _inside(number, least, most):
        return int(number)
    raise ValueError(f"{name} is {value!r}: give a whole number{_range(least, most)}")


def finite(
    value: Any,
    name: str,
    *,
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
) -> float:
    """Check that an argument is a finite number in a range.

    Parameters
    ----------
    value
        What the caller gave.
    name
        The argument's name, for the message.
    least, most
        Inclusive limits; None for no limit.
    above, below
        Exclusive limits; None for no limit.

    Returns
    -------
    float
        The number.

    Raises
    ------
    ValueError
        If `value` is not a finite number in the range.

    Examples
    --------
    >>> finite(0.95, "confidence", above=0, below=1)
    0.95
    >>> finite(float("nan"), "confidence", above=0, below=1)
    Traceback (most recent call last):
    ValueError: confidence is nan: give a finite number above 0 and below 1
    """
    number = _number(value)
    if number is not None and math.isfinite(number) and _inside(number, least, most) and _between(number, above, below):
        return float(number)
    raise ValueError(f"{name} is {value!r}: give a finite number{_range(least, most, above, below)}")


def checked_device(device: Any) -> Any:
    """Check that tensors can be put on a device.

    Parameters
    ----------
    device : str or torch.device or None
        What the caller gave; None for the CPU.

    Returns
    -------
    str or torch.device
        `device`, or "cpu".

    Raises
    ------
    ValueError
        If there is no such device, or torch was built without it.

    Examples
    --------
    >>> checked_device(None)
    'cpu'
    """
    import torch

    if device is None:
        return "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which is not to be had here ({reason}): use 'cpu'") from error
    return device


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool) or (not isinstance(value, numbers.Real) and not hasattr(value, "item")):
        return None
    try:
        number = cast("float | int", value.item() if hasattr(value, "item") else value)
        float(number)
    except (ValueError, RuntimeError, OverflowError):  # an array of several numbers; an integer beyond every float
        return None
    return number


def _inside(number: float | int, least: float | int | None, most: float | int | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)


def _between(number: float | int, above: float | int | None, below: float | int | None) -> bool:
    return (above is None or number > above) and (below is None or number < below)


def _range(*limits: float | int | None) -> str:
    named = zip(("of at least", "of at most", "above", "below"), limits, strict=False)
    words = [f"{word} {limit:g}" for word, limit in named if limit is not None]
    return " " + " and ".join(words) if words else ""
