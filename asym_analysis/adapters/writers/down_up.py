"""The files of image generators: kohya's flattened down and up matrices, and diffusers' pytorch_lora_weights."""

from __future__ import annotations

import json
import re

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.writers.content import Content, Module, modules_of
from asym_analysis.adapters.writers.peft import lora_config
from asym_analysis.errors import NotWritableError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["COMPONENTS", "diffusers_content", "kohya_content"]

#: Component of a pipeline, as diffusers names it -> the beginning of kohya's names.
COMPONENTS = {
    "unet": "lora_unet",
    "text_encoder": "lora_te",
    "text_encoder_2": "lora_te2",
    "text_encoder_3": "lora_te3",
    "transformer": "lora_transformer",
}
FLATTENED = re.compile(r"(?:lora|lycoris)_\w+$")
LYCORIS = "lycoris"


def kohya_content(adapter: Adapter, *, fold_scale: bool, component: str | None) -> Content:
    """Make kohya's tensors of an adapter: lora_down, lora_up, alpha, and dora_scale.

    Modules that belong to no component of a pipeline are named "lycoris_...", as LyCORIS names those of any model.

    Raises
    ------
    NotWritableError
        If the format has no place for something: trained heads, embeddings, transposed weights.
    """
    _refuse_extras(adapter, "kohya's")
    tensors: dict[str, Tensor] = {}
    modules = modules_of(adapter, fold_scale=fold_scale)
    two_encoders = any(module.name.startswith(("text_encoder_2.", "lora_te2_")) for module in modules)
    for module in modules:
        _refuse_transposed(adapter, module, "kohya's")
        name = _flattened(module.name, component, two_encoders)
        if f"{name}.alpha" in tensors:
            raise NotWritableError(
                f"two modules of {adapter.name} have the flattened name {name}: kohya's format cannot tell them apart"
            )
        tensors[f"{name}.lora_down.weight"] = module.A
        tensors[f"{name}.lora_up.weight"] = module.B
        tensors[f"{name}.alpha"] = torch.tensor(module.alpha, dtype=torch.float32)
        if module.magnitude is not None:
            tensors[f"{name}.dora_scale"] = module.magnitude.reshape(-1, *[1] * (module.B.ndim - 1))
    base = adapter.metadata.get("base_model")
    header = {"ss_network_module": "networks.lora"} | ({"ss_base_model_version": str(base)} if base else {})
    return Content({"lora.safetensors": tensors}, header=header)


def diffusers_content(adapter: Adapter, *, fold_scale: bool, component: str | None) -> Content:
    """Make diffusers' tensors of an adapter, and the LoraConfig of each component that goes into the header.

    Versions of diffusers that do not read the header scale by 1: fold the scale in for those.

    Raises
    ------
    NotWritableError
        If the format has no place for something, or a module belongs to no known component.
    """
    _refuse_extras(adapter, "diffusers'")
    components: dict[str, list[Module]] = {}
    tensors: dict[str, Tensor] = {}
    for module in modules_of(adapter, fold_scale=fold_scale):
        _refuse_transposed(adapter, module, "diffusers'")
        first, _, rest = module.name.partition(".")
        if first not in COMPONENTS:
            first, rest = component or "", module.name
        if not first or FLATTENED.match(module.name):
            flat = FLATTENED.match(module.name)
            raise NotWritableError(
                f"module {module.name!r} of {adapter.name} "
                + ("has a flattened name: give the base model with base=" if flat else "names no component of a ")
                + ("" if flat else f"pipeline: give component=, one of {', '.join(COMPONENTS)}")
            )
        components.setdefault(first, []).append(Module(rest, *_rest(module)))
        tensors[f"{first}.{rest}.lora_A.weight"] = module.A
        tensors[f"{first}.{rest}.lora_B.weight"] = module.B
        if module.magnitude is not None:
            tensors[f"{first}.{rest}.lora_magnitude_vector"] = module.magnitude
    flat_config = {}
    for name, modules in components.items():
        dora = any(module.magnitude is not None for module in modules)
        for key, value in {**lora_config(modules), "use_dora": dora}.items():
            flat_config[f"{name}.{key}"] = value
    header = {"lora_adapter_metadata": json.dumps(flat_config, sort_keys=True)}
    return Content({"pytorch_lora_weights.safetensors": tensors}, header=header)


def _rest(module: Module) -> tuple[Tensor, Tensor, float, Tensor | None, bool, bool]:
    return module.A, module.B, module.alpha, module.magnitude, module.stored_transposed, module.is_embedding


def _flattened(name: str, component: str | None, two_encoders: bool) -> str:
    if FLATTENED.match(name):
        return name
    first, _, rest = name.partition(".")
    if first not in COMPONENTS or not rest:
        first, rest = component or "", name
    beginning = COMPONENTS.get(first, LYCORIS)
    if beginning == "lora_te" and two_encoders:
        beginning = "lora_te1"
    return f"{beginning}_{rest.replace('.', '_')}"


def _refuse_extras(adapter: Adapter, whose: str) -> None:
    if adapter.extras:
        name, source = next(iter(adapter.extras.items()))
        more = f" and {len(adapter.extras) - 1} more" if len(adapter.extras) > 1 else ""
        raise NotWritableError(
            f"tensor {name!r} of shape {source.shape} of {adapter.name}{more} was trained beside the pairs: {whose} "
            "format has no place for it; write PEFT's, or leave it out with without_extras()"
        )


def _refuse_transposed(adapter: Adapter, module: Module, whose: str) -> None:
    if module.stored_transposed or module.is_embedding:
        kind = "an embedding" if module.is_embedding else "a layer that keeps its weight as (d_in, d_out)"
        raise NotWritableError(
            f"module {module.name!r} of {adapter.name} is {kind}: {whose} format has no place for it; write PEFT's"
        )
