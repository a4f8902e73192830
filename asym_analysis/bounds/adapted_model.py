"""The forward pass of an open model with an adapter: beside its linear maps where that can be, else in the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import AppliedAdapter

__all__ = ["AdaptedModel"]

Run = Callable[[dict[str, Any]], Any]


class AdaptedModel:
    """An open model whose forward pass takes an adapter, and whose weights stay as they are.

    Where every module of the adapter is an ordinary linear map in float32 that no other module shares, W x +
    scaling B (A x) is computed without forming the weight: no gradient of the weight's size, no copy of the weights.
    Otherwise W + dW is formed; in 16 bits that is also faster.

    Parameters
    ----------
    adapter
        An adapter of the model; those passed later have its modules and trained tensors.
    model
        The open model.
    head
        Also use the trained tensors outside the modules.

    Attributes
    ----------
    applied
        The adapter and the model's weights that it stands on; removed from the model.

    Raises
    ------
    AdapterError
        If the model does not fit the adapter.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    >>> adapter = Adapter.from_factors({"0": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> adapted = AdaptedModel(adapter, model, head=False)
    >>> before = model(torch.ones(1, 3))
    >>> with torch.no_grad(), adapted.using(adapter) as run:
    ...     moved = run({"input": torch.ones(1, 3)}) - before
    >>> bool(torch.allclose(moved, torch.tensor(3.0)))
    True
    """

    def __init__(self, adapter: Adapter, model: torch.nn.Module, *, head: bool) -> None:
        self.model = model
        self.applied = AppliedAdapter(adapter, model, head=head)
        self.applied.remove()
        self._maps = _linear_maps(adapter, self.applied, model)

    @contextmanager
    def using(self, adapter: Adapter) -> Iterator[Run]:
        """Give the forward pass with an adapter, as a function of the model's keyword arguments.

        Parameters
        ----------
        adapter
            The adapter; gradients reach its tensors.

        Yields
        ------
        callable
            Inputs -> the model's output, within the `with` block.
        """
        merged: Run | None = None

        def in_weights(inputs: dict[str, Any]) -> Any:
            nonlocal merged
            if merged is None:
                changed = self.applied.changed_weights(adapter)
                merged = partial(torch.func.functional_call, self.model, changed, ())
            return merged(inputs)

        if not self._maps:
            yield in_weights
            return
        called: set[str] = set()
        heads = self.applied.changed_heads(adapter)
        hooks = [
            linear.register_forward_hook(_beside(module, adapter, called)) for module, linear in self._maps.items()
        ]

        def beside(inputs: dict[str, Any]) -> Any:
            if not self._maps:
                return in_weights(inputs)
            called.clear()
            output = torch.func.functional_call(self.model, heads, (), inputs)
            if called == self._maps.keys():
                return output
            # Some map is computed from its weight without being called, so that the update must be in the weight.
            self._maps = {}
            for hook in hooks:
                hook.remove()
            return in_weights(inputs)

        try:
            yield beside
        finally:
            for hook in hooks:
                hook.remove()


def _linear_maps(adapter: Adapter, applied: AppliedAdapter, model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Module of the adapter -> its map, or nothing if some module is no linear map of its own."""
    if applied.shared:
        return {}
    found: dict[str, torch.nn.Linear] = {}
    for module, match in applied.matches.items():
        owner, _, name = match.name.rpartition(".")
        linear = model.get_submodule(owner)
        update = adapter[module]
        # Subclasses may be computed in another way; a part of a stack is no map of its own.
        if not isinstance(linear, torch.nn.Linear) or type(linear) is not torch.nn.Linear or name != "weight":
            return {}
        if match.expert is not None or update.magnitude is not None:
            return {}
        if linear.weight.itemsize < 4 or linear.weight.shape != update.shape or linear in found.values():
            return {}
        found[module] = linear
    return found


def _beside(module: str, adapter: Adapter, called: set[str]) -> Callable[[torch.nn.Module, Any, Tensor], Tensor]:
    update = adapter[module]
    factors: list[Tensor] = []

    def hook(linear: torch.nn.Module, given: Any, output: Tensor) -> Tensor:
        called.add(module)
        if not factors:
            factors.extend((update.A.to(output), (update.scaling * update.B).to(output)))
        A, B = factors
        return output + (given[0] @ A.mT) @ B.mT

    return hook
