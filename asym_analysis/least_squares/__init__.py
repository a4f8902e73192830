"""EXPLAIN: least-squares models in which the asymmetry of A and B has closed forms. Knows no adapter.

`LeastSquaresProblem` is the model; `expected_loss`, `asymmetry_index` and `win_probability` say which factor is better
frozen; `simulate` and `compare_theory` lay simulation under the theory. The public names are listed in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any
from warnings import warn

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_MOVED = (
    "Retention",
    "captured_energy_moments",
    "effective_dimension_penalty",
    "random_retention",
    "rank_one_retention",
)


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        warn(
            f"asym_analysis.least_squares.{name} moved to asym_analysis.chance; the next release drops the old place",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module("asym_analysis.chance"), name)
    return _attribute(name)
