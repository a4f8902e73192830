"""Guarantee: what a checkpoint is bound to do on new data, and under which assumptions."""

from asym_analysis.bounds.certify import METHODS, certify
from asym_analysis.bounds.compute import RUNGS, compute_bound
from asym_analysis.bounds.description import EncodedAdapter, decode_adapter, encode_adapter
from asym_analysis.bounds.posterior import GaussianPosterior, fitted_posterior, gaussian_posterior
from asym_analysis.bounds.report import BoundReport, BoundRow

__all__ = [
    "METHODS",
    "RUNGS",
    "BoundReport",
    "BoundRow",
    "EncodedAdapter",
    "GaussianPosterior",
    "certify",
    "compute_bound",
    "decode_adapter",
    "encode_adapter",
    "fitted_posterior",
    "gaussian_posterior",
]
