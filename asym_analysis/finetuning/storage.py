"""A run on disk: the folder that it claims, and the files that a finished one has."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asym_analysis.atomic import replacing
from asym_analysis.codec import plain
from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.digest import changed_inputs

if TYPE_CHECKING:
    from asym_analysis.finetuning.training_record import TrainingRecord

__all__ = ["FinetuneRun", "claim", "is_finished", "last_checkpoint", "read_run", "write_adapter", "write_run"]

INPUTS, METRICS, INITIAL, CHECKPOINTS = "run.json", "metrics.json", "initial.safetensors", "checkpoints"
OUTCOMES, HEAD, RECORD, COURSE = "outcomes.npz", "head.safetensors", "training.parquet", "course"


@dataclass(frozen=True, eq=False)
class FinetuneRun:
    """A finished run.

    Parameters
    ----------
    folder : path
        Where it is stored.
    metrics : dict
        Its scores, numbers trained, seconds and, as `curve`, its scores in the course of training.
    inputs : dict
        What it was made from, as `inputs_of` describes it.
    """

    folder: Path
    metrics: dict[str, Any]
    inputs: dict[str, Any]

    def outcomes(self) -> dict[str, np.ndarray]:
        """What was kept of every development row (see `Task.outcomes`), and `tuning`, True for the rows that tune.

        Returns
        -------
        dict of str to array
            Name -> one entry for each development row.
        """
        with np.load(self.folder / OUTCOMES) as stored:
            return dict(stored)

    def training_record(self) -> TrainingRecord | None:
        """Read what A and B did while the run trained.

        Returns
        -------
        TrainingRecord or None
            None for runs without an adapter, and for runs of versions that kept no record.
        """
        from asym_analysis.finetuning.training_record import TrainingRecord

        path = self.folder / RECORD
        return TrainingRecord.from_parquet(path) if path.is_file() else None


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / METRICS).exists()


def read_run(folder: Path) -> FinetuneRun:
    """Read a finished run."""
    metrics, inputs = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (METRICS, INPUTS))
    return FinetuneRun(folder, metrics, inputs)


def claim(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Leave a run's inputs in a folder that holds nothing but this very run, unfinished.

    Raises
    ------
    FileExistsError
        If the folder holds a finished run, an unfinished one of other inputs, or anything else.
    """
    if is_finished(folder):
        raise FileExistsError(f"{folder} already holds a finished run; choose another folder or remove it")
    if (folder / INPUTS).exists():
        stored = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        if changes := changed_inputs(stored, inputs):
            raise FileExistsError(
                f"{folder} holds an unfinished run of other inputs ({', '.join(changes)}); choose another folder, "
                "remove it, or redo the sweep's changed runs (--redo)"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another folder")
    with replacing(folder / INPUTS) as part:
        part.write_text(json.dumps(inputs, indent=1), encoding="utf-8")


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint of an interrupted run."""
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(folder / CHECKPOINTS)) if (folder / CHECKPOINTS).is_dir() else None


def write_run(
    folder: Path,
    config: FinetuneConfig,
    model: Any,
    initial: dict[str, Tensor],
    heads: dict[str, Tensor],
    metrics: dict[str, Any],
    outcomes: dict[str, np.ndarray],
) -> None:
    """Write what a run trained, and last its metrics: then the run is finished.

    An adapter is written as PEFT writes it, with its initial factors beside it; a run of kind "frozen" its head alone;
    one of kind "full" no weights.
    """
    if config.parsed_variant is not None:
        write_adapter(folder, config, model)
        _save(initial, folder / INITIAL, config)
    elif config.variant == "frozen" and heads:
        _save(heads, folder / HEAD, config)
    with replacing(folder / OUTCOMES) as part, open(part, "wb") as file:
        np.savez_compressed(file, **outcomes)  # type: ignore[arg-type]
    with replacing(folder / METRICS) as part:
        part.write_text(json.dumps(plain(metrics), indent=1), encoding="utf-8")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def write_adapter(folder: Path, config: FinetuneConfig, model: Any) -> None:
    """Write the adapter of a model as PEFT writes it, with its head.

    Parameters
    ----------
    folder
        Made where it is absent.
    config
        The run's settings, of a variant with an adapter.
    model
        The PEFT model.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    _save(get_peft_model_state_dict(model, save_embedding_layers=False), folder / "adapter_model.safetensors", config)
    layout, variant = copy.deepcopy(model.peft_config["default"]), config.parsed_variant
    assert variant is not None
    layout.base_model_name_or_path = config.base_model or config.model
    layout.inference_mode = True
    # True promises PEFT's own initialization, which tools that reconstruct it rely on; any other is the user's own.
    layout.init_lora_weights = (variant.A.initialization, variant.B.initialization) == ("kaiming", "zero")
    layout.save_pretrained(str(folder))


def _save(tensors: Mapping[str, Tensor], path: Path, config: FinetuneConfig) -> None:
    from safetensors.torch import save_file

    dtype = getattr(torch, config.storage_dtype)
    stored = {key: value.detach().cpu().to(dtype).contiguous() for key, value in tensors.items()}
    with replacing(path) as part:
        save_file(stored, part, metadata={"format": "pt"})
