"""Fine-tune the variants of an adapter on any Hugging Face model, and predict which modules need A trained.

The only part of the package that imports transformers, peft, datasets and accelerate (the `finetune` extra).
"""

from __future__ import annotations

from asym_analysis.finetuning.advice import FreezingAdvice, advise
from asym_analysis.finetuning.application import apply_variant, initial_factors, lora_layers
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.covariance import InputMoment, input_covariances
from asym_analysis.finetuning.factor_start import FactorStart
from asym_analysis.finetuning.initializations import initial_factor
from asym_analysis.finetuning.plan import PlannedRun, read_sweep, shipped_configs
from asym_analysis.finetuning.prediction import AsymmetryPrediction, measured_capture, predict_asymmetry
from asym_analysis.finetuning.sweep import results_table, run_sweep
from asym_analysis.finetuning.train import FinetuneRun, finetune
from asym_analysis.finetuning.variants import Variant

__all__ = [
    "AsymmetryPrediction",
    "FactorStart",
    "FinetuneConfig",
    "FinetuneRun",
    "FreezingAdvice",
    "InputMoment",
    "PlannedRun",
    "Variant",
    "advise",
    "apply_variant",
    "finetune",
    "initial_factor",
    "initial_factors",
    "input_covariances",
    "lora_layers",
    "measured_capture",
    "model_source",
    "predict_asymmetry",
    "read_sweep",
    "results_table",
    "run_sweep",
    "shipped_configs",
]
