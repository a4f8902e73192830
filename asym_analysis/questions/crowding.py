"""Why does this merge fail? Directions that many adapters use, against chance, and what damping them does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import as_adapter, as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, row_basis, table_of
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import choose, whole

__all__ = ["Crowding", "crowding"]


@dataclass(frozen=True, eq=False, repr=False)
class Crowding(Result):
    """Output directions that many adapters use, against chance.

    Attributes
    ----------
    frame
        One row a module and shared direction, the most used first:

        - module, layer, projection, index
        - use: sum over the adapters of the squared cosine between the direction and the adapter's space: how many
          adapters use it
        - null_use: mean of the same for independent random spaces of the same dimensions; null_high: their 99 percent
          point
        - crowded: True where `use` exceeds `null_high`
        - damping: factor that brings the direction's use down to `null_high`; 1 where it is not crowded
    directions
        Module -> unit vectors, one row for each row of the frame: eigenvectors of the sum of the adapters' projectors.
    settings
        side, adapters, draws, seed, versions.
    """

    frame: pd.DataFrame
    directions: Mapping[str, Float[Tensor, "k d"]]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_crowding"

    def summary(self) -> pd.DataFrame:
        """One row a projection: crowded directions a module and the largest use, each beside what chance gives.

        Returns
        -------
        DataFrame
            `projection, modules, crowded, crowded_by_chance` (one in a hundred), `largest_use, null_high`.
        """
        grouped = self.frame.groupby("projection", sort=False)
        modules = grouped["module"].nunique()
        return pd.DataFrame(
            {
                "modules": modules,
                "crowded": grouped["crowded"].sum() / modules,
                "crowded_by_chance": 0.01 * grouped.size() / modules,
                "largest_use": grouped["use"].max(),
                "null_high": grouped["null_high"].max(),
            }
        ).reset_index()

    def damp(self, adapter: Any) -> Adapter:
        """Multiply the crowded directions of a merged adapter by their damping.

        Parameters
        ----------
        adapter : Adapter or source
            Usually the sum of the adapters, `merge_adapters(adapters)`; see the notes of `crowding` on when it helps.

        Returns
        -------
        Adapter
            A new adapter; modules without a crowded direction stay as they are.
        """
        read = as_adapter(adapter)
        changed = {}
        for module, found in self.frame[self.frame["crowded"]].groupby("module", sort=False):
            name = str(module)
            if name not in read:
                continue
            update, less = read[name], torch.tensor(1 - found["damping"].to_numpy())
            vectors = self.directions[name][torch.tensor(found["index"].to_numpy() - 1)]
            factor = (update.B.mT if self.settings["side"] == "B" else update.A).double()
            damped = (factor - (factor @ vectors.mT * less) @ vectors).to(update.A.dtype)
            changed[name] = replace(update, B=damped.mT) if self.settings["side"] == "B" else replace(update, A=damped)
        changes = [*read.metadata.get("changes", ()), f"crowded directions damped in {len(changed)} modules"]
        return read.with_updates(changed, changes=changes)

    def __repr__(self) -> str:
        crowded, modules = int(self.frame["crowded"].sum()), self.frame["module"].nunique()
        return f"Crowding({crowded} crowded directions in {modules} modules)"


def crowding(adapters: Any, *, side: str = "B", directions: int = 16, draws: int = 100, seed: int = 0) -> Crowding:
    """Count how many adapters use each output direction (or input direction), against independent random spaces.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Two or more adapters of one base.
    side : str, default "B"
        "B" for output directions, "A" for input directions.
    directions : int, default 16
        The most used directions reported for each module.
    draws : int, default 100
        Random families for the null distribution.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    Crowding
        With the directions, and `damp` to lower them in a merge.

    Raises
    ------
    AdapterError
        If fewer than two adapters share a module.
    ValueError
        For another side.

    Notes
    -----
    Damping is for a sum of adapters (weights of 1), not for their mean. With eight least-squares clients whose adapters
    share two output directions and agree there, the sum has 22 times the loss of no adapter, against 3.6 with private
    directions; damping the reported directions leaves 5.8, the best of twenty damped sets of random directions 15 to
    20, and one scale for the whole sum 7.8. The mean of the same adapters has 0.43, which damping raises to 0.51. Where
    the adapters share directions without agreeing, the sum loses no more than with private ones: `crowded` alone does
    not say that a merge fails, see `merge_interference` for agreement (tests/questions/test_crowding_validated.py).

    On trained adapters it did not help: the sum of four shipped adapters (MRPC, SST-2, STS-B and CoLA on one encoder)
    loses .89 of the first three tasks' gains, .87 after damping, .83 when the whole sum is scaled to the same norm, .86
    and .87 with random directions damped; with one initialization 1.19, 1.15, 1.12 and 1.17, 1.17
    (benchmarks/minilm/merging.py).

    References
    ----------
    .. [1] Works on interference in the output space of merged adapters suggested the question; the quantities are named
       by what they compute. docs/theory.md, section 4.2, for random spaces.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> B = torch.randn(64, 2, generator=draw)
    >>> runs = [Adapter.from_factors({"q": (torch.randn(2, 32, generator=draw), B)}, name=str(i)) for i in range(4)]
    >>> crowding(runs, directions=2).frame[["use", "crowded"]].round(6).values.tolist()
    [[4.0, True], [4.0, True]]
    """
    choose(side, ("A", "B"), "side")
    whole(directions, "directions", least=1)
    whole(draws, "draws", least=20)
    runs = as_adapters(adapters)
    generator = torch.Generator().manual_seed(seed)
    nulls: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    rows, vectors = [], {}
    for module in runs.modules:
        bases = _bases(runs, module, side)
        if len(bases) < 2:
            continue
        d, ranks = bases[0].shape[1], tuple(sorted(len(basis) for basis in bases))
        found = torch.linalg.svd(torch.cat(bases), full_matrices=False)
        use, vectors[module] = found.S.square().numpy()[:directions], found.Vh[:directions].clone()
        if (d, *ranks) not in nulls:
            nulls[d, *ranks] = _random_use(d, ranks, len(use), draws, generator)
        mean, high = nulls[d, *ranks]
        for index, value in enumerate(use):
            # Where the spaces fill the whole space, every direction has the same use: rounding must not decide.
            crowded = bool(value > high[index] * (1 + 1e-9))
            rows.append(
                {
                    **place(module), "index": index + 1, "use": float(value), "null_use": float(mean[index]),
                    "null_high": float(high[index]), "crowded": crowded,
                    "damping": float((high[index] / value) ** 0.5) if crowded else 1.0,
                }
            )  # fmt: skip
    settings = settings_of(side=side, adapters=list(runs.names), draws=draws, seed=seed)
    return Crowding(table_of(rows, {}, "crowding", "no module is in two or more of the adapters"), vectors, settings)


def _bases(runs: AdapterSet, module: str, side: str) -> list[Tensor]:
    found = []
    for run in runs:
        if module in run:
            A, B = factors_of(run[module])
            basis = row_basis(A if side == "A" else B.mT)
            if len(basis):
                found.append(basis)
    if len({basis.shape[1] for basis in found}) > 1:
        raise AdapterError(f"module {module}: the adapters have different widths; adapters of one base are needed")
    return found


def _random_use(
    d: int, ranks: tuple[int, ...], count: int, draws: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for _ in range(draws):
        drawn = [torch.linalg.qr(torch.randn(d, r, generator=generator, dtype=torch.float64))[0].mT for r in ranks]
        found.append(torch.linalg.svdvals(torch.cat(drawn)).square().numpy()[:count])
    stacked = np.stack(found)
    return stacked.mean(0), np.quantile(stacked, 0.99, axis=0)
