"""Every similarity measure, with its formula's source, the invariances it declares and its null distribution."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from asym_analysis.subspaces.measures.matrix import MATRIX
from asym_analysis.subspaces.measures.measure import FACTORS, Frames, Measure
from asym_analysis.subspaces.measures.principal import PRINCIPAL
from asym_analysis.subspaces.measures.update import UPDATE

__all__ = ["FACTORS", "MEASURES", "Frames", "Measure", "measure_named"]

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {measure.name: measure for measure in (*PRINCIPAL, *MATRIX, *UPDATE)}
)


def measure_named(name: str) -> Measure:
    """The registered measure of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.

    Examples
    --------
    >>> sorted(measure_named("overlap").invariances)
    ['gauge', 'orthogonal', 'scale', 'symmetric']
    """
    try:
        return MEASURES[name]
    except KeyError:
        raise ValueError(f"no measure is called {name!r}; there are: {', '.join(MEASURES)}") from None
