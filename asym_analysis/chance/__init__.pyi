"""The public names of this room, each imported when it is first used."""

from .chain import chain_residual as chain_residual
from .first_step import mean_sketch_overlap as mean_sketch_overlap
from .haar import captured_energy_moments as captured_energy_moments
from .haar import rotated_trace_moments as rotated_trace_moments
from .noise_spectrum import top_noise_energy as top_noise_energy
from .noisy_fit import gaussian_channel_information as gaussian_channel_information
from .null import BetaNull as BetaNull
from .null import Null as Null
from .null import probability_of_more as probability_of_more
from .overlap import overlap_null as overlap_null
from .retention import Retention as Retention
from .retention import effective_dimension_penalty as effective_dimension_penalty
from .retention import random_retention as random_retention
from .retention import rank_one_retention as rank_one_retention
from .spectral import ReferenceNull as ReferenceNull
from .tabulated import TabulatedNull as TabulatedNull
