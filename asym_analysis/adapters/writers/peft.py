"""PEFT's folder: adapter_config.json beside adapter_model.safetensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.writers.content import Content, Module, extra_value, modules_of
from asym_analysis.errors import NotWritableError
from asym_analysis.lazy_torch import Tensor

__all__ = ["lora_config", "peft_content"]

PREFIX = "base_model.model."
WEIGHTS, CONFIG, INITIAL = "adapter_model.safetensors", "adapter_config.json", "initial.safetensors"


def peft_content(adapter: Adapter, *, fold_scale: bool) -> Content:
    """Make PEFT's tensors and config of an adapter.

    Ranks and alphas that differ between modules become `rank_pattern` and `alpha_pattern`, trained heads
    `modules_to_save`, trained biases `bias`.

    Raises
    ------
    NotWritableError
        If PEFT's format has no place for something.
    """
    modules = modules_of(adapter, fold_scale=fold_scale)
    for module in modules:
        if "." not in module.name and module.name.startswith("lora_"):
            raise NotWritableError(
                f"module {module.name!r} of {adapter.name} is named as kohya's trainers flatten names, and PEFT needs "
                "the name in the model: give the base model with base="
            )
    extras, saved, bias = _extras(adapter, {module.name for module in modules}, fold_scale)
    has_bias = _pair_biases(adapter, modules)
    magnitudes = [module.name for module in modules if module.magnitude is not None]
    if magnitudes and len(magnitudes) < len(modules):
        without = next(module.name for module in modules if module.magnitude is None)
        raise NotWritableError(
            f"{adapter.name} has a DoRA magnitude in {magnitudes[0]} and none in {without}: PEFT has one setting for "
            "all modules"
        )
    converted = "converted" in adapter.metadata  # PEFT would take the initial factors out of the base once more
    config = {
        "peft_type": "LORA",
        "task_type": adapter.metadata.get("task_type"),
        "base_model_name_or_path": adapter.metadata.get("base_model"),
        "inference_mode": True,
        "init_lora_weights": True if converted else adapter.metadata.get("init_lora_weights", True),
        "fan_in_fan_out": any(module.stored_transposed and not module.is_embedding for module in modules),
        "use_dora": bool(magnitudes),
        "bias": bias,
        "lora_bias": has_bias,
        "modules_to_save": sorted(saved) or None,
        **lora_config(modules),
    }
    weights = {WEIGHTS: {**_tensors(modules), **extras}}
    if adapter.initial is not None:
        weights[INITIAL] = _tensors(modules_of(adapter.initial, fold_scale=fold_scale))
    return Content(weights, {CONFIG: config})


def lora_config(modules: Iterable[Module]) -> dict[str, Any]:
    """The entries of a LoraConfig that say which modules have which rank and alpha.

    Examples
    --------
    >>> import torch
    >>> pairs = {"l.0.q": 2, "l.1.q": 2, "l.0.v": 4}
    >>> modules = [Module(name, torch.ones(r, 3), torch.ones(3, r), alpha=8.0) for name, r in pairs.items()]
    >>> config = lora_config(modules)
    >>> config["r"], config["rank_pattern"], config["lora_alpha"], config["alpha_pattern"]
    (2, {'l.0.v': 4}, 8, {})
    """
    listed = list(modules)
    ranks = {module.name: module.rank for module in listed}
    alphas = {module.name: _plain(module.alpha) for module in listed}
    rank, rank_pattern = _default_and_pattern(ranks)
    alpha, alpha_pattern = _default_and_pattern(alphas)
    return {
        "r": rank,
        "rank_pattern": rank_pattern,
        "lora_alpha": alpha,
        "alpha_pattern": alpha_pattern,
        "use_rslora": False,
        "target_modules": [module.name for module in listed],
    }


def _default_and_pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most common value, and the modules that need an entry, the longer names first: the first match counts."""
    default = Counter(values.values()).most_common(1)[0][0]
    pattern = {name for name, value in values.items() if value != default}
    # A module with the default value that would match another's entry needs its own.
    pattern |= {name for name in values if any(name.endswith(f".{other}") for other in pattern)}
    return default, {name: values[name] for name in sorted(pattern, key=lambda name: (-len(name), name))}


def _tensors(modules: Iterable[Module]) -> dict[str, Tensor]:
    tensors = {}
    for module in modules:
        kind, leaf = ("lora_embedding", "") if module.is_embedding else ("lora", ".weight")
        tensors[f"{PREFIX}{module.name}.{kind}_A{leaf}"] = module.A
        tensors[f"{PREFIX}{module.name}.{kind}_B{leaf}"] = module.B
        if module.magnitude is not None:
            magnitude = module.magnitude
            if module.B.ndim > 2:
                magnitude = magnitude.reshape(1, -1, *[1] * (module.B.ndim - 2))
            tensors[f"{PREFIX}{module.name}.lora_magnitude_vector"] = magnitude
    return tensors


def _pair_biases(adapter: Adapter, modules: list[Module]) -> bool:
    """Whether the second factor of the modules has a bias of its own; all must have one, or none."""
    having = [module.name for module in modules if f"{module.name}.lora_B.bias" in adapter.extras]
    if having and len(having) < len(modules):
        without = next(module.name for module in modules if module.name not in set(having))
        raise NotWritableError(
            f"{adapter.name} has a bias of B in {having[0]} and none in {without}: PEFT has one setting for all"
        )
    return bool(having)


def _extras(adapter: Adapter, adapted: set[str], fold_scale: bool) -> tuple[dict[str, Tensor], set[str], str]:
    """The tensors trained beside the pairs, the modules they belong to, and PEFT's name for the trained biases."""
    tensors: dict[str, Tensor] = {}
    saved: set[str] = set()
    biases: set[str] = set()
    for name, source in adapter.extras.items():
        parent, _, leaf = name.rpartition(".")
        if leaf in ("diff", "diff_b", "set_weight") or "trainable_tokens" in name or not parent:
            raise NotWritableError(
                f"tensor {name!r} of {adapter.name} is not a whole parameter of a module: PEFT's LoRA cannot store it"
            )
        value = extra_value(adapter, name, source)
        if parent in adapted:
            if leaf != "bias":
                raise NotWritableError(
                    f"tensor {name!r} of {adapter.name} was trained beside the pair of the same module: PEFT has no "
                    "place for both"
                )
            biases.add("lora_only")
            tensors[f"{PREFIX}{parent}.base_layer.bias"] = value
        elif name.endswith(".lora_B.bias"):
            scaling = adapter.source(name.removesuffix(".lora_B.bias")).scaling if fold_scale else 1.0
            tensors[PREFIX + name] = value if scaling == 1.0 else scaling * value.float()
        else:
            saved.add(parent)
            tensors[PREFIX + name] = value
    alone = {parent for parent in saved if _only_bias(adapter, parent)}
    if alone and biases:
        return tensors, saved - alone, "all"
    return tensors, saved, "lora_only" if biases else "none"


def _only_bias(adapter: Adapter, parent: str) -> bool:
    return [name.rpartition(".")[2] for name in adapter.extras if name.rpartition(".")[0] == parent] == ["bias"]


def _plain(value: float) -> int | float:
    """The number as an integer where it is one."""
    return int(value) if value == int(value) else value
