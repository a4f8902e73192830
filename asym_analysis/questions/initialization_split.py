"""Which factor did the work? What the initial factors carry, how far each factor moved, and at what effective rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import Moments, by_projection, moment_of, table_of
from asym_analysis.results import Result, settings_of

__all__ = ["InitializationStatistics", "initialization_statistics"]


@dataclass(frozen=True, eq=False, repr=False)
class InitializationStatistics(Result):
    """The two parts of an update, dW = s B A0 + s B (A - A0), and what training did to each factor.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection
        - through_initial: ||s B A0||_F, what a frozen A would have given with this B
        - through_movement: ||s B (A - A0)||_F
        - cosine: of the two parts
        - initial_share: through_initial^2 over the sum of both squares; 1 where A was frozen
        - rate_of_A: s^2 ||B||_2^2, by which a step of A moves the update; rate_of_B: s^2 ||A||_2^2
        - rate_ratio: rate_of_B / rate_of_A
        - A_moved, B_moved: ||A - A0|| / ||A0||, and of B (NaN for a factor initialized at zero)
        - A_stretch, B_stretch: ||A|| / ||A0||; A_turn, B_turn: angle between the factor and its initialization, in
          radians (NaN if initialized at zero)
        - B_condition: largest over smallest singular value of B; B_condition_null: of a random
          matrix of that shape, (1 + sqrt(r/d)) / (1 - sqrt(r/d))
        - B_cosine: largest |cosine| between two columns of B
        - B_cosine_null: expected largest |cosine| of as many random columns
        - feature_change: E||A x||^2 / E||A0 x||^2 with input moments; NaN without
    refused
        Module -> why it could not be measured.
    settings
        adapter, versions.
    """

    frame: pd.DataFrame
    refused: Mapping[str, str]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_initialization_split"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules of each projection.

        Returns
        -------
        DataFrame
            `projection`, then `initial_share, cosine, rate_ratio, A_moved, B_moved, A_turn, B_condition,
            feature_change`.
        """
        columns = [
            "initial_share",
            "cosine",
            "rate_ratio",
            "A_moved",
            "B_moved",
            "A_turn",
            "B_condition",
            "feature_change",
        ]
        return by_projection(self.frame, columns)

    def __repr__(self) -> str:
        return (
            f"InitializationStatistics({len(self.frame)} modules, median share through A0 "
            f"{self.frame.initial_share.median():.2f})"
        )


def initialization_statistics(
    adapter: Any, initial: Any | None = None, *, moments: Moments | None = None
) -> InitializationStatistics:
    """Split an update into what the initial A carries and what its movement carries, with the rates of both factors.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    initial : object, optional
        The initial factors; by default those that the adapter recorded.
    moments : mapping, optional
        Module -> second moment of its inputs, for `feature_change`.

    Returns
    -------
    InitializationStatistics
        One row a module.

    Raises
    ------
    AdapterError
        If no initial factors are known, or no module could be measured.

    References
    ----------
    .. [1] S. Hayou, N. Ghosh, B. Yu, The impact of initialization on LoRA finetuning dynamics, arXiv 2406.08447.
    .. [2] S. Hayou and others, LoRA+, arXiv 2402.12354, for the effective rates.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> start = Adapter.from_factors({"q": (torch.eye(2, 4), torch.zeros(3, 2))})
    >>> frozen = Adapter.from_factors({"q": (torch.eye(2, 4), torch.eye(3, 2))}, initial=start)
    >>> initialization_statistics(frozen).frame[["initial_share", "A_moved"]].values.tolist()
    [[1.0, 0.0]]
    """
    read = as_adapter(adapter)
    start = as_adapter(initial) if initial is not None else read.initial
    if start is None:
        raise AdapterError(
            f"{read.name} does not record its initial factors: give them as initial=, or save them beside the "
            "adapter as initial.safetensors"
        )
    rows, refused = [], {}
    for module in read:
        try:
            update, before = read[module], start[module]
            if update.A.shape != before.A.shape or update.B.shape != before.B.shape:
                raise AdapterError("the initial factors have other shapes than the trained ones")
            moment = None if moments is None else moment_of(moments, module, update.d_in)
            rows.append({**place(module), **_row(update, before, moment)})
        except AdapterError as error:
            refused[module] = str(error)
    frame = table_of(rows, refused, "the initialization's share")
    return InitializationStatistics(frame, refused, settings_of(adapter=read.name))


def _row(update: LowRankUpdate, before: LowRankUpdate, moment: Tensor | None) -> dict[str, Any]:
    A, B = update.A.double(), update.B.double()
    A0, B0 = before.A.double(), before.B.double()
    scale = abs(update.scaling)
    # ||B X||^2 = Tr(X^T (B^T B) X) for X = A0 and A - A0: no d_out x d_in matrix is formed.
    gram = B.mT @ B
    moved = A - A0
    first, second = (math.sqrt(max(float(((gram @ X) * X).sum()), 0.0)) for X in (A0, moved))
    crossed = float(((gram @ A0) * moved).sum())
    total = first**2 + second**2
    rates = [scale**2 * torch.linalg.matrix_norm(F, ord=2).item() ** 2 for F in (B, A)]
    columns = torch.linalg.svdvals(B)
    energies = None if moment is None else [float(((F @ moment) * F).sum()) for F in (A, A0)]
    return {
        "through_initial": scale * first,
        "through_movement": scale * second,
        "cosine": crossed / (first * second) if first * second > 0 else math.nan,
        "initial_share": first**2 / total if total > 0 else math.nan,
        "rate_of_A": rates[0],
        "rate_of_B": rates[1],
        "rate_ratio": rates[1] / rates[0] if rates[0] > 0 else math.inf,
        **_movement("A", A, A0),
        **_movement("B", B, B0),
        "B_condition": (columns[0] / columns[-1]).item() if columns[-1] > 0 else math.inf,
        "B_condition_null": _random_condition(*B.shape),
        "B_cosine": _largest_cosine(B),
        "B_cosine_null": _random_largest_cosine(*B.shape),
        "feature_change": math.nan if energies is None or energies[1] == 0 else energies[0] / energies[1],
    }


def _movement(name: str, now: Tensor, then: Tensor) -> dict[str, float]:
    length, before = now.norm().item(), then.norm().item()
    if before == 0:
        return {f"{name}_moved": math.nan, f"{name}_stretch": math.nan, f"{name}_turn": math.nan}
    # The sine branch is exact where the factor hardly turned.
    unit_now, unit_then = now / length if length else now, then / before
    turn = 2 * math.asin(min(1.0, (unit_now - unit_then).norm().item() / 2)) if length else math.nan
    return {
        f"{name}_moved": (now - then).norm().item() / before,
        f"{name}_stretch": length / before,
        f"{name}_turn": turn,
    }


def _random_condition(d: int, rank: int) -> float:
    """Condition number of a large Gaussian matrix (Marchenko and Pastur)."""
    ratio = math.sqrt(rank / d)
    return (1 + ratio) / (1 - ratio) if ratio < 1 else math.inf


def _largest_cosine(B: Tensor) -> float:
    if B.shape[1] < 2:
        return math.nan
    unit = B / B.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    gram = (unit.mT @ unit).abs()
    return gram.fill_diagonal_(0).max().item()


def _random_largest_cosine(d: int, rank: int) -> float:
    """Median of the largest of rank (rank - 1)/2 absolute cosines between random directions."""
    from scipy.stats import beta

    pairs = rank * (rank - 1) / 2
    if pairs < 1 or d < 2:
        return math.nan
    return math.sqrt(beta.ppf(0.5 ** (1 / pairs), 0.5, (d - 1) / 2))
