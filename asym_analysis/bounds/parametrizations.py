"""Trained numbers of low-rank parametrizations at given shapes, and the count bound that follows from each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.information import mutual_information_gap
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import choose, finite, whole

__all__ = ["PARAMETRIZATIONS", "ParametrizationTable", "compare_parametrizations", "parameter_count"]

Shape = tuple[int, int]  # (d_out, d_in)
Count = Callable[[Sequence[Shape], int], int]


def _each(count: Callable[[int, int, int], int]) -> Count:
    """Sum a count over modules."""
    return lambda shapes, rank: sum(count(d_out, d_in, rank) for d_out, d_in in shapes)


def _factors(size: int) -> tuple[int, int]:
    """The two factors of a number that are closest to its square root, the smaller first: LoKr's split."""
    small = max(i for i in range(1, math.isqrt(size) + 1) if size % i == 0)
    return small, size // small


def _lokr(d_out: int, d_in: int, rank: int) -> int:
    out_small, out_large = _factors(d_out)
    in_small, in_large = _factors(d_in)
    second = rank * (out_large + in_large) if rank < max(out_large, in_large) / 2 else out_large * in_large
    return out_small * in_small + second


def _mora(d_out: int, d_in: int, rank: int) -> int:
    return math.isqrt((d_in + d_out) * rank) ** 2


def _super(shapes: Sequence[Shape], rank: int) -> int:
    """All weights of one group as one square matrix (side rounded up), with rank-r factors."""
    side = math.isqrt(sum(d_out * d_in for d_out, d_in in shapes) - 1) + 1
    return 2 * rank * side


def _quantum(d_out: int, d_in: int, rank: int) -> int:
    """Pauli parametrization of two orthonormal factors with one layer of entanglement, and the r singular values."""
    qubits = ((d - 1).bit_length() for d in (d_out, d_in))
    return sum(3 * q - 2 for q in qubits if q) + min(rank, d_out, d_in)


@dataclass(frozen=True)
class Parametrization:
    """A way to train a low-rank update.

    Attributes
    ----------
    count
        Trained numbers from the shapes (d_out, d_in) of all modules and the rank.
    formula
        For one module, in words and symbols.
    reference
        The paper.
    """

    count: Count
    formula: str
    reference: str


