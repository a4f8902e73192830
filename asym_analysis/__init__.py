"""What the two factors of a LoRA adapter learned, whether A needed training, and what a checkpoint is guaranteed.

Every public name is imported when it is first used: `import asym_analysis` alone loads neither torch, nor transformers,
nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adapters.adapter",
    "AdapterError": "errors",
    "AdapterSet": "adapters.adapter_set",
    "BoundReport": "bounds.report",
    "FinetuneConfig": "finetuning.config",
    "LeastSquaresProblem": "least_squares.problem",
    "LowRankUpdate": "adapters.low_rank_update",
    "MEASURES": "subspaces.measures",
    "SubspaceComparison": "alignment.comparison",
    "Variant": "finetuning.variants",
    "adapter_spectra": "alignment.spectra",
    "aggregation_error": "alignment.aggregation",
    "apply_variant": "finetuning.application",
    "asymmetry_index": "least_squares.theory",
    "certify": "bounds.certify",
    "checkpoint_trajectories": "alignment.trajectories",
    "compare_subspaces": "alignment.pairwise",
    "compare_theory": "least_squares.simulation",
    "compute_bound": "bounds.compute",
    "conditional_information": "bounds.conditional",
    "estimate_mutual_information": "bounds.mutual_information",
    "expected_loss": "least_squares.theory",
    "finetune": "finetuning.train",
    "first_step_overlap": "alignment.first_step",
    "initialization_drift": "alignment.drift",
    "input_covariances": "finetuning.covariance",
    "intruder_dimensions": "alignment.intruders",
    "joint_diagonalization": "alignment.sharing",
    "leading_overlaps": "alignment.grids",
    "load_adapter": "adapters.load",
    "load_adapters": "adapters.load",
    "merge_interference": "alignment.aggregation",
    "mutual_information_of_family": "bounds.family",
    "plot_bounds": "plots.bounds",
    "plot_least_squares": "plots.least_squares",
    "plot_regimes": "plots.regimes",
    "predict_asymmetry": "finetuning.prediction",
    "sample_adapters": "samples",
    "shared_energy": "alignment.shared_energy",
    "shared_initialization": "adapters.initialization",
    "simulate": "least_squares.simulation",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
