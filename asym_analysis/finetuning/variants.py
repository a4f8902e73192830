"""Which factor of a low-rank adapter is trained, and how each is initialized: the paper's notation as an object."""

from __future__ import annotations

from dataclasses import dataclass

from asym_analysis.finetuning.factor_initialization import FactorInitialization
from asym_analysis.finetuning.initializations import INITIALIZATIONS
from asym_analysis.finetuning.notation import parse_variant
from asym_analysis.vocabulary import Factor, Tuned

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """A way to fine-tune an update B·A: how B and A are initialized and which of them is trained.

    Parameters
    ----------
    B, A : FactorInitialization
        The two factors.

    Raises
    ------
    ValueError
        If the update could never leave zero (both factors zero, or a frozen factor zero), or if nothing is trained.

    Examples
    --------
    >>> variant = Variant.parse("hB_0 A_rand")
    >>> variant.B, variant.A
    (FactorInitialization(initialization='zero', trained=True),
     FactorInitialization(initialization='orthonormal', trained=False))
    >>> str(Variant.parse("hB_zero_A_rand")), variant.tuned
    ('hB_0 A_rand', 'B')
    """

    B: FactorInitialization
    A: FactorInitialization

    def __post_init__(self) -> None:
        if not (self.A.trained or self.B.trained):
            raise ValueError(
                "a variant must train B, A or both; mark a trained factor with a leading h, as in hB_0 A_rand"
            )
        if self.B.initialization == self.A.initialization == "zero":
            raise ValueError("both factors are zero at first, where neither has a gradient; let one of them be random")
        for name, factor in (("B", self.B), ("A", self.A)):
            if name not in INITIALIZATIONS[factor.initialization].subscripts:
                raise ValueError(
                    f"{name} has no initialization {factor.initialization!r}, which is of the other factor"
                )
            if factor.initialization == "zero" and not factor.trained:
                raise ValueError(
                    f"{name} is frozen at zero, so the update would stay zero; train it or initialize it otherwise"
                )

    @classmethod
    def parse(cls, text: str) -> Variant:
        r"""Read the notation of the paper ("\\hat B_0 A_rand", "hB_0 A_V") or of its code ("hB_zero_A_rand").

        A leading h, \\hat or a circumflex marks the trained factor. Subscripts: rand or orth (random orthonormal), 0 or
        zero, Km or he (Kaiming uniform), N or gauss (Gaussian), V and U (singular vectors of the pretrained weight,
        right ones for A and left ones for B), V_last and U_last; E (random coordinates), X and X_last (directions in
        which the inputs of A are largest or smallest), Y and Y_last (directions in which the loss is most or least
        sensitive to the outputs of B), G (singular vectors of the first gradient).

        Warns where a strategy string names A first: see `asym_analysis.finetuning.notation`.

        Raises
        ------
        ValueError
            If the text is neither, or the variant cannot train.
        """
        return cls(*parse_variant(text))

    @property
    def tuned(self) -> Tuned:
        """The trained factors."""
        if self.A.trained and self.B.trained:
            return "both"
        return "A" if self.A.trained else "B"

    def __str__(self) -> str:
        return f"{_written('B', self.B)} {_written('A', self.A)}"


def _written(name: Factor, factor: FactorInitialization) -> str:
    return f"{'h' if factor.trained else ''}{name}_{INITIALIZATIONS[factor.initialization].subscripts[name]}"
