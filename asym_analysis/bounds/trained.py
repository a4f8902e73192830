"""Trained tensors of an adapter, for each choice of trained factors: what every bound charges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter, ModuleSource, Part
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError
from asym_analysis.vocabulary import FACTORS, Tuned

__all__ = [
    "TensorKey",
    "TrainedFactors",
    "TrainedTensor",
    "has_factors",
    "is_plain",
    "trained_tensors",
    "tuned_of",
    "with_tensors",
]

TensorKey = tuple[str, str]  # (module, part), or (tensor, "head")


@dataclass(frozen=True)
class TrainedTensor:
    """One trained tensor: what the file's header says of it, and how to read it (float32 or float64).

    Attributes
    ----------
    key
        (module, part), or (tensor, "head") for a trained tensor outside the modules.
    shape, dtype
        As in the file; `dtype` is the tensor's own, not that of its module.
    read
        Reads the trained value.
    read_initial
        Reads the value at initialization, where the adapter recorded it. A bound that is centred there needs that
        initialization to be independent of the data.
    """

    key: TensorKey
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor] = field(repr=False)
    read_initial: Callable[[], Tensor] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())


class TrainedFactors(NamedTuple):
    """The trained factors of an adapter, how they are known, and whether the adapter records them."""

    tuned: Tuned
    evidence: str
    recorded: bool


def tuned_of(adapter: Adapter) -> TrainedFactors:
    """The trained factors of an adapter, and how they are known.

    The config's own record comes first, then the recorded initialization: a factor that did not move was frozen. A
    factor that left its recorded initialization was trained, whatever the config says. Without either both count as
    trained, which never charges too little.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    TrainedFactors
        "B", "A" or "both", one clause that says how this is known, and whether it is recorded.

    Examples
    --------
    >>> A, B = torch.randn(2, 6), torch.randn(5, 2)
    >>> start = Adapter.from_factors({"q": (A, torch.zeros(5, 2))})
    >>> tuned_of(Adapter.from_factors({"q": (A, B)}, initial=start)).tuned
    'B'
    """
    records = {adapter.source(module).trained for module in adapter}
    if records and None not in records:
        said = frozenset().union(*(record for record in records if record is not None))
        more = _moved(adapter) - said
        if more:
            return TrainedFactors("both", f"{min(more)} left its recorded initialization", recorded=True)
        return TrainedFactors(_name(said), "the adapter's config", recorded=True)
    if adapter.initial is not None and set(adapter) <= set(adapter.initial):
        moved = _moved(adapter)
        if moved:
            frozen = {"A", "B"} - moved
            why = f"{frozen.pop()} equals its recorded initialization" if frozen else "both left their initialization"
            return TrainedFactors(_name(moved), why, recorded=True)
    return TrainedFactors("both", "not recorded: both are charged", recorded=False)


def is_plain(source: ModuleSource) -> bool:
    """Say whether a module's trained tensors are A and B of its own (and a magnitude), stored entry by entry.

    Parameters
    ----------
    source
        The module.

    Returns
    -------
    bool
        False for AdaLoRA, LoHa, VeRA and others whose trained numbers are not the entries of A and B.
    """
    if not source.parts:
        return True
    trained = source.trained_parts()
    sizes = {"A": source.rank * source.d_in, "B": source.d_out * source.rank}
    return {"A", "B"} <= set(trained) <= {"A", "B", "magnitude"} and all(
        trained[factor].size == size for factor, size in sizes.items()
    )


def has_factors(adapter: Adapter) -> bool:
    """Say whether "B alone" or "A alone" means anything: some module trains a part named A or B.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    bool
        False where every module trains only parts of another kind, such as VeRA's vectors.
    """
    sources = (adapter.source(module) for module in adapter)
    return any(is_plain(source) or {"A", "B"} & set(source.trained_parts()) for source in sources)


def trained_tensors(adapter: Adapter, tuned: Tuned, *, include_head: bool) -> Iterator[TrainedTensor]:
    """The tensors that a bound charges, in the file's order: parts of the modules, then the other trained tensors.

    Parameters
    ----------
    adapter
        The adapter.
    tuned
        The trained factors. Trained parts that are neither A nor B, such as DoRA's magnitude and AdaLoRA's E, are
        charged whatever the factors.
    include_head
        Also give the trained tensors that belong to no module.

    Yields
    ------
    TrainedTensor
        Each once: a tensor that several modules share belongs to the first.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> [(t.key, t.size) for t in trained_tensors(adapter, "B", include_head=True)]
    [(('q', 'B'), 2)]
    """
    factors = FACTORS if tuned == "both" else (tuned,)
    seen: set[str] = set()
    for module in adapter:
        source = adapter.source(module)
        if is_plain(source):
            yield from _plain_tensors(adapter, module, source, factors)
            continue
        for name, part in source.trained_parts(factors).items():
            if not part.tensor or part.tensor not in seen:
                seen.add(part.tensor)
                initial = _initial_part(adapter.initial, module, name, part)
                yield TrainedTensor((module, name), part.shape, part.dtype, _as_float(part.read), initial)
    if include_head:
        for name, extra in adapter.extras.items():
            start = adapter.initial
            initial = _as_float(start.extras[name].read) if start is not None and name in start.extras else None
            yield TrainedTensor((name, "head"), tuple(extra.shape), extra.dtype, _as_float(extra.read), initial)


def with_tensors(adapter: Adapter, values: Mapping[TensorKey, Tensor], *, name: str | None = None) -> Adapter:
    """The same adapter with some of its trained tensors replaced; the others are read from `adapter` as before.

    Parameters
    ----------
    adapter
        The adapter.
    values
        Key of a trained tensor -> its new value. A tensor that several modules share is replaced in all of them.
    name
        Of the new adapter; by default the old one.

    Returns
    -------
    Adapter
        A new adapter; `adapter` does not change.

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
    shared: dict[str, Tensor] = {}
    extras = dict(adapter.extras)
    for (owner, part), tensor in values.items():
        if part == "head" and owner in extras:
            extras[owner] = replace(extras[owner], read=partial(torch.clone, tensor))
            continue
        source = adapter.source(owner) if owner in adapter else None
        known = {*FACTORS, "magnitude"} if source is not None and is_plain(source) else set()
        if source is None or part not in known | set(source.parts):
            raise AdapterError(f"{adapter.name} has no trained tensor {part} of {owner!r}")
        by_module.setdefault(owner, {})[part] = tensor
        if not is_plain(source) and source.parts[part].tensor:
            shared[source.parts[part].tensor] = tensor
    for module in adapter if shared else ():
        source = adapter.source(module)
        if not is_plain(source):
            same = {key: shared[part.tensor] for key, part in source.parts.items() if part.tensor in shared}
            if same:
                by_module.setdefault(module, {}).update(same)
    modules = {module: _replaced(adapter, module, parts) for module, parts in by_module.items()}
    return adapter.replaced(name=name, modules=modules, extras=extras)


