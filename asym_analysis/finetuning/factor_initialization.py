"""How one factor of an adapter is initialized, and whether training moves it."""

from __future__ import annotations

from dataclasses import dataclass

from asym_analysis.finetuning.initializations import INITIALIZATIONS
from asym_analysis.vocabulary import choose

__all__ = ["FactorInitialization"]


@dataclass(frozen=True)
class FactorInitialization:
    """How one factor is initialized, and whether training moves it.

    Parameters
    ----------
    initialization : str
        A name of `asym_analysis.finetuning.initializations.INITIALIZATIONS`, such as "zero" or "orthonormal".
    trained : bool
        Whether the factor is trained.

    Raises
    ------
    ValueError
        If there is no such initialization.
    """

    initialization: str
    trained: bool

    def __post_init__(self) -> None:
        choose(self.initialization, INITIALIZATIONS, "initialization")
