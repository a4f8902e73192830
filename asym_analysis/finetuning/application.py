"""Put a variant on a PEFT model: initial values into its LoRA layers, and the untrained factor frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.initializations import ModuleStatistics, generator_for, initial_factor
from asym_analysis.finetuning.variants import Variant

__all__ = ["apply_variant", "base_weight", "initial_factors", "lora_layers"]


def lora_layers(peft_model: nn.Module, adapter: str = "default") -> dict[str, Any]:
    """Find PEFT's LoRA layers, by the name that the module has in the base model.

    Parameters
    ----------
    peft_model : Module
        A model from `peft.get_peft_model`.
    adapter : str, default "default"
        PEFT's name for the adapter.

    Returns
    -------
    dict
        Module -> its LoRA layer: over a linear map, an embedding, a convolution or attention.

    Raises
    ------
    ValueError
        If the model has none under that adapter name.

    Examples
    --------
    >>> import peft
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 3)), peft.LoraConfig(target_modules=["0"], r=2))
    >>> list(lora_layers(model))
    ['0']
    """
    from peft.tuners.lora import LoraLayer

    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in peft_model.named_modules()
        if isinstance(module, LoraLayer) and (adapter in module.lora_A or adapter in module.lora_embedding_A)
    }
    if not layers:
        raise ValueError(f"the model has no LoRA layer for adapter {adapter!r}; wrap it with peft.get_peft_model first")
    return layers


@torch.no_grad()
def apply_variant(
    peft_model: nn.Module,
    variant: Variant,
    seed: int,
    *,
    adapter: str = "default",
    storage_dtype: torch.dtype = torch.float32,
    statistics: Mapping[str, ModuleStatistics] | None = None,
    others: Mapping[str, Variant] | None = None,
) -> dict[str, Tensor]:
    """Initialize every LoRA layer of a PEFT model as the variant says, and freeze the factor that it does not train.

    Parameters
    ----------
    peft_model : Module
        A model from `peft.get_peft_model` with LoRA on linear maps, embeddings, convolutions or
        `torch.nn.MultiheadAttention`.
    variant : Variant
        Which factor is trained, and how each is initialized.
    seed : int
        Of the random values. The same seed gives a module of the same name and shape the same values, whatever the
        task.
    adapter : str, default "default"
        PEFT's name for the adapter.
    storage_dtype : dtype, optional
        The initial values are rounded to this dtype, so that a file of it holds them exactly.
    statistics : mapping of str to ModuleStatistics, optional
        Module -> what `measure_statistics` found, for variants that place a factor by data.
    others : mapping of str to Variant, optional
        Module, or the end of its name -> the variant that it has in place of `variant`.

    Returns
    -------
    dict
        A copy of the initial factors under the keys that PEFT stores (see `initial_factors`).

    Raises
    ------
    AdapterError
        If a layer's update is not one product B·A (a convolution in groups, a stack of experts), or the rank is above
        a layer's width; the message names the module. If `others` names a module that has no LoRA layer.
    ValueError
        If the model has no LoRA layer.

    Examples
    --------
    >>> import peft
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 3)), peft.LoraConfig(target_modules=["0"], r=2))
    >>> initial = apply_variant(model, Variant.parse("hB_0 A_rand"), seed=0)
    >>> {key.removeprefix("base_model.model."): tuple(value.shape) for key, value in initial.items()}
    {'0.lora_A.weight': (2, 4), '0.lora_B.weight': (3, 2)}
    >>> [name for name, value in model.named_parameters() if value.requires_grad]
    ['base_model.model.0.lora_B.default.weight']
    """
    found = {name: _factors(name, layer, adapter) for name, layer in lora_layers(peft_model, adapter).items()}
    chosen = _variants(list(found), variant, others or {})
    for name, layer in found.items():
        rank, own = layer.A.shape[0], chosen[name]
        for factor, wanted, parameter in (("A", own.A, layer.A), ("B", own.B, layer.B)):
            generator = generator_for(seed, name, factor)  # type: ignore[arg-type]
            try:
                value = initial_factor(
                    factor,  # type: ignore[arg-type]
                    wanted.initialization,
                    layer.weight,
                    rank,
                    generator,
                    (statistics or {}).get(name),
                )
            except AdapterError as error:
                raise AdapterError(f"module {name}: {error}") from None
            parameter.copy_(value.to(storage_dtype).view(parameter.shape))
            parameter.requires_grad_(wanted.trained)
    return initial_factors(peft_model, adapter)


def _variants(modules: list[str], variant: Variant, others: Mapping[str, Variant]) -> dict[str, Variant]:
    """The variant of each module."""
    chosen = dict.fromkeys(modules, variant)
    for wanted, other in others.items():
        named = [name for name in modules if name == wanted or name.endswith(f".{wanted}")]
        if not named:
            raise AdapterError(f"no LoRA layer is called {wanted}, which was to have a variant of its own")
        chosen |= dict.fromkeys(named, other)
    return chosen


def initial_factors(peft_model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """Copy the factors with their present values, under the keys of `adapter_model.safetensors`, without heads.

    Parameters
    ----------
    peft_model : Module
        A model from `peft.get_peft_model`.
    adapter : str, default "default"
        PEFT's name for the adapter.

    Returns
    -------
    dict
        Key of PEFT -> the tensor, on the CPU.

    Examples
    --------
    >>> import peft
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 3)), peft.LoraConfig(target_modules=["0"], r=2))
    >>> sorted(initial_factors(model))
    ['base_model.model.0.lora_A.weight', 'base_model.model.0.lora_B.weight']
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    marks = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")
    return {
        key: value.detach().cpu().clone() for key, value in state.items() if any(mark in f"{key}." for mark in marks)
    }


