"""What A and B do while transformers' Trainer trains them: measured at every log and save, logged as metrics."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from asym_analysis.adapters.module_names import place
from asym_analysis.adapters.open_models import active_adapter, is_peft_model
from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.storage import INITIAL
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces.bases import orthonormal_rows
from asym_analysis.subspaces.updates import singular_values
from asym_analysis.vocabulary import FACTORS, whole

__all__ = ["AsymmetryCallback", "TrainingRecord"]

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

    def summary(self) -> pd.DataFrame:
        """One row a recorded step and factor: medians over the modules.

        Returns
        -------
        DataFrame
            step, epoch, factor, value, norm, to_initial, to_previous, effective_rank.
        """
        groups = self.frame.groupby(["step", "epoch", "factor"], sort=False, dropna=False)
        return groups[COLUMNS[COLUMNS.index("value") :]].median().reset_index()


class AsymmetryCallback(TrainerCallback):
    """Record what A and B of a PEFT LoRA do while transformers' Trainer trains them.

    At every log and save of the Trainer, and after the last step, it measures how far each factor moved, how much of
    the row space of A and of the column space of B stayed, and the effective rank of the update. The medians over the
    modules go into the Trainer's own log: `asym_A_movement`, `asym_B_movement` (`asym_B_norm` where B was zero at
    first), `asym_A_overlap_initial`, `asym_B_overlap_previous` and `asym_effective_rank`. The factors before the first
    step are written beside every saved adapter as `initial.safetensors`, where `load_adapter` finds them.

    The model has to lie on each device whole: factors that FSDP or DeepSpeed ZeRO-3 split are not gathered.

    Parameters
    ----------
    every : int, optional
        Measure every so many steps. By default whenever the Trainer logs, which is every `logging_steps`.

    Raises
    ------
    ValueError
        If `every` is less than 1.

    Examples
    --------
    Reporters such as TensorBoard or Weights & Biases stand before the callbacks that a Trainer is given; `attach` goes
    before them, so that they see the metrics too:

    >>> trainer = Trainer(model, arguments, train_dataset=rows)  # doctest: +SKIP
    >>> callback = AsymmetryCallback().attach(trainer)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    >>> callback.result().summary()  # doctest: +SKIP
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = None if every is None else whole(every, "every", least=1)
        self._attached = self._training = False
        self._clear()

    def _clear(self) -> None:
        self._groups: list[_Group] = []
        self._initial: dict[str, Tensor] = {}
        self._adapter = "default"
        self._rows: list[dict[str, Any]] = []
        self._measured_step = -1
        self._pending: dict[str, float] = {}

    def attach(self, trainer: Any) -> AsymmetryCallback:
        """Add the callback to a Trainer, before the reporters.

        Parameters
        ----------
        trainer : transformers.Trainer
            Its model is a PEFT LoRA.

        Returns
        -------
        AsymmetryCallback
            The callback itself.

        Raises
        ------
        AdapterError
            If the model is no PEFT LoRA.
        """
        _check(trainer.model)
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(callback for callback in callbacks if callback is not self)]
        self._attached = True
        return self

    def result(self) -> TrainingRecord:
        """Everything recorded so far.

        Returns
        -------
        TrainingRecord
            One row a recorded step, module and factor.
        """
        frame = pd.DataFrame(self._rows, columns=COLUMNS).astype({"layer": "Int64"})
        return TrainingRecord(frame, settings_of(every=self.every, adapter=self._adapter))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep the initial factors; a run that goes on takes them from its checkpoint."""
        _check(model)
        if args.report_to and not self._attached:
            warnings.warn(
                f"the metrics of AsymmetryCallback reach the log history but not {', '.join(args.report_to)}, which "
                "stands before it: use AsymmetryCallback().attach(trainer) in place of callbacks=[...]",
                stacklevel=2,
            )
        self._clear()
        self._adapter = active_adapter(model)
        self._initial = _state(model, self._adapter)
        if state.global_step:
            file = self._folder(args, state) / INITIAL
            if not file.is_file():
                raise AdapterError(
                    f"training goes on at step {state.global_step} and {file} is missing, so the initialization is "
                    "unknown: use the callback from the first step on, or put the initial factors there"
                )
            self._initial = load_file(file)
        self._groups = list(_groups(model, self._adapter, self._initial))
        self._training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the last step, and those that `every` asks for."""
        if state.global_step >= state.max_steps or (self.every and state.global_step % self.every == 0):
            self._measure(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the medians to the log."""
        # The summary at the end may come after the best checkpoint was loaded: its weights are not those of this step.
        if not self._training or logs is None or "train_runtime" in logs:
            return
        if self.every is None:
            self._measure(state)
        logs.update(self._pending)
        if state.log_history:
            state.log_history[-1].update(self._pending)
        self._pending = {}

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure, and write the initial factors beside the saved adapter."""
        self._measure(state)
        if args.should_save and self._folder(args, state).is_dir():
            self._write(self._folder(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the initial factors where `save_model` will put the adapter."""
        self._training = False
        if args.should_save:
            self._write(Path(args.output_dir))

    def _folder(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}"

    def _write(self, folder: Path) -> None:
        folder = folder if self._adapter == "default" else folder / self._adapter  # as PEFT does
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / INITIAL) as part:
            save_file(self._initial, part, metadata={"format": "pt"})

    def _measure(self, state: Any) -> None:
        if not self._training or not state.is_world_process_zero or state.global_step == self._measured_step:
            return
        self._measured_step = state.global_step
        rows = [row for group in self._groups for row in group.measure()]
        self._rows += [{"step": state.global_step, "epoch": state.epoch, **row} for row in rows]
        self._pending = _medians(pd.DataFrame(rows))


@dataclass
class _Group:
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


def _groups(model: Any, adapter: str, initial: Mapping[str, Tensor]) -> Iterator[_Group]:
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
        yield _Group(modules, factors, {factor: _stacked(values, factor) for factor, values in start.items()})


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
    least = torch.minimum(left[1], right[1])
    return ((left[0] @ right[0].mT).square().sum((-2, -1)) / least.masked_fill(least == 0, -1)).where(
        least > 0, torch.nan
    ).tolist()  # fmt: skip


def _medians(rows: pd.DataFrame) -> dict[str, float]:
    A, B = (rows[rows.factor == factor] for factor in FACTORS)
    values = {"A_movement": A.value, "B_movement": B.value}
    if B.value.isna().any():
        values["B_norm"] = B.norm[B.value.isna()]
    values |= {"A_overlap_initial": A.to_initial, "B_overlap_previous": B.to_previous}
    values["effective_rank"] = A.effective_rank
    return {f"asym_{name}": float(column.median()) for name, column in values.items() if column.notna().any()}


def _state(model: Any, adapter: str) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items() if "lora_" in key}


def _check(model: Any) -> None:
    if not is_peft_model(model):
        raise AdapterError(
            f"AsymmetryCallback needs a model with a PEFT LoRA, not a {type(model).__name__}: wrap it with "
            "peft.get_peft_model first"
        )
    kind = model.peft_config[active_adapter(model)].peft_type
    if (kind := getattr(kind, "value", kind)) != "LORA":
        raise AdapterError(f"AsymmetryCallback needs a LoRA; the model's adapter is of kind {kind}")
