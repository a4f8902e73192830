"""The parts of the report: each a title, a sentence or two, figures and tables; in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.report.between import by_layer, same_against_different, similarity
from asym_analysis.report.beyond import bounds, intruders
from asym_analysis.report.combined import sharing
from asym_analysis.report.content import Section
from asym_analysis.report.families import Family
from asym_analysis.report.sources import adapter_table, coverage
from asym_analysis.report.within import Measured, movement, over_steps, spectra

__all__ = ["build_sections"]


def build_sections(
    adapters: AdapterSet,
    families: Sequence[Family],
    measured: Measured,
    *,
    base: Any = None,
    n_samples: int | None = None,
) -> list[Section]:
    """Build every section that these adapters have the data for.

    Parameters
    ----------
    adapters
        All adapters.
    families
        From `compare_families`; may be empty.
    measured
        From `measure`.
    base
        The base model, for the section on intruder dimensions.
    n_samples
        Number of training samples, for the section on bounds.

    Returns
    -------
    list of Section
        In the order of the page.
    """
    sections: list[Section | None] = [coverage(adapters, families)]
    sections += [similarity(families), by_layer(families), same_against_different(adapters)] if families else []
    sections += [
        over_steps(adapters),
        movement(adapters, measured),
        spectra(measured),
        *sharing(families, adapters),
    ]
    sections += [intruders(adapters, base)] if base is not None else []
    sections += [bounds(adapters, n_samples)] if n_samples is not None else []
    return [section for section in [*sections, adapter_table(adapters)] if section is not None]
