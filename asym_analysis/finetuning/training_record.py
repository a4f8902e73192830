"""Movement, overlaps and effective rank of an open LoRA's factors, the modules of one shape together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult
from asym_analysis.subspaces.bases import orthonormal_rows
from asym_analysis.subspaces.updates import singular_values
from asym_analysis.vocabulary import FACTORS

__all__ = ["COLUMNS", "ModuleGroup", "TrainingRecord", "medians", "module_groups"]

COLUMNS = [
    "step", "epoch", "module", "layer", "projection", "factor", "value", "norm", "to_initial", "to_previous",
    "effective_rank",
]  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class TrainingRecord(TableResult):
    """What A and B did while a run trained.

    The columns of `frame`, one row a recorded step, module and factor:

    - step, epoch, module, layer, projection, factor;
    - value: ||F - F0||_F / ||F0||_F; NaN where F0 is zero;
    - norm: ||F||_F, which is what a factor moved that was zero at first;
    - to_initial: overlap of row(A) or col(B) with its initialization, 1 if the same; NaN where F0 is zero;
    - to_previous: overlap with the recorded step before; NaN for the first;
    - effective_rank: of the update B A, as in `adapter_spectra`; the same in both rows of a module.

    Attributes
    ----------
    frame
        The table.
    settings
        Arguments and versions.
    """

    _plot: ClassVar[str | None] = "training:plot_training"

    def summary(self) -> pd.DataFrame:
        """One row a recorded step and factor: medians over the modules.

        Returns
        -------
        DataFrame
            step, epoch, factor, value, norm, to_initial, to_previous, effective_rank.
        """
        groups = self.frame.groupby(["step", "epoch", "factor"], sort=False, dropna=False)
        return groups[COLUMNS[COLUMNS.index("value") :]].median().reset_index()


@dataclass
class ModuleGroup:
    """Modules of one shape, measured together: their factors, and what is kept of them."""

    modules: list[str]
    factors: dict[str, list[Tensor]]
    initial: dict[str, Tensor]
    initial_basis: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    previous: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.initial_basis = {factor: orthonormal_rows(rows) for factor, rows in self.initial.items()}

    @torch.no_grad()
    def measure(self) -> list[dict[str, Any]]:
        """One row a module and factor."""
        now = {factor: _stacked(values, factor) for factor, values in self.factors.items()}
        shares = singular_values(now["A"], now["B"].mT)
        shares = shares / shares.sum(-1, keepdim=True)
        columns = {"effective_rank": torch.special.entr(shares).sum(-1).exp().tolist()}
        rows: list[dict[str, Any]] = []
        for factor in FACTORS:
            rows_now, start = now[factor], self.initial[factor]
            basis, length = orthonormal_rows(rows_now), torch.linalg.matrix_norm(start)
            moved = torch.linalg.matrix_norm(rows_now - start) / length
            columns["value"] = moved.masked_fill(length == 0, torch.nan).tolist()
            columns["norm"] = torch.linalg.matrix_norm(rows_now).tolist()
            columns["to_initial"] = _overlaps(basis, self.initial_basis[factor])
            before = self.previous.get(factor)
            columns["to_previous"] = [torch.nan] * len(self.modules) if before is None else _overlaps(basis, before)
            self.previous[factor] = basis
            for i, module in enumerate(self.modules):
                rows.append({**place(module), "factor": factor} | {name: column[i] for name, column in columns.items()})
        return rows


def module_groups(model: Any, adapter: str, initial: Mapping[str, Tensor]) -> Iterator[ModuleGroup]:
    """The LoRA layers of an open model in groups of one shape, with their recorded initialization."""
    found: dict[tuple[Any, ...], list[tuple[str, Tensor, Tensor]]] = {}
    for path, A, B in _layers(model, adapter):
        found.setdefault((A.shape, B.shape, A.device), []).append((path, A, B))
    for members in found.values():
        factors = {"A": [A for _, A, _ in members], "B": [B for _, _, B in members]}
        start = {
            factor: [_recorded(initial, path, factor).to(values[0].device) for path, _, _ in members]
            for factor, values in factors.items()
        }
        modules = [path.removeprefix("base_model.model.") for path, _, _ in members]
        yield ModuleGroup(modules, factors, {factor: _stacked(values, factor) for factor, values in start.items()})


def _layers(model: Any, adapter: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Path, A and B of every LoRA layer; embeddings keep theirs as parameters."""
    for path, layer in model.named_modules():
        for kind in ("lora_", "lora_embedding_"):
            A, B = (getattr(layer, f"{kind}{factor}", {}) for factor in FACTORS)
            if isinstance(A, torch.nn.ModuleDict | torch.nn.ParameterDict) and adapter in A:
                yield path, *(getattr(part[adapter], "weight", part[adapter]) for part in (A, B))


def _recorded(initial: Mapping[str, Tensor], path: str, factor: str) -> Tensor:
    keys = (f"{path}.lora_{factor}.weight", f"{path}.lora_embedding_{factor}")
    key = next((key for key in keys if key in initial), None)
    if key is None:
        raise AdapterError(f"the recorded initialization has no {factor} of module {path}: it is another adapter's")
    return initial[key]


def _stacked(values: list[Tensor], factor: str) -> Tensor:
    """The factors as rows, one matrix a module, in at least float32."""
    flat = torch.stack([value.detach().flatten(1) for value in values])
    flat = flat if flat.dtype == torch.float64 else flat.float()
    return flat if factor == "A" else flat.mT


def _overlaps(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> list[float]:
    """Mean squared cosine of the principal angles; NaN where either space is empty."""
    least = torch.minimum(left[1], right[1]).to(left[0].dtype)
    shared = (left[0] @ right[0].mT).square().sum((-2, -1))
    return (shared / least.masked_fill(least == 0, torch.nan)).tolist()


def medians(rows: pd.DataFrame) -> dict[str, float]:
    """The metrics of one step, from the rows of all modules."""
    A, B = (rows[rows.factor == factor] for factor in FACTORS)
    values = {"A_movement": A.value, "B_movement": B.value}
    if B.value.isna().any():
        values["B_norm"] = B.norm[B.value.isna()]
    values |= {"A_overlap_initial": A.to_initial, "B_overlap_previous": B.to_previous}
    values["effective_rank"] = A.effective_rank
    return {f"asym_{name}": float(column.median()) for name, column in values.items() if column.notna().any()}
