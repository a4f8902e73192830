"""A fact that a checkpoint leaves open, and the value that was taken for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Assumption"]


@dataclass(frozen=True)
class Assumption:
    """A fact that a checkpoint leaves open, the value that was taken for it, and how to give the right one.

    Attributes
    ----------
    what
        ``"scale"``, ``"orientation"``, ``"layout"`` or ``"initialization"``.
    value
        The value taken, with the reason.
    remedy
        What to write to give the right one.

    Examples
    --------
    >>> print(Assumption("scale", "1, since no alpha is recorded", "give alpha= or scale="))
    the scale is assumed to be 1, since no alpha is recorded; give alpha= or scale=
    """

    what: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"the {self.what} is assumed to be {self.value}; {self.remedy}"