@dataclass(frozen=True, eq=False)
class _Factors:
    """The factors of one layer as parameters, and its pretrained weight as (d_out, d_in)."""

    A: nn.Parameter
    B: nn.Parameter
    weight: Float[Tensor, "d_out d_in"]


def _factors(name: str, layer: Any, adapter: str) -> _Factors:
    from peft.tuners.lora import layer as kinds

    if isinstance(layer, kinds.ParamWrapper):
        raise AdapterError(
            f"module {name} adapts a bare parameter of shape {tuple(layer.get_param().shape)}; variants apply to "
            "linear maps, embeddings, convolutions and attention"
        )
    weight = base_weight(name, layer)
    if isinstance(layer, kinds.Embedding):
        return _Factors(layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter], weight)
    return _Factors(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, weight)


def base_weight(name: str, layer: Any, weight: Tensor | None = None) -> Float[Tensor, "d_out d_in"]:
    """Turn the weight of a LoRA layer, or another tensor of its shape, into the matrix that B·A is added to.

    Parameters
    ----------
    name, layer
        The module.
    weight
        The tensor to turn, such as a gradient; the pretrained weight if None.

    Returns
    -------
    Tensor
        Shape (d_out, d_in), float32, on the CPU. Embeddings and transformers' Conv1D store it the other way round; the
        kernel of a convolution is flattened.

    Raises
    ------
    AdapterError
        If the layer is a convolution in groups, whose update is not one matrix.
    """
    inner = layer.get_base_layer()
    if weight is None:
        weight = inner.in_proj_weight if isinstance(inner, nn.MultiheadAttention) else inner.weight
    assert weight is not None
    weight = weight.detach().float().cpu()
    if isinstance(inner, nn.modules.conv._ConvNd):
        if inner.groups != 1:
            raise AdapterError(
                f"module {name} is a convolution in {inner.groups} groups, whose update is not one product B·A; leave "
                "it out of target_modules"
            )
        return weight.flatten(1)
    if isinstance(inner, nn.Embedding) or getattr(layer, "fan_in_fan_out", False):
        return weight.T
    return weight
