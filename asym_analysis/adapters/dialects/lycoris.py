"""Add LyCORIS's LoHa and LoKr updates of a module, whichever file they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.products import HadamardPair, KroneckerPair
from asym_analysis.errors import AdapterValueError

__all__ = ["add_hadamard", "add_kronecker"]

_HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b")


Shape = tuple[int, ...]


def add_hadamard(
    ledger: Ledger,
    module: str,
    parts: Mapping[str, str],
    scaling: Callable[[int], float],
    also: tuple[str, ...] = (),
    weight_shape: Callable[[Shape | None], Shape | None] | None = None,
) -> None:
    """Add a LoHa update.

    Parameters
    ----------
    ledger
        The account that the module is added to.
    module
        The module's name.
    parts
        ``hada_w1_a``, ... -> tensor's name; `magnitude` is kept, anything else is refused.
    scaling
        Scale for the rank of the two matrices.
    also
        Tensors that went into the scaling.
    weight_shape
        The weight's shape, from the one that the tensors show (None for a matrix), where more is known.

    Raises
    ------
    AdapterValueError
        If one of the four matrices is missing.
    """
    named = _named(parts, "hada_")
    missing = [part for part in _HADAMARD if part not in named]
    if missing or ("t1" in named) != ("t2" in named):
        raise AdapterValueError(f"LoHa without {', '.join(missing) or 'one of its two Tucker cores'}")
    shape = {part: ledger.tensors[tensor].shape for part, tensor in named.items()}
    if any(len(shape[part]) != 2 or 0 in shape[part] for part in _HADAMARD):
        raise AdapterValueError(f"LoHa of shapes {', '.join(f'{part} {shape[part]}' for part in _HADAMARD)}")
    shown = (*shape["w1_a"][1:2], *shape["w1_b"][1:2], *shape["t1"][2:]) if "t1" in shape else None
    layout = Layout(shown if weight_shape is None else weight_shape(shown))
    ledger.add(module, named, HadamardPair(), scaling(shape["w1_b"][0]), layout=layout, also=also)


def add_kronecker(
    ledger: Ledger,
    module: str,
    parts: Mapping[str, str],
    scaling: Callable[[int | None], float],
    also: tuple[str, ...] = (),
    weight_shape: Callable[[Shape | None], Shape | None] | None = None,
) -> None:
    """Add a LoKr update.

    Parameters
    ----------
    ledger, module, also, weight_shape
        As for `add_hadamard`.
    parts
        ``lokr_w1`` or ``lokr_w1_a`` and ``lokr_w1_b``, likewise for w2, ``lokr_t2`` -> tensor's name.
    scaling
        Scale for the rank, which is None where both matrices are given whole.

    Raises
    ------
    AdapterValueError
        If a matrix is missing.
    """
    named = _named(parts, "lokr_")
    shape = {part: ledger.tensors[tensor].shape for part, tensor in named.items()}
    for which in ("w1", "w2"):
        if which not in named and not {f"{which}_a", f"{which}_b"} <= named.keys():
            raise AdapterValueError(f"LoKr without {which}, or {which}_a and {which}_b")
    matrices = [part for part in named if part not in ("t2", "w2", "magnitude")]
    if any(len(shape[part]) != 2 for part in matrices) or len(shape.get("w2", (1, 1))) < 2:
        raise AdapterValueError(f"LoKr of shapes {', '.join(f'{part} {shape[part]}' for part in named)}")
    # The core's first axis is the rank: with a core, w2_b is (rank, channels) like w1_b.
    rank = next((shape[part][0] for part in ("w1_b", "w2_b") if part in shape), None)
    shown = _kronecker_shape(shape)
    layout = Layout(shown if weight_shape is None else weight_shape(shown))
    ledger.add(module, named, KroneckerPair(), scaling(rank), layout=layout, also=also)


def _kronecker_shape(shape: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    rows, columns = shape["w1"] if "w1" in shape else (shape["w1_a"][0], shape["w1_b"][-1])
    if "w2" in shape and len(shape["w2"]) > 2:
        out, channels, *kernel = shape["w2"]
    elif "t2" in shape and "w2_a" in shape:
        out, channels, kernel = shape["w2_a"][-1], shape["w2_b"][-1], list(shape["t2"][2:])
    else:
        return None
    return (rows * out, columns * channels, *kernel)


def _named(parts: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {part.removeprefix(prefix): tensor for part, tensor in parts.items()}