def _plain_tensors(
    adapter: Adapter, module: str, source: ModuleSource, factors: tuple[str, ...]
) -> Iterator[TrainedTensor]:
    shapes = {"A": (source.rank, source.d_in), "B": (source.d_out, source.rank), "magnitude": (source.d_out,)}
    names = [*factors, *(["magnitude"] if "magnitude" in source.parts else [])]
    start = adapter.initial
    for name in names:
        dtype = source.parts[name].dtype if name in source.parts else source.dtype
        initial = _reader(start, module, name) if start is not None and module in start else None
        if name == "magnitude" and start is not None and module in start and start[module].magnitude is None:
            initial = None
        yield TrainedTensor((module, name), shapes[name], dtype, _reader(adapter, module, name), initial)


def _initial_part(start: Adapter | None, module: str, name: str, part: Part) -> Callable[[], Tensor] | None:
    if start is None or module not in start:
        return None
    recorded = start.source(module).parts.get(name)
    return _as_float(recorded.read) if recorded is not None and recorded.shape == part.shape else None


def _replaced(adapter: Adapter, module: str, values: Mapping[str, Tensor]) -> ModuleSource:
    """A source of one module that keeps its description and reads other values."""
    source = adapter.source(module)
    plain = is_plain(source)

    def read() -> LowRankUpdate:
        if not plain:
            return source.read_with(values)
        # A step of a training only looks at what it keeps.
        training = any(value.grad_fn is not None for value in values.values())
        update = adapter.view(module) if training else adapter[module]
        # Where the new values lie, the others go too.
        update = update.on(next(iter(values.values())).device)
        new: dict[str, Any] = {part: value.to(update.A) for part, value in values.items()}
        return replace(update, **new)

    parts = {name: _held(part, values[name]) if name in values else part for name, part in source.parts.items()}
    return replace(source, read=read, parts=parts)


def _held(part: Part, value: Tensor) -> Part:
    """The part with another value, in the part's own layout."""
    if tuple(value.shape) == part.shape:
        return replace(part, read=partial(torch.clone, value))
    return replace(part, read=lambda: value.mT.reshape(part.shape).clone())


def _reader(adapter: Adapter, module: str, part: str) -> Callable[[], Tensor]:
    return lambda: getattr(adapter[module], part)


def _as_float(read: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def found() -> Tensor:
        value = read()
        return value if value.dtype in (torch.float32, torch.float64) else value.float()

    return found


def _moved(adapter: Adapter) -> frozenset[str]:
    """Factors of which a module's left the recorded initialization."""
    start = adapter.initial
    if start is None:
        return frozenset()
    known = [module for module in adapter if module in start]
    return frozenset(
        factor for factor in FACTORS if any(not _equal(adapter, start, module, factor) for module in known)
    )


def _equal(adapter: Adapter, start: Adapter, module: str, factor: str) -> bool:
    """Whether a factor is its recorded initialization, rounded to the dtype that the adapter is stored in."""
    a, b = getattr(adapter[module], factor), getattr(start[module], factor)
    if a.shape != b.shape:
        return False
    if torch.equal(a, b.to(a)):
        return True
    source = adapter.source(module)
    dtype = getattr(torch, source.parts[factor].dtype if factor in source.parts else source.dtype, None)
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point and torch.equal(a, b.to(dtype).to(a))


def _name(moved: frozenset[str]) -> Tuned:
    return "both" if moved == {"A", "B"} else "B" if "B" in moved else "A"