PARAMETRIZATIONS: Mapping[str, Parametrization] = MappingProxyType(
    {
        "LoRA": Parametrization(_each(lambda o, i, r: r * (o + i)), "r (d_in + d_out)", "arXiv 2106.09685"),
        "LoRA (B only)": Parametrization(_each(lambda o, i, r: r * o), "r d_out", "arXiv 2402.16842"),
        "LoRA (A only)": Parametrization(_each(lambda o, i, r: r * i), "r d_in", "arXiv 2402.16842"),
        "DoRA": Parametrization(_each(lambda o, i, r: r * (o + i) + o), "r (d_in + d_out) + d_out", "arXiv 2402.09353"),
        "AdaLoRA": Parametrization(_each(lambda o, i, r: r * (o + i + 1)), "r (d_in + d_out + 1)", "arXiv 2303.10512"),
        "VeRA": Parametrization(_each(lambda o, i, r: o + r), "d_out + r", "arXiv 2310.11454"),
        "LoRA-XS": Parametrization(_each(lambda o, i, r: min(r, o, i) ** 2), "r^2 (r <= d)", "arXiv 2405.17604"),
        "LoHa": Parametrization(_each(lambda o, i, r: 2 * r * (o + i)), "2 r (d_in + d_out)", "arXiv 2108.06098"),
        "LoKr": Parametrization(
            _each(_lokr), "a_out a_in + r (d_out/a_out + d_in/a_in), a the factors nearest the root", "arXiv 2309.14859"
        ),
        "VB-LoRA": Parametrization(
            lambda shapes, r: 256 * 256 + sum(r * (o + i) // 256 * 255 for o, i in shapes),
            "h b, shared (h = b = 256), + 255 logits for each of r (d_in + d_out)/b sub-vectors", "arXiv 2405.15179",
        ),
        "Uni-LoRA": Parametrization(lambda shapes, r: 256, "256, shared by all modules", "arXiv 2506.00799"),
        "MoRA": Parametrization(_each(_mora), "floor(sqrt(r (d_in + d_out)))^2", "arXiv 2405.12130"),
        "LoRA-Mini": Parametrization(
            _each(lambda o, i, r: 2 * r * r), "r (a + b), inner widths a = b = r", "arXiv 2411.15804"
        ),
        "SuperLoRA": Parametrization(_super, "2 r ceil(sqrt(sum d_in d_out)), one group", "arXiv 2403.11887"),
        "Quantum-PEFT": Parametrization(
            _each(_quantum), "3 log2 d_in + 3 log2 d_out - 4 + r, one layer", "arXiv 2503.05431"
        ),
    }
)  # fmt: skip


def parameter_count(method: str, shapes: Iterable[Shape], rank: int) -> int:
    """Numbers that a parametrization trains.

    Parameters
    ----------
    method : str
        A name of `PARAMETRIZATIONS`.
    shapes : iterable of tuple of (int, int)
        (d_out, d_in) of each adapted module.
    rank : int
        r, at least 1.

    Returns
    -------
    int
        The count, over all modules.

    Raises
    ------
    ValueError
        For an unknown method, a rank or size below 1, or no module.

    Examples
    --------
    >>> parameter_count("LoRA", [(64, 32)], 8), parameter_count("VeRA", [(64, 32)], 8)
    (768, 72)
    """
    choose(method, PARAMETRIZATIONS, "method")
    whole(rank, "rank", least=1)
    sizes = [(whole(o, "d_out", least=1), whole(i, "d_in", least=1)) for o, i in shapes]
    if not sizes:
        raise ValueError("shapes is empty: give (d_out, d_in) of at least one module")
    return PARAMETRIZATIONS[method].count(sizes, rank)


class ParametrizationTable(TableResult):
    """The count bound of several parametrizations at one rank.

    Attributes
    ----------
    frame
        One row a parametrization, fewest numbers first:

        - method, formula, reference
        - parameters: trained numbers over all modules
        - bits: parameters times the bits of one number
        - gap: bound on the expected generalization gap, sigma sqrt(2 ln 2 bits/n)
        - relative: `gap` over that of LoRA
        - vacuous: True where the gap is at least the loss's range, 2 sigma
    settings
        rank, n_samples, bits, sub_gaussian, number of modules, versions.
    """


def compare_parametrizations(
    shapes: Iterable[Shape] | Adapter, rank: int, n_samples: int, *, bits: float | int = 16, sub_gaussian: float = 0.5
) -> ParametrizationTable:
    """The count bound of every parametrization on the same modules, at equal rank.

    Parameters
    ----------
    shapes : iterable of tuple of (int, int) or Adapter
        (d_out, d_in) of each adapted module, or an adapter that has these modules.
    rank : int
        r of every method.
    n_samples : int
        Number of training samples.
    bits : float or int, default 16
        Bits of one trained number.
    sub_gaussian : float, default 0.5
        Half the range of the loss.

    Returns
    -------
    ParametrizationTable
        Bounds in expectation. They say what a count guarantees, not how well a method learns: a method that trains
        fewer numbers may have the larger training loss.

    References
    ----------
    .. [1] docs/theory.md, sections 1.3 and 5.2 (Lemma 4.5 of arXiv 2402.16842).

    Examples
    --------
    >>> table = compare_parametrizations([(768, 768)] * 24, 8, 3668).frame.set_index("method")
    >>> table.loc[["LoRA (B only)", "LoRA"], "relative"].round(3).tolist()
    [0.707, 1.0]
    """
    if isinstance(shapes, Adapter):
        shapes = [(shapes.source(module).d_out, shapes.source(module).d_in) for module in shapes]
    sizes = list(shapes)
    whole(n_samples, "n_samples", least=1)
    finite(bits, "bits", least=1)
    finite(sub_gaussian, "sub_gaussian", above=0)
    rows = []
    for method, what in PARAMETRIZATIONS.items():
        count = parameter_count(method, sizes, rank)
        gap = mutual_information_gap(count * bits * math.log(2), n_samples, sub_gaussian)
        row = {
            "method": method,
            "parameters": count,
            "bits": count * bits,
            "gap": gap,
            "vacuous": gap >= 2 * sub_gaussian,
        }
        rows.append(row | {"formula": what.formula, "reference": what.reference})
    frame = pd.DataFrame(rows)
    lora = frame.loc[frame["method"] == "LoRA", "gap"].item()
    frame.insert(4, "relative", frame["gap"] / lora)
    frame = frame.sort_values("parameters", kind="stable", ignore_index=True)
    return ParametrizationTable(
        frame,
        settings_of(rank=rank, n_samples=n_samples, bits=bits, sub_gaussian=sub_gaussian, modules=len(sizes)),
    )
