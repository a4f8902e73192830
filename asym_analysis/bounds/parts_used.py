"""Which parts of an adapter an evaluation uses: each is replaced by noise alone, and some loss must change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.trained import TensorKey, is_plain, trained_tensors, with_tensors
from asym_analysis.vocabulary import FACTORS, Tuned

__all__ = ["Measured", "ignored_parts"]

Measured = Callable[[Adapter], Float[np.ndarray, "some"]]

MOST_MODULES = 16  # tried one by one; of more, those of one projection together
SIZES = (8.0, -64.0, 64.0, -8.0)  # of the noise, over the part's own


def ignored_parts(
    name: str, function: Measured, adapter: Adapter, tuned: Tuned, before: Float[np.ndarray, "some"], *, head: bool,
    seed: int,
) -> list[str]:  # fmt: skip
    """Find parts of an adapter that an evaluation does not use.

    Parameters
    ----------
    name
        Of the caller's function.
    function
        The losses that it gives for an adapter.
    adapter
        The checkpoint.
    tuned
        Its trained factors.
    before
        Its losses.
    head
        Whether the trained tensors outside the modules are charged, and must be used.
    seed
        Of the noise.

    Returns
    -------
    list of str
        One sentence for each kind of part: modules, trained parts that are neither A nor B, tensors outside the
        modules, and the scaling. An adapter with one part is not probed: `examine` replaces all of it.
    """
    ignored = [
        label
        for label, changed in _changed(adapter, tuned, head=head, seed=seed)
        if not any(_differs(function, one, before) for one in changed)
    ]
    if not ignored:
        return []
    some = ", ".join(ignored[:3]) + (f" and {len(ignored) - 3} more" if len(ignored) > 3 else "")
    return [
        f"{name} gives the same losses when {some} is changed alone: it may not use all of the adapter that it gets"
    ]


def _differs(function: Measured, adapter: Adapter, before: Float[np.ndarray, "some"]) -> bool:
    try:
        return bool((function(adapter) != before).any())
    except ValueError:
        return True


def _changed(adapter: Adapter, tuned: Tuned, *, head: bool, seed: int) -> Iterator[tuple[str, Iterator[Adapter]]]:
    """Name of each part, and adapters in which it alone is changed."""
    parts = _parts(adapter, tuned, head=head)
    for label, keys in parts.items() if len(parts) > 1 else ():
        noisy = _with_noise(adapter, tuned, keys, head=head, seed=seed)
        first = next(noisy)
        if _moves(adapter, first, keys):
            yield label, chain([first], noisy)
    scaled = [m for m in adapter if adapter.source(m).scaling != 1 and is_plain(adapter.source(m))]
    if scaled and any(adapter[m].frobenius_norm() > 0 for m in scaled):
        yield "the scaling (alpha)", (_with_scaling(adapter, scaled, size) for size in SIZES)


def _parts(adapter: Adapter, tuned: Tuned, *, head: bool) -> dict[str, list[TensorKey]]:
    found: dict[str, list[TensorKey]] = {}
    by_module = len(adapter) <= MOST_MODULES
    for tensor in trained_tensors(adapter, tuned, include_head=head):
        owner, part = tensor.key
        if part == "head":
            label = owner
        elif part in FACTORS:
            label = owner if by_module else f"every {place(owner)['projection']}"
        else:
            label = f"every {part}"
        found.setdefault(label, []).append(tensor.key)
    return found


def _moves(adapter: Adapter, noisy: Adapter, keys: list[TensorKey]) -> bool:
    """Whether noise in a part changes an update at all: B = 0 hides A."""
    owners = {owner for owner, part in keys if part != "head"}
    if not owners:
        return True
    return any(noisy[m].magnitude is not None or not torch.equal(noisy[m].delta(), adapter[m].delta()) for m in owners)


def _with_noise(adapter: Adapter, tuned: Tuned, keys: list[TensorKey], *, head: bool, seed: int) -> Iterator[Adapter]:
    wanted = set(keys)
    for number, size in enumerate(SIZES):
        generator, values = generator_for(seed, "part", number), {}
        for tensor in trained_tensors(adapter, tuned, include_head=head):
            if tensor.key in wanted:
                value = tensor.read()
                scale = float(value.double().square().mean().sqrt()) if value.numel() else 0.0
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                values[tensor.key] = size * (scale or 1 / 16) * noise
        yield with_tensors(adapter, values)


def _with_scaling(adapter: Adapter, modules: list[str], size: float) -> Adapter:
    """Another scaling, as a loader would read it from another alpha; the name and all else stay."""
    changed = {}
    for module in modules:
        update = adapter[module]
        changed[module] = replace(update, scaling=size * update.scaling)
    sources = adapter.with_updates(changed)
    return adapter.with_modules({module: sources.source(module) for module in modules})
