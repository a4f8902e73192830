"""What sharing a factor or merging adapters would cost."""

from __future__ import annotations

from collections.abc import Sequence

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.alignment.aggregation import aggregation_error, merge_interference
from asym_analysis.alignment.shared_energy import shared_energy
from asym_analysis.errors import AdapterError
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.report.content import Drawn, Section, Table, figure_of
from asym_analysis.report.families import Family

__all__ = ["sharing"]

#: Pairwise costs that grow too fast for a page: sharing and merging are measured for at most so many adapters.
MOST_SHARING, MOST_MERGED = 64, 16


def sharing(families: Sequence[Family], adapters: AdapterSet) -> list[Section]:
    """Common subspaces, averaged factors and merged updates of each family; empty where there is nothing to say."""
    by_name = dict(zip(adapters.names, adapters, strict=True))
    figures, tables, text = [], [], []
    for number, family in enumerate(families):
        names = list(family.comparison.names)
        members = AdapterSet([by_name[name] for name in names], {"name": names})
        where = f": {family.title}" if len(families) > 1 else ""
        if len(members) > MOST_SHARING:
            text.append(f"Shared subspaces are measured for at most {MOST_SHARING} adapters{where}.")
            continue
        try:
            energy = shared_energy(members, sorted({1, 2, 4, 8, 16, max(members[0].ranks)}))
            ax = plot_sharing(energy)
            ax.set_title(family.title if len(families) > 1 else "")
            caption = f"Share of the squared norm inside one common subspace, by its dimension{where}."
            figures.append(Drawn(f"sharing_{number}", figure_of(ax), caption, f"Energy in a common subspace{where}."))
            averaged = aggregation_error(members).summary()
            tables.append(Table(averaged, f"Relative error of averaging factors and not updates{where}", AVERAGING))
            if len(members) <= MOST_MERGED:
                merged = merge_interference(members).summary()
                tables.append(Table(merged, f"What the sum of all updates does to each adapter{where}", MERGING))
        except (AdapterError, ValueError) as error:  # ranks or shapes differ: factors have no mean
            text.append(f"{error}.")
    if not (figures or tables or text):
        return []
    return [Section("Sharing and merging", text, figures, tables)]


AVERAGING = {
    "projection": "projection",
    "both_averaged": "A and B averaged",
    "shared_A": "A averaged, own B",
    "shared_B": "B averaged, own A",
    "update_norm": "‖mean ΔW‖",
}


MERGING = {
    "adapter": "adapter",
    "projection": "projection",
    "retained": "retained (1: intact)",
    "on_own_inputs": "change on own inputs",
    "cosine": "cosine with the sum",
    "energy_ratio": "energy of the sum (1: orthogonal)",
}
