"""Fine-tune the variants of an adapter on any Hugging Face model, and predict which modules need A trained.

The only part of the package that imports transformers, peft, datasets and accelerate (the `finetune` extra).
"""

from __future__ import annotations

from asym_analysis.finetuning.advice import FreezingAdvice, advise
from asym_analysis.finetuning.application import apply_variant, initial_factors, lora_layers
from asym_analysis.finetuning.claims import Claim, check_claims, paper_claims, paper_results
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.covariance import InputMoment, input_covariances
from asym_analysis.finetuning.factor_start import FactorStart
from asym_analysis.finetuning.initializations import initial_factor
from asym_analysis.finetuning.plan import PlannedRun, read_sweep, shipped_configs
from asym_analysis.finetuning.prediction import AsymmetryPrediction, measured_capture, predict_asymmetry
from asym_analysis.finetuning.sensitivity import output_sensitivities
from asym_analysis.finetuning.sweep import results_table, run_sweep
from asym_analysis.finetuning.sweep_prediction import predict_sweep, task_batches
from asym_analysis.finetuning.train import FinetuneRun, finetune
from asym_analysis.finetuning.variant_scores import VariantScores, score_variants
from asym_analysis.finetuning.variants import Variant

__all__ = [
    "AsymmetryPrediction",
    "Claim",
    "FactorStart",
    "FinetuneConfig",
    "FinetuneRun",
    "FreezingAdvice",
    "InputMoment",
    "PlannedRun",
    "Variant",
    "VariantScores",
    "advise",
    "apply_variant",
    "check_claims",
    "finetune",
    "initial_factor",
    "initial_factors",
    "input_covariances",
    "lora_layers",
    "measured_capture",
    "model_source",
    "output_sensitivities",
    "paper_claims",
    "paper_results",
    "predict_asymmetry",
    "predict_sweep",
    "read_sweep",
    "results_table",
    "run_sweep",
    "score_variants",
    "shipped_configs",
    "task_batches",
]
