"""Whether adapters can be compared: they share modules, and have each in one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapters
from asym_analysis.errors import AdapterError

__all__ = ["common_shape", "sharing_adapters"]


def sharing_adapters(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source], least: int = 1
) -> AdapterSet:
    """A set of adapters of which at least two share a module, where there are two.

    Parameters
    ----------
    adapters
        A set, or anything that `load_adapters` reads.
    least
        The least number of adapters.

    Returns
    -------
    AdapterSet
        The adapters.

    Raises
    ------
    AdapterError
        If there are fewer, or no two share a module.

    Examples
    --------
    >>> import torch
    >>> runs = [Adapter.from_factors({"q": (torch.ones(1, 2), torch.ones(2, 1))}, name=name) for name in "ab"]
    >>> sharing_adapters(runs, least=2).names
    ('a', 'b')
    """
    runs = as_adapters(adapters)
    if len(runs) < least:
        raise AdapterError(f"at least {least} adapters are needed; only {', '.join(runs.names)} was given")
    if len(runs) > 1 and not runs.modules:
        raise AdapterError("no two adapters share a module name: were they trained on the same base model?")
    return runs


def common_shape(module: str, shapes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Shape (d_out, d_in) of a module, the same for all adapters.

    Parameters
    ----------
    module
        Its name, for the message.
    shapes
        Name of each adapter that has the module -> its shape.

    Returns
    -------
    tuple
        d_out and d_in.

    Raises
    ------
    AdapterError
        If two adapters have the module in different shapes.

    Examples
    --------
    >>> common_shape("q", {"a": (4, 8), "b": (4, 8)})
    (4, 8)
    """
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            (d_out, d_in), (other_out, other_in) = shapes[first], shape
            raise AdapterError(
                f"module {module} is {d_out} x {d_in} in {first} and {other_out} x {other_in} in {name}: they adapt "
                "different base models; compare them separately"
            )
    return shapes[first]
