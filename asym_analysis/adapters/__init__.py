"""Read: a checkpoint of any format becomes an `Adapter`."""

from asym_analysis.adapters.adapter import Adapter, ModuleSource, Part, TensorSource
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.coverage import Coverage
from asym_analysis.adapters.low_rank_update import LowRankUpdate

__all__ = ["Adapter", "AdapterSet", "Coverage", "LowRankUpdate", "ModuleSource", "Part", "TensorSource"]
