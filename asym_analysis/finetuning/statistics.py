"""Measure what the initializations that place a factor by data need: inputs, sensitivities and the first gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from asym_analysis.finetuning.application import base_weight, lora_layers
from asym_analysis.finetuning.initializations import INITIALIZATIONS, ModuleStatistics
from asym_analysis.finetuning.variants import Variant
from asym_analysis.prediction.input_moments import input_covariances
from asym_analysis.prediction.moment_sums import loss_of
from asym_analysis.prediction.output_sensitivities import output_sensitivities

__all__ = ["measure_statistics", "statistics_needed"]


def statistics_needed(variant: Variant) -> set[str]:
    """Name the fields of `ModuleStatistics` that a variant's initializations read.

    Parameters
    ----------
    variant
        The variant.

    Returns
    -------
    set
        Some of "inputs", "sensitivity" and "gradient".

    Examples
    --------
    >>> statistics_needed(Variant.parse("hB_0 A_X")), statistics_needed(Variant.parse("hB_0 A_rand"))
    ({'inputs'}, set())
    """
    pairs = (("A", variant.A), ("B", variant.B))
    needs = (INITIALIZATIONS[factor.initialization].needs.get(name) for name, factor in pairs)  # type: ignore[call-overload]
    return {need for need in needs if need is not None}


def measure_statistics(
    peft_model: nn.Module, variant: Variant, batches: Sequence[Mapping[str, Any]], *, adapter: str = "default"
) -> dict[str, ModuleStatistics]:
    """Measure, for every LoRA layer of a model, what a variant's initializations need.

    Parameters
    ----------
    peft_model : Module
        A model from `peft.get_peft_model`, run without its adapter; its output has a `loss` where one is needed.
    variant : Variant
        Decides what is measured.
    batches : sequence of mapping
        Keyword arguments of the model, with labels.
    adapter : str, default "default"
        PEFT's name for the adapter.

    Returns
    -------
    dict
        Module -> `ModuleStatistics`.

    Raises
    ------
    AdapterError
        If the model gives no loss, or a layer's update is not one matrix.
    """
    layers, needed = lora_layers(peft_model, adapter), statistics_needed(variant)
    names, model = list(layers), cast(Any, peft_model)
    states = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        # PEFT replaces the weight of attention in each forward pass while its adapter is on.
        with model.disable_adapter():
            inputs = input_covariances(model, batches, names).moments if "inputs" in needed else {}
            measured = output_sensitivities(model, batches, names).moments if "sensitivity" in needed else {}
            gradients = _gradients(model, batches, layers) if "gradient" in needed else {}
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(states[name])
    return {name: ModuleStatistics(inputs.get(name), measured.get(name), gradients.get(name)) for name in names}


def _gradients(model: nn.Module, batches: Sequence[Mapping[str, Any]], layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """The gradient of the mean loss in each base weight, as (d_out, d_in)."""
    was_training = model.training
    try:
        model.eval().requires_grad_(False)
        weights = {}
        for name, layer in layers.items():  # only now: PEFT registers the weight of attention again at each access
            inner = layer.get_base_layer()
            weights[name] = inner.in_proj_weight if isinstance(inner, nn.MultiheadAttention) else inner.weight
            weights[name].requires_grad_()
        totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for batch in batches:
            loss = loss_of(model, batch)
            found = torch.autograd.grad(loss, list(weights.values()))
            for name, gradient in zip(weights, found, strict=True):
                totals[name] += gradient / len(batches)
    finally:
        model.train(was_training)
    return {name: base_weight(name, layers[name], total) for name, total in totals.items()}
