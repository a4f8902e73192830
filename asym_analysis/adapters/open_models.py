"""Adapters in memory: state dicts and open PEFT models, copied as they are when they are loaded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asym_analysis.adapters.adapter import Adapter, ModuleSource
from asym_analysis.adapters.base_weights import BaseWeights
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers import InMemoryTensor
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor

__all__ = [
    "active_adapter",
    "is_peft_model",
    "keep_values",
    "memory_checkpoint",
    "model_checkpoint",
    "with_current_scales",
]


def is_peft_model(source: Any) -> bool:
    """Tell whether an object is a model that PEFT has wrapped."""
    return isinstance(getattr(source, "peft_config", None), dict) and hasattr(source, "state_dict")


def active_adapter(model: Any) -> str:
    """Name of an open PEFT model's active adapter; its first, where several are active."""
    active = getattr(model, "active_adapter", None)
    return active if isinstance(active, str) else next(iter(model.peft_config))


def memory_checkpoint(source: Any) -> Checkpoint:
    """Make a checkpoint of a state dict, or of a module's.

    Raises
    ------
    AdapterError
        If it is no mapping of names to tensors.
    """
    state = source.state_dict() if hasattr(source, "state_dict") else source
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AdapterError(
            f"an adapter cannot be loaded from a {type(source).__name__}: give a path, a Hugging Face id, an open PEFT "
            "model, or a mapping of parameter names to tensors"
        )
    return Checkpoint(_sources(state), source="the state dict", container="memory")


def model_checkpoint(model: Any, adapter: str) -> Checkpoint:
    """Make a checkpoint of one adapter of an open PEFT model, with the names that PEFT would write to a file."""
    peft = sys.modules["peft"]  # a model that PEFT wrapped means that PEFT is imported
    state = peft.get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    config = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in model.peft_config[adapter].to_dict().items()
    }
    where = f"the open model's adapter {adapter!r}"
    return Checkpoint(_sources(state), config=config, source=where, container="memory", base=_own_base(model))


def _own_base(model: Any) -> BaseWeights | None:
    """The base weights under an open PEFT model; None where an adapter is merged into them."""
    if any(getattr(layer, "merged_adapters", None) for layer in model.modules()):
        return None
    layers = {name for name, module in model.get_base_model().named_modules() if hasattr(module, "base_layer")}
    weights = {}
    for name, value in model.get_base_model().state_dict().items():
        owner, inside, leaf = name.rpartition(".base_layer.")
        if inside or not any(name.startswith(f"{layer}.") for layer in layers):
            weights[f"{owner}.{leaf}" if inside else name] = value
    return BaseWeights(weights) if weights else None


def keep_values(adapter: Adapter, checkpoint: Checkpoint) -> Adapter:
    """Copy the tensors that the adapter uses, so that later training does not change it."""
    for name in adapter.coverage.used:
        read = checkpoint.tensors[name].read
        if isinstance(read, InMemoryTensor):
            read.snapshot()
    return adapter


@dataclass(frozen=True)
class _Rescaled:
    """Makes a module's update with another scaling than its config gives."""

    make: Callable[..., LowRankUpdate]
    scaling: float

    def __call__(self, *parts: Mapping[str, Tensor]) -> LowRankUpdate:
        return replace(self.make(*parts), scaling=self.scaling)


def with_current_scales(adapter: Adapter, model: Any, name: str) -> Adapter:
    """Take the scales from an open model's layers, where `set_scale` or `scale_layer` may have changed them."""
    layers = {path.removeprefix("base_model.model."): layer for path, layer in model.named_modules()}
    changed: dict[str, ModuleSource] = {}
    for module in adapter:
        source = adapter.source(module)
        scaling = source.scaling * _rescaling(layers.get(module), name, model.peft_config[name])
        if abs(scaling - source.scaling) > 1e-9 * abs(source.scaling):
            make = None if source.make is None else _Rescaled(source.make, scaling)
            changed[module] = replace(source, scaling=scaling, read=_Rescaled(source.read, scaling), make=make)
    return adapter.with_modules(changed) if changed else adapter


def _rescaling(layer: Any, name: str, config: Any) -> float:
    """The factor between a layer's scaling now and the one that its alpha and rank gave it."""
    current, rank = (_number(getattr(layer, part, None), name) for part in ("scaling", "r"))
    alpha = _number(getattr(layer, "lora_alpha", None), name) or _number(getattr(layer, "alpha", None), name)
    if not current or not rank or not alpha:
        return 0.0 if current == 0.0 and alpha else 1.0
    rank += _number(getattr(layer, "hybrid_r", None), name) or 0.0  # GraLoRA's pair beside the blocks
    if hasattr(layer, "ranknum"):  # AdaLoRA divides by its rank when the layer is used
        return current / alpha
    return current * (math.sqrt(rank) if getattr(config, "use_rslora", False) else rank) / alpha


def _number(values: Any, name: str) -> float | None:
    value = values.get(name) if isinstance(values, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sources(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: InMemoryTensor.source(tensor.detach()) for name, tensor in state.items()}
