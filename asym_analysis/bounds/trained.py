"""Which tensors of an adapter the data have touched, under each way of tuning: what every bound has to charge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter, ModuleSource
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError

__all__ = ["TUNED", "TensorKey", "TrainedTensor", "Tuned", "as_tuned", "regime_of", "trained_tensors", "with_tensors"]

Tuned = Literal["B", "A", "both"]
TUNED: tuple[Tuned, ...] = ("B", "A", "both")
TensorKey = tuple[str, str]  # (module, "A" | "B" | "magnitude"), or (tensor, "head")


@dataclass(frozen=True)
class TrainedTensor:
    """One trained tensor: what the file's header says of it, and how to read it (float32 or float64).

    `read_start` gives the value at initialization, where the adapter recorded it; a bound that is centred there needs
    that start to be independent of the data.
    """

    key: TensorKey
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor] = field(repr=False)
    read_start: Callable[[], Tensor] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())


def regime_of(adapter: Adapter) -> tuple[Tuned, str]:
    """Which factors were trained, and how that is known.

    The config's own record comes first, then the recorded initialization: a factor that did not move was frozen.
    Without either both count as trained, which is never too little.

    Examples
    --------
    >>> A, B = torch.randn(2, 6), torch.randn(5, 2)
    >>> start = Adapter.from_factors({"q": (A, torch.zeros(5, 2))})
    >>> regime_of(Adapter.from_factors({"q": (A, B)}, initial=start))
    ('B', 'A equals its recorded initialization')
    """
    records = {adapter.source(module).trained for module in adapter}
    if records and None not in records:
        moved = frozenset().union(*(record for record in records if record is not None))
        return _name(moved), "the adapter's config"
    if adapter.initial is not None and set(adapter) <= set(adapter.initial):
        moved = frozenset(
            factor
            for factor in ("A", "B")
            if any(not _equal(adapter[module], adapter.initial[module], factor) for module in adapter)
        )
        if moved:
            frozen = {"A", "B"} - moved
            why = f"{frozen.pop()} equals its recorded initialization" if frozen else "both left their initialization"
            return _name(moved), why
    return "both", "not recorded: both are charged"


def trained_tensors(adapter: Adapter, tuned: Tuned, *, include_head: bool) -> Iterator[TrainedTensor]:
    """The tensors that a bound charges, in the file's order: factors, DoRA magnitudes, then the other trained tensors.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> [(t.key, t.size) for t in trained_tensors(adapter, "B", include_head=True)]
    [(('q', 'B'), 2)]
    """
    with_magnitude = set(adapter.coverage.used.values())
    start = adapter.initial
    for module in adapter:
        source = adapter.source(module)
        shapes = {"A": (source.rank, source.d_in), "B": (source.d_out, source.rank)}
        for factor in ("A", "B") if tuned == "both" else (tuned,):
            begun = _reader(start, module, factor) if start is not None and module in start else None
            yield TrainedTensor((module, factor), shapes[factor], source.dtype, _reader(adapter, module, factor), begun)
        if f"magnitude of {module}" in with_magnitude:
            reader = _reader(adapter, module, "magnitude")
            yield TrainedTensor((module, "magnitude"), (source.d_out,), source.dtype, reader)
    if include_head:
        for name, extra in adapter.extras.items():
            begun = start.extras[name].read if start is not None and name in start.extras else None
            yield TrainedTensor((name, "head"), tuple(extra.shape), extra.dtype, extra.read, begun)


def with_tensors(adapter: Adapter, values: Mapping[TensorKey, Tensor], *, name: str | None = None) -> Adapter:
    """The same adapter with some of its trained tensors replaced; the others are read from `adapter` as before.

    Raises
    ------
    AdapterError
        If a key names no tensor of the adapter.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> with_tensors(adapter, {("q", "B"): torch.zeros(2, 1)})["q"].frobenius_norm()
    0.0
    """
    by_module: dict[str, dict[str, Tensor]] = {}
    extras = dict(adapter.extras)
    for (owner, part), tensor in values.items():
        if part == "head" and owner in extras:
            extras[owner] = replace(extras[owner], read=partial(_same, tensor))
        elif part in ("A", "B", "magnitude") and owner in adapter:
            by_module.setdefault(owner, {})[part] = tensor
        else:
            raise AdapterError(f"{adapter.name} has no trained tensor {part} of {owner!r}")

    def reader(module: str) -> Callable[[], LowRankUpdate]:
        def read() -> LowRankUpdate:
            update = adapter[module]
            new: dict[str, Any] = {part: value.to(update.A) for part, value in by_module[module].items()}
            return replace(update, **new)

        return read

    modules: dict[str, ModuleSource] = {}
    for module in adapter:
        source = adapter.source(module)
        modules[module] = replace(source, read=reader(module)) if module in by_module else source
    return Adapter(
        modules,
        name=name or adapter.name,
        metadata=adapter.metadata,
        extras=extras,
        coverage=adapter.coverage,
        initial=adapter.initial,
    )


def as_tuned(name: str) -> Tuned:
    """The name of a way of tuning, checked.

    Raises
    ------
    ValueError
        If it is none of "B", "A" and "both".

    Examples
    --------
    >>> as_tuned("B")
    'B'
    """
    for tuned in TUNED:
        if name == tuned:
            return tuned
    raise ValueError(f"tuned must be 'auto', 'B', 'A' or 'both', not {name!r}")


def _reader(adapter: Adapter, module: str, part: str) -> Callable[[], Tensor]:
    return lambda: getattr(adapter[module], part)


def _equal(first: LowRankUpdate, second: LowRankUpdate, factor: str) -> bool:
    a, b = getattr(first, factor), getattr(second, factor)
    return a.shape == b.shape and torch.equal(a, b.to(a))


def _name(moved: frozenset[str]) -> Tuned:
    return "both" if moved == {"A", "B"} else "B" if "B" in moved else "A"


def _same(tensor: Tensor) -> Tensor:
    return tensor
