"""Put a variant on a PEFT model: start values into its LoRA layers, and the untrained factor frozen."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from asym_analysis.finetuning.factor_start import FactorStart
from asym_analysis.finetuning.initializations import generator_for, initial_factor
from asym_analysis.finetuning.variants import Variant

__all__ = ["apply_variant", "initial_factors", "lora_layers"]


def lora_layers(peft_model: nn.Module, adapter: str = "default") -> dict[str, Any]:
    """PEFT's LoRA layers over a linear map (Linear, Conv1D), by the name that the module has in the base model.

    Raises
    ------
    ValueError
        If the model has none under that adapter name.
    """
    from peft.tuners.lora import LoraLayer

    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in peft_model.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
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
) -> dict[str, Tensor]:
    """Start every LoRA layer of a PEFT model as the variant says, and freeze the factor that it does not train.

    Parameters
    ----------
    peft_model
        A model from `peft.get_peft_model` with LoRA on Linear or Conv1D layers.
    variant
        Which factor is trained, and how each starts.
    seed
        Of the random starts. The same seed gives a module of the same name and shape the same start, whatever the task.
    adapter
        PEFT's name for the adapter.
    storage_dtype
        The start values are rounded to this dtype, so that a file of it holds exactly what training started from.

    Returns
    -------
    dict
        A copy of the initial factors under the keys that PEFT stores (see `initial_factors`).

    Raises
    ------
    ValueError
        If the model has no LoRA layer.
    """
    for name, layer in lora_layers(peft_model, adapter).items():
        weight = _base_weight(layer)
        pairs: tuple[tuple[Literal["A", "B"], FactorStart, Any], ...] = (
            ("A", variant.A, layer.lora_A[adapter]),
            ("B", variant.B, layer.lora_B[adapter]),
        )
        for factor, start, linear in pairs:
            value = initial_factor(
                factor, start.initialization, weight, layer.r[adapter], generator_for(seed, name, factor)
            )
            linear.weight.copy_(value.to(storage_dtype))
            linear.weight.requires_grad_(start.trained)
    return initial_factors(peft_model, adapter)


def initial_factors(peft_model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """A copy of the factors as they stand, under the keys of `adapter_model.safetensors`; heads are left out."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    return {key: value.detach().cpu().clone() for key, value in state.items() if ".lora_A." in key or ".lora_B." in key}


def _base_weight(layer: Any) -> Tensor:
    """The pretrained weight as (d_out, d_in); transformers' Conv1D stores it the other way round."""
    weight = layer.get_base_layer().weight.detach().float().cpu()
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight
