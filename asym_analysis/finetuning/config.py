"""The settings of one fine-tuning run, and how they are read from a mapping or a TOML file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.tasks import TASKS, Task
from asym_analysis.finetuning.variants import Variant

__all__ = ["FinetuneConfig", "model_source"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a run.

    Parameters
    ----------
    model
        A Hugging Face id, a folder, a .gguf file, or "package:NAME/PATH" for weights that an installed package carries.
    task
        The task, with its data.
    variant
        Which factor is trained and how each starts, in the notation of `Variant.parse`.
    target_modules
        What to adapt: names of modules, each also the end of a longer name; or one regular expression for whole names.
    rank, alpha, dropout
        Of the adapter; the update is alpha/rank · B·A.
    seed
        Of the head's start, the order of the data and dropout.
    init_seed
        Of the factors' start; `seed` if None.
    learning_rate, epochs, max_steps
        AdamW with a linear schedule; `max_steps` overrides `epochs` where given.
    batch_size, gradient_accumulation
        Rows a device and step, and steps an update.
    warmup
        Fraction of the steps in which the learning rate rises.
    weight_decay
        Of AdamW; zero by default, so that a factor moves by its gradient alone.
    group_by_length
        Batches of rows of like length, which saves padding.
    optimizer
        "adamw", or "lorafa": PEFT's LoRA-FA optimizer, for variants with A frozen.
    bf16, device_map
        Mixed precision, and how the model is laid over devices, as transformers and accelerate take them.
    dtype
        The pretrained weights are loaded in it, whatever their file holds: float16 is slow, and trains badly, on a CPU.
    storage_dtype
        The factors start from values that this dtype holds exactly, and are stored in it.
    base_model
        The name that the adapter records for its base model; `model` if None.
    save_steps
        A checkpoint every so many steps, from which an interrupted run resumes; once an epoch if None.
    """

    model: str
    task: Task
    target_modules: tuple[str, ...] | str
    variant: str = "hB_0 hA_Km"
    rank: int = 8
    alpha: float | int = 16.0
    dropout: float | int = 0.0
    seed: int = 0
    init_seed: int | None = None
    learning_rate: float | int = 4e-4
    epochs: float | int = 3.0
    max_steps: int | None = None
    batch_size: int = 16
    gradient_accumulation: int = 1
    warmup: float | int = 0.06
    weight_decay: float | int = 0.0
    group_by_length: bool = False
    optimizer: Literal["adamw", "lorafa"] = "adamw"
    bf16: bool = False
    device_map: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    storage_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    base_model: str | None = None
    save_steps: int | None = None

    def __post_init__(self) -> None:
        Variant.parse(self.variant)
        if self.rank < 1 or self.batch_size < 1 or self.gradient_accumulation < 1:
            raise ValueError("rank, batch_size and gradient_accumulation must be at least 1")

    @property
    def factor_seed(self) -> int:
        """The seed from which the factors start."""
        return self.seed if self.init_seed is None else self.init_seed

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], *, folder: Path = Path()) -> FinetuneConfig:
        """Make a config from plain values, as a TOML file gives them; relative paths are taken from `folder`.

        The task is a table with its `kind` and its own settings.

        Raises
        ------
        AdapterError
            If a setting is unknown or missing; the message names it and lists what is known.
        """
        settings = dict(settings)
        task = _task(settings.pop("task", None), folder)
        known = {field.name for field in fields(cls)} - {"task"}
        _refuse_unknown("the run", settings, known)
        missing = {"model", "target_modules"} - set(settings)
        if missing:
            raise AdapterError(f"the run lacks {', '.join(sorted(missing))}")
        targets = settings.pop("target_modules")
        settings["target_modules"] = targets if isinstance(targets, str) else tuple(targets)
        try:
            return cls(task=task, **settings)
        except (TypeError, ValueError) as error:
            raise AdapterError(f"the run cannot be made: {error}") from error

    def as_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` reads back, as stored beside a run; where the data lay is left out."""
        settings = {key: value for key, value in asdict(self).items() if value is not None and key != "task"}
        task = {
            key: value
            for key, value in asdict(self.task).items()  # type: ignore[call-overload]
            if value is not None and not isinstance(value, Path)
        }
        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return {**settings, "target_modules": targets, "task": {"kind": self.task.kind, **task}}


def model_source(model: str) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds a model, and with which options.

    Ids and folders are left as they are. "package:NAME/FOLDER" is resolved in an installed package, and a .gguf file
    becomes its folder with the option `gguf_file`.

    Raises
    ------
    AdapterError
        If the package is not installed or does not hold that path.

    Examples
    --------
    >>> model_source("models/small.gguf")
    ('models', {'gguf_file': 'small.gguf'})
    """
    if model.startswith("package:"):
        package, _, inner = model.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise AdapterError(
                f"{model}: the package {package} is not installed; pip install {package.replace('_', '-')}"
            )
        path = Path(found.submodule_search_locations[0]) / inner
        if not path.exists():
            raise AdapterError(f"{model}: the package {package} holds no {inner}")
        model = str(path)
    if model.endswith(".gguf"):
        return str(Path(model).parent), {"gguf_file": Path(model).name}
    return model, {}


def _task(settings: Any, folder: Path) -> Task:
    if not isinstance(settings, Mapping) or settings.get("kind") not in TASKS:
        raise AdapterError(f"the run needs a task table with a kind, one of: {', '.join(sorted(TASKS))}")
    values = dict(settings)
    kind = TASKS[values.pop("kind")]
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(f"the task {kind.kind}", values, set(known))
    for name, field in known.items():
        # Annotations are strings here; a path in a config file is relative to that file.
        if name in values and "Path" in str(field.type):
            values[name] = folder / Path(str(values[name])).expanduser()
        elif isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    try:
        return kind(**values)
    except TypeError as error:
        raise AdapterError(f"the task {kind.kind}: {error}") from error


def _refuse_unknown(what: str, settings: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(settings) - known)
    if unknown:
        raise AdapterError(f"{what} has no setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
