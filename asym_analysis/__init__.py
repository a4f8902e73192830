"""What the two factors of a LoRA adapter learned, whether A needed training, and what a checkpoint is guaranteed.

Every public name is imported when it is first used: `import asym_analysis` alone loads neither torch, nor transformers,
nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "adapter_spectra": "alignment.spectra",
    "aggregation_error": "alignment.aggregation",
    "initialization_drift": "alignment.drift",
    "intruder_dimensions": "alignment.intruders",
    "joint_diagonalization": "alignment.sharing",
    "merge_interference": "alignment.aggregation",
    "shared_energy": "alignment.shared_energy",
    "shared_initialization": "adapters.initialization",
    "Adapter": "adapters.adapter",
    "AdapterError": "errors",
    "AdapterSet": "adapters.adapter_set",
    "BoundReport": "bounds.report",
    "LowRankUpdate": "adapters.low_rank_update",
    "MEASURES": "subspaces.measures",
    "SubspaceComparison": "alignment.comparison",
    "certify": "bounds.certify",
    "compute_bound": "bounds.compute",
    "checkpoint_trajectories": "alignment.trajectories",
    "compare_subspaces": "alignment.pairwise",
    "first_step_overlap": "alignment.first_step",
    "leading_overlaps": "alignment.grids",
    "load_adapter": "adapters.load",
    "load_adapters": "adapters.load",
    "LeastSquaresProblem": "least_squares.problem",
    "asymmetry_index": "least_squares.theory",
    "compare_theory": "least_squares.simulation",
    "expected_loss": "least_squares.theory",
    "plot_least_squares": "plots.least_squares",
    "plot_regimes": "plots.regimes",
    "simulate": "least_squares.simulation",
    "sample_adapters": "samples",
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
