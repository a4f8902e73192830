"""What A and B do while transformers' Trainer trains them: measured at every log and save, logged as metrics."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from asym_analysis.adapters.open_models import active_adapter, is_peft_model
from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.storage import INITIAL
from asym_analysis.finetuning.training_record import COLUMNS, ModuleGroup, TrainingRecord, medians, module_groups
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import whole

__all__ = ["AsymmetryCallback"]


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
        self._groups: list[ModuleGroup] = []
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
        self._groups = list(module_groups(model, self._adapter, self._initial))
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
        self._pending = medians(pd.DataFrame(rows))


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
