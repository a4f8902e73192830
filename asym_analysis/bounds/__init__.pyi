"""Every public name of this package, listed once."""

from .certify import METHODS as METHODS
from .certify import certify as certify
from .compute import RUNGS as RUNGS
from .compute import compute_bound as compute_bound
from .conditional import ConditionalInformation as ConditionalInformation
from .conditional import Supersample as Supersample
from .conditional import conditional_information as conditional_information
from .conditional import train_on_supersamples as train_on_supersamples
from .description import EncodedAdapter as EncodedAdapter
from .description import decode_adapter as decode_adapter
from .description import encode_adapter as encode_adapter
from .duplicates import Duplicates as Duplicates
from .duplicates import find_duplicates as find_duplicates
from .family import FamilyInformation as FamilyInformation
from .family import mutual_information_of_family as mutual_information_of_family
from .mutual_information import MutualInformation as MutualInformation
from .mutual_information import estimate_mutual_information as estimate_mutual_information
from .parametrizations import PARAMETRIZATIONS as PARAMETRIZATIONS
from .parametrizations import ParametrizationTable as ParametrizationTable
from .parametrizations import compare_parametrizations as compare_parametrizations
from .parametrizations import parameter_count as parameter_count
from .posterior import GaussianPosterior as GaussianPosterior
from .posterior import fitted_posterior as fitted_posterior
from .posterior import gaussian_posterior as gaussian_posterior
from .report import BoundReport as BoundReport
from .report import BoundRow as BoundRow
