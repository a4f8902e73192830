"""The model of a run: pretrained, with the head of its task, and with the adapter that the variant asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.application import apply_variant
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.frozen_maps import multiply_frozen_maps_in
from asym_analysis.finetuning.remembered import remember_frozen_layers
from asym_analysis.finetuning.tasks import TaskData

__all__ = ["PreparedModel", "adapted_model", "head_parameters", "prepared_model", "pretrained_model", "task_batches"]

# Where transformers' classification models keep their head.
HEADS = ("classifier", "score")


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model ready to be trained, and a copy of its initial factors (empty without an adapter)."""

    model: Any
    initial: dict[str, Tensor]


def pretrained_model(config: FinetuneConfig) -> Any:
    """Load the model of a run before an adapter is put on it, with the head of its task, in the run's dtype.

    Parameters
    ----------
    config
        The run's settings.

    Returns
    -------
    Module
        The model; its head is drawn from `config.seed`.
    """
    from transformers import set_seed

    source, options = model_source(config.model)
    options["dtype"] = getattr(torch, config.dtype)
    if config.device_map:
        options["device_map"] = config.device_map
    set_seed(config.seed)
    model = config.task.model(source, **options)
    if "gguf_file" in options:
        # transformers has dequantized the weights, but still calls them quantized and would refuse to train.
        model.is_quantized, model.hf_quantizer = False, None
        del model.config.quantization_config
    return model


def adapted_model(config: FinetuneConfig, data: TaskData | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Load the pretrained model, put the adapter on it and initialize it as the variant says.

    Parameters
    ----------
    config
        The run's settings, of a variant with an adapter.
    data
        The task's data, for variants that place a factor by data; read again if None.

    Returns
    -------
    tuple
        The PEFT model, and a copy of the initial factors in the dtype in which they are stored.

    Raises
    ------
    AdapterError
        If the model has no module of those names, or the variant does not fit one of them.
    """
    from peft import LoraConfig, get_peft_model

    from asym_analysis.finetuning.statistics import measure_statistics, statistics_needed

    variant, targets = config.parsed_variant, config.target_modules
    if variant is None:
        raise AdapterError(f"a run of kind {config.variant!r} has no adapter")
    base = pretrained_model(config)
    layout = LoraConfig(
        task_type=config.task.peft_task_type,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(config.task.heads) or None,
    )
    try:
        model = get_peft_model(base, layout)
    except ValueError:
        names = {name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, nn.Linear)}
        raise AdapterError(
            f"{config.model} has no module {targets} to adapt; its linear modules end in {', '.join(sorted(names))}"
        ) from None
    _check_rank(model, config)
    statistics = None
    if statistics_needed(variant):
        statistics = measure_statistics(model, variant, _statistics_batches(config, data))
    if (config.other is None) != (not config.other_modules):
        raise AdapterError("settings.other_variant and settings.other_modules go together: give both or neither")
    if config.other is not None and statistics_needed(config.other):
        raise AdapterError(f"settings.other_variant is {config.other_variant}: it cannot be placed by data")
    dtype = getattr(torch, config.storage_dtype)
    others = {} if config.other is None else dict.fromkeys(config.other_modules, config.other)
    initial = apply_variant(
        model, variant, config.factor_seed, storage_dtype=dtype, statistics=statistics, others=others
    )
    return model, {key: value.to(dtype) for key, value in initial.items()}


def _check_rank(model: Any, config: FinetuneConfig) -> None:
    """Refuse a rank above the width of a module, whose own weight has no such rank."""
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            width = min(layer.in_features, layer.out_features)
            if config.rank > width:
                raise AdapterError(
                    f"settings.rank is {config.rank}, above the width {width} of module "
                    f"{name.removeprefix('base_model.model.')}: give a rank of at most {width}"
                )


def prepared_model(config: FinetuneConfig, data: TaskData) -> PreparedModel:
    """Make the model that a run trains.

    Parameters
    ----------
    config
        The run's settings.
    data
        The task's data.

    Returns
    -------
    PreparedModel
        With the adapter; for the kind "frozen" with its head alone trainable, for "full" with every weight.

    Raises
    ------
    AdapterError
        If the model has no module of those names, or the variant does not fit one of them.
    """
    if config.parsed_variant is not None:
        model, initial = adapted_model(config, data)
    else:
        model, initial = pretrained_model(config), {}
        if config.variant == "frozen":
            model.requires_grad_(False)
            for _, parameter in head_parameters(model, config):
                parameter.requires_grad_()
    if config.frozen_dtype is not None:
        multiply_frozen_maps_in(model, getattr(torch, config.frozen_dtype))
    if config.remember_activations:
        remember_frozen_layers(model)
    config.task.start_head(model, data)
    return PreparedModel(model, initial)


def head_parameters(model: nn.Module, config: FinetuneConfig) -> Iterator[tuple[str, nn.Parameter]]:
    """Find the parameters of the task's head, which is trained in full beside an adapter.

    Parameters
    ----------
    model
        The model, with or without an adapter.
    config
        The run's settings.

    Yields
    ------
    tuple
        Name and parameter; none for tasks that use the model's own head.
    """
    if not config.task.has_head:
        return
    names = {*HEADS, *config.task.heads}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if names & set(parts) and "original_module" not in parts and "lora_" not in name:
            yield name, parameter


def task_batches(
    config: FinetuneConfig, *, rows: int = 512, data: TaskData | None = None, training: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Read the first rows of a run's task as its model takes them, labels included.

    Parameters
    ----------
    config : FinetuneConfig
        The run's settings.
    rows : int, default 512
        At most so many.
    data : TaskData, optional
        The task's data; read if None.
    training : bool, default False
        Take training rows in place of development rows.

    Yields
    ------
    dict
        Keyword arguments of the model.
    """
    source, options = model_source(config.model)
    processor = config.task.processor(source, **options)
    data = config.task.data(processor) if data is None else data
    table = data.train if training else data.dev
    collate = config.task.collator(processor)
    size, count = 2 * config.batch_size, min(rows, len(table))
    for first in range(0, count, size):
        chosen = [table[i] for i in range(first, min(first + size, count))]
        batch = collate([{key: value for key, value in row.items() if key != "length"} for row in chosen])
        yield {key: value for key, value in batch.items() if isinstance(value, Tensor)}


def _statistics_batches(config: FinetuneConfig, data: TaskData | None) -> list[dict[str, Tensor]]:
    if config.general_text is None:
        return list(task_batches(config, rows=config.statistics_rows, data=data, training=True))
    from asym_analysis.finetuning.inputs import next_token_labels, read_batches

    general = replace(config, general_text=None)
    batches = read_batches(config.general_text, general.model, rows=config.statistics_rows)
    return [next_token_labels(batch) for batch in batches]
