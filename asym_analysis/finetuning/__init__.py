"""Fine-tune the variants of an adapter on any Hugging Face model, and predict which modules need A trained.

The only part of the package that imports transformers, peft, datasets and accelerate (the `finetune` extra).
"""

from __future__ import annotations

from asym_analysis.finetuning.application import apply_variant, initial_factors, lora_layers
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.initializations import initial_factor
from asym_analysis.finetuning.train import FinetuneRun, finetune
from asym_analysis.finetuning.variants import FactorStart, Variant

__all__ = [
    "FactorStart",
    "FinetuneConfig",
    "FinetuneRun",
    "Variant",
    "apply_variant",
    "finetune",
    "initial_factor",
    "initial_factors",
    "lora_layers",
    "model_source",
]
