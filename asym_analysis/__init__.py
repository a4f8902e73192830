"""What the two factors of a LoRA adapter learned, whether A needed training, and what a checkpoint is guaranteed.

Every public name is imported when it is first used: `import asym_analysis` alone loads neither torch, nor transformers,
nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    # The same names for type checkers and editors; a test holds the two lists together.
    from asym_analysis.adapters.adapter import Adapter as Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet as AdapterSet
    from asym_analysis.adapters.dialects import PatternDialect as PatternDialect
    from asym_analysis.adapters.initialization import shared_initialization as shared_initialization
    from asym_analysis.adapters.load import load_adapter as load_adapter
    from asym_analysis.adapters.load import load_adapters as load_adapters
    from asym_analysis.adapters.low_rank_update import LowRankUpdate as LowRankUpdate
    from asym_analysis.alignment.aggregation import aggregation_error as aggregation_error
    from asym_analysis.alignment.aggregation import merge_interference as merge_interference
    from asym_analysis.alignment.comparison import SubspaceComparison as SubspaceComparison
    from asym_analysis.alignment.drift import initialization_drift as initialization_drift
    from asym_analysis.alignment.first_step import first_step_overlap as first_step_overlap
    from asym_analysis.alignment.grids import leading_overlaps as leading_overlaps
    from asym_analysis.alignment.intruders import intruder_dimensions as intruder_dimensions
    from asym_analysis.alignment.pairwise import compare_subspaces as compare_subspaces
    from asym_analysis.alignment.shared_energy import shared_energy as shared_energy
    from asym_analysis.alignment.sharing import joint_diagonalization as joint_diagonalization
    from asym_analysis.alignment.spectra import adapter_spectra as adapter_spectra
    from asym_analysis.alignment.trajectories import checkpoint_trajectories as checkpoint_trajectories
    from asym_analysis.bounds.certify import certify as certify
    from asym_analysis.bounds.compute import compute_bound as compute_bound
    from asym_analysis.bounds.conditional import conditional_information as conditional_information
    from asym_analysis.bounds.family import mutual_information_of_family as mutual_information_of_family
    from asym_analysis.bounds.mutual_information import estimate_mutual_information as estimate_mutual_information
    from asym_analysis.bounds.report import BoundReport as BoundReport
    from asym_analysis.errors import AdapterError as AdapterError
    from asym_analysis.finetuning.application import apply_variant as apply_variant
    from asym_analysis.finetuning.claims import check_claims as check_claims
    from asym_analysis.finetuning.claims import paper_results as paper_results
    from asym_analysis.finetuning.config import FinetuneConfig as FinetuneConfig
    from asym_analysis.finetuning.covariance import input_covariances as input_covariances
    from asym_analysis.finetuning.prediction import predict_asymmetry as predict_asymmetry
    from asym_analysis.finetuning.sensitivity import output_sensitivities as output_sensitivities
    from asym_analysis.finetuning.train import finetune as finetune
    from asym_analysis.finetuning.variant_scores import score_variants as score_variants
    from asym_analysis.finetuning.variants import Variant as Variant
    from asym_analysis.least_squares.problem import LeastSquaresProblem as LeastSquaresProblem
    from asym_analysis.least_squares.simulation import compare_theory as compare_theory
    from asym_analysis.least_squares.simulation import simulate as simulate
    from asym_analysis.least_squares.theory import asymmetry_index as asymmetry_index
    from asym_analysis.least_squares.theory import expected_loss as expected_loss
    from asym_analysis.plots.alignment import plot_subspace_alignment as plot_subspace_alignment
    from asym_analysis.plots.bounds import plot_bounds as plot_bounds
    from asym_analysis.plots.drift import plot_drift as plot_drift
    from asym_analysis.plots.heatmap import plot_figure_one as plot_figure_one
    from asym_analysis.plots.heatmap import plot_similarity_heatmap as plot_similarity_heatmap
    from asym_analysis.plots.intruders import plot_intruders as plot_intruders
    from asym_analysis.plots.least_squares import plot_least_squares as plot_least_squares
    from asym_analysis.plots.regimes import plot_regimes as plot_regimes
    from asym_analysis.plots.sharing import plot_sharing as plot_sharing
    from asym_analysis.plots.spectra import plot_spectra as plot_spectra
    from asym_analysis.samples import sample_adapters as sample_adapters
    from asym_analysis.samples import sample_predictions as sample_predictions
    from asym_analysis.samples import sample_runs as sample_runs
    from asym_analysis.subspaces.measures import MEASURES as MEASURES

_HOMES = {
    "Adapter": "adapters.adapter",
    "AdapterError": "errors",
    "AdapterSet": "adapters.adapter_set",
    "BoundReport": "bounds.report",
    "FinetuneConfig": "finetuning.config",
    "LeastSquaresProblem": "least_squares.problem",
    "LowRankUpdate": "adapters.low_rank_update",
    "MEASURES": "subspaces.measures",
    "PatternDialect": "adapters.dialects",
    "SubspaceComparison": "alignment.comparison",
    "Variant": "finetuning.variants",
    "adapter_spectra": "alignment.spectra",
    "aggregation_error": "alignment.aggregation",
    "apply_variant": "finetuning.application",
    "asymmetry_index": "least_squares.theory",
    "certify": "bounds.certify",
    "check_claims": "finetuning.claims",
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
    "output_sensitivities": "finetuning.sensitivity",
    "paper_results": "finetuning.claims",
    "plot_bounds": "plots.bounds",
    "plot_drift": "plots.drift",
    "plot_figure_one": "plots.heatmap",
    "plot_intruders": "plots.intruders",
    "plot_least_squares": "plots.least_squares",
    "plot_regimes": "plots.regimes",
    "plot_sharing": "plots.sharing",
    "plot_similarity_heatmap": "plots.heatmap",
    "plot_spectra": "plots.spectra",
    "plot_subspace_alignment": "plots.alignment",
    "predict_asymmetry": "finetuning.prediction",
    "sample_adapters": "samples",
    "sample_predictions": "samples",
    "sample_runs": "samples",
    "score_variants": "finetuning.variant_scores",
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
