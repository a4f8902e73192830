"""Guarantee: what a checkpoint is bound to do on new data, and under which assumptions."""

from asym_analysis.bounds.certify import METHODS, certify
from asym_analysis.bounds.compute import RUNGS, compute_bound
from asym_analysis.bounds.conditional import Supersample, conditional_information, train_on_supersamples
from asym_analysis.bounds.description import EncodedAdapter, decode_adapter, encode_adapter
from asym_analysis.bounds.family import FamilyInformation, mutual_information_of_family
from asym_analysis.bounds.mutual_information import MutualInformation, estimate_mutual_information
from asym_analysis.bounds.posterior import GaussianPosterior, fitted_posterior, gaussian_posterior
from asym_analysis.bounds.report import BoundReport, BoundRow

__all__ = [
    "METHODS",
    "RUNGS",
    "BoundReport",
    "BoundRow",
    "EncodedAdapter",
    "FamilyInformation",
    "GaussianPosterior",
    "MutualInformation",
    "Supersample",
    "certify",
    "compute_bound",
    "conditional_information",
    "decode_adapter",
    "encode_adapter",
    "estimate_mutual_information",
    "fitted_posterior",
    "gaussian_posterior",
    "mutual_information_of_family",
    "train_on_supersamples",
]
