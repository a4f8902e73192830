from .claims import Claim as Claim
from .claims import check_claims as check_claims
from .claims import paper_claims as paper_claims
from .claims import paper_results as paper_results
from .scores import VariantScores as VariantScores
from .scores import score_variants as score_variants
