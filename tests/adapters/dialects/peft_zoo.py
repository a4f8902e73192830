"""Every method of the installed PEFT on every kind of layer that it can adapt: the list of cases is PEFT's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.adaption_prompt import AdaptionPromptConfig
from peft.tuners.poly import PolyConfig
from peft.tuners.xlora import XLoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from asym_analysis.adapters.dialects.peft.refusals import REFUSED

LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(8, 6),
    "wide": lambda: nn.Linear(6, 12),
    "square": lambda: nn.Linear(8, 8),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "point": lambda: nn.Conv2d(4, 6, 1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(2, 4, 2),
    "embedding": lambda: nn.Embedding(12, 8),
    "transposed": lambda: Conv1D(6, 8),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "norm": lambda: nn.LayerNorm(8),
}

#: What a config needs beside its target: PEFT's name of the method -> label -> options. Others take their defaults.
OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "LORA": {
        "": {"r": 3, "lora_alpha": 5},
        "DoRA": {"r": 3, "use_dora": True},
        "rank-stabilized": {"r": 3, "use_rslora": True},
        "bias": {"r": 3, "lora_bias": True},
        "MiCA": {"r": 3, "init_lora_weights": "mica"},
        "orthogonal": {"r": 4, "init_lora_weights": "orthogonal"},
    },
    "ADALORA": {"": {"init_r": 3, "total_step": 9, "lora_alpha": 5}},
    "LOHA": {"": {"r": 2, "alpha": 3}, "effective": {"r": 2, "use_effective_conv2d": True}},
    "LOKR": {
        "": {"r": 2, "alpha": 3},
        "effective": {"r": 1, "use_effective_conv2d": True},
        "whole": {"r": 64},
        "both": {"r": 1, "decompose_both": True},
    },
    "IA3": {"": {"feedforward_modules": []}},
    "OFT": {"": {"r": 2, "oft_block_size": 0}},
    "BOFT": {"": {"boft_block_size": 2}},
    "C3A": {"": {"block_size": 2}},
    "FOURIERFT": {"": {"n_frequency": 5}},
    "WAVEFT": {"": {"n_frequency": 5}},
    "SHIRA": {"": {"r": 1}},
    "SUPERTUNING": {"": {"sparsity": 0.5}, "Supra": {"sparsity": 0.5, "r": 2, "lora_alpha": 3.0}},
    "MISS": {
        "": {"r": 3},
        "bat": {"r": 2, "init_weights": "bat"},
        "mini": {"r": 3, "mini_r": 2, "init_weights": "mini"},
    },
    "VERA": {"": {"r": 3}, "drawn": {"r": 3, "save_projection": False}},
    "PVERA": {"": {"r": 3}, "drawn": {"r": 3, "save_projection": False}},
    "VBLORA": {"": {"r": 3, "vector_length": 2, "num_vectors": 5}},
    "RANDLORA": {"": {"r": 3, "randlora_alpha": 2}, "sparse": {"r": 3, "sparse": True, "randlora_alpha": 2}},
    "TINYLORA": {"": {"r": 2, "u": 5}, "drawn": {"r": 2, "u": 5, "save_projection": False}},
    "UNILORA": {"": {"r": 3, "theta_d_length": 20}, "indices": {"r": 3, "theta_d_length": 20, "save_indices": True}},
    "GRALORA": {"": {"r": 4, "gralora_k": 2}, "hybrid": {"r": 4, "gralora_k": 2, "hybrid_r": 2}},
    "GLORA": {"": {"r": 2}, "vector": {"config_A_B": "vector"}, "constant": {"config_A_B": "constant"}},
    "LILY": {"": {"r": 2, "num_B": 2}, "one B": {"r": 2, "num_B": 1, "scaling": 2.0}},
    "PEANUT": {"": {"r": 2, "depth": 0, "act_fn": "relu"}},
    "PSOFT": {"": {"r": 2}},
    "ADAMSS": {"": {"r": 2}},
    "ROAD": {"": {"group_size": 2}},
    "HRA": {"": {"r": 3}, "orthogonal": {"r": 2, "apply_GS": True}},
    "DEFT": {"": {"r": 3}, "qr": {"r": 3, "decomposition_method": "qr", "alpha": 5}, "PaRa": {"r": 2, "para": True}},
}
#: Methods that wrap a whole language model rather than its layers: known by their config alone.
WHOLE_MODEL = (XLoraConfig, PolyConfig, AdaptionPromptConfig, peft.ShadowConfig)


class Model(nn.Module):
    """One layer, beside one that is never adapted, so that sizes and names are not unique."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.adapted = LAYERS[layer]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapted(x)


@dataclass
class Case:
    """A layer that PEFT adapted with one of its methods, and its weight before and after merging."""

    model: peft.PeftModel
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor] | None
    kind: str
    label: str
    layer: str


def layer_methods() -> list[str]:
    """PEFT's names of the methods that adapt single layers."""
    return sorted(
        kind.value
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if not issubclass(config, (peft.PromptLearningConfig, *WHOLE_MODEL))
    )


def cases(kind: str) -> Iterator[Case]:
    """Every layer that a method can adapt, with every set of its options; what PEFT cannot adapt is left out."""
    config = next(config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if name.value == kind)
    for label, options in OPTIONS.get(kind, {"": {}}).items():
        for layer in LAYERS:
            model = Model(layer)
            before = {name: value.clone() for name, value in model.state_dict().items()}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    wrapped = peft.get_peft_model(model, config(target_modules=["adapted"], **copy.deepcopy(options)))
            except (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError, KeyError, IndexError):
                continue
            _fill(wrapped)
            if not peft.get_peft_model_state_dict(wrapped):
                continue
            try:
                after = None if kind in REFUSED else _merged(wrapped)
            except RuntimeError:  # PEFT takes the layer and can neither run nor merge it
                continue
            yield Case(wrapped.eval(), before, after, kind, label, layer)


def several_layers(kind: str, label: str) -> Case:
    """Two layers of different sizes, whose order in the model is not that of their names."""
    torch.manual_seed(0)
    names = {"10": nn.Linear(8, 6), "relu": nn.ReLU(), "2": nn.Linear(6, 12)}
    model = nn.Sequential()
    for name, module in names.items():
        model.add_module(name, module)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = next(config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if name.value == kind)
    options = copy.deepcopy(OPTIONS.get(kind, {"": {}})[label])
    wrapped = peft.get_peft_model(model, config(target_modules=["10", "2"], **options))
    _fill(wrapped)
    return Case(wrapped.eval(), before, _merged(wrapped), kind, label, "several")


def _fill(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.1


def _merged(model: Any) -> dict[str, torch.Tensor] | None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(copy.deepcopy(model).merge_and_unload().state_dict())
    except NotImplementedError:
        return None
