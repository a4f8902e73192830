"""The settings of one fine-tuning run, and how they are read from a mapping."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, InstanceOf
from pydantic.dataclasses import dataclass

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, DataPath, Fraction, Rate, Seed, read_settings
from asym_analysis.finetuning.tasks import Task, read_task
from asym_analysis.finetuning.variants import Variant

__all__ = ["FinetuneConfig", "model_source"]

Dtype = Literal["float32", "float16", "bfloat16"]


def _trainable(text: str) -> str:
    if text not in ("frozen", "full"):
        Variant.parse(text)
    return text


def _variant(text: str) -> str:
    Variant.parse(text)
    return text


@dataclass(frozen=True, config=CHECKED)
class FinetuneConfig:
    """Everything that decides a run. Every value is checked when a config is made.

    Parameters
    ----------
    model : str
        A Hugging Face id, a folder, a .gguf file, or "package:NAME/PATH" for weights that an installed package carries.
    task : Task or str
        The task, with its data.
    target_modules : tuple of str or str
        What to adapt: names of modules, each also the end of a longer name; or one regular expression for whole names.
    variant : str, default "hB_0 hA_Km"
        Which factor is trained and how each is initialized, in the notation of `Variant.parse`. Two kinds of run have
        no adapter: "frozen" trains the task's head alone (nothing where the task has none), and "full" all weights.
    other_variant, other_modules : str and tuple of str, optional
        A second variant, and the modules that have it in place of `variant`: names, each also the end of a longer name.
    rank, alpha, dropout : int or float, optional
        Of the adapter; the update is alpha/rank · B·A.
    seed : int, default 0
        Of the head's initial values, the order of the data and dropout.
    init_seed : int, optional
        Of the factors' initial values; `seed` if None.
    learning_rate : float, default 4e-4
        Of AdamW, with a linear schedule.
    head_learning_rate : float, optional
        Of the task's head; `learning_rate` if None.
    epochs, max_steps : float or int, optional
        Length of the training; `max_steps` overrides `epochs` where given.
    batch_size, gradient_accumulation : int, optional
        Rows a device and step, and steps an update.
    warmup : float, default 0.06
        Fraction of the steps in which the learning rate rises.
    weight_decay : float, default 0.0
        Of AdamW; zero by default, so that a factor moves by its gradient alone.
    group_by_length : bool, default False
        Batches of rows of like length, which saves padding.
    optimizer : {"adamw", "lorafa"}, default "adamw"
        "adamw", or "lorafa": PEFT's LoRA-FA optimizer, for variants with A frozen.
    bf16, device_map : bool or str, optional
        Mixed precision, and how the model is laid over devices, as transformers and accelerate take them.
    dtype : {"float32", "float16", "bfloat16"}, default "float32"
        The pretrained weights are loaded in it, whatever their file holds: float16 is slow, and trains badly, on a CPU.
    frozen_dtype : {"float16", "bfloat16"}, optional
        Products with frozen linear maps are taken in it, everything else in `dtype`: on processors with units for
        bfloat16 matrices a step may be faster, on others it is slower. In `dtype` if None.
    remember_activations : bool, default False
        Run the layers below the lowest adapter once for each row, and keep what they give in memory.
    storage_dtype : {"float32", "float16", "bfloat16"}, default "float32"
        The factors' initial values are rounded to this dtype, and the factors are stored in it.
    base_model : str, optional
        The name that the adapter records for its base model; `model` if None.
    save_steps : int, optional
        A checkpoint every so many steps, from which an interrupted run resumes; once an epoch if None.
    reported : {"half", "all"}, default "half"
        The development rows that the deciding score is computed on. "half": the set is split once, with `split_seed`;
        one half tunes the learning rate and the other is reported. "all": every row, for runs without tuning.
    split_seed : int, default 0
        Of that split, which all runs to be compared share.
    curve_points : int, default 5
        How often in a run the development rows are scored, at equal distances; 0 for the end alone.
    keep_course : bool, default False
        Keep the adapter after 1, 2, 4, ... steps, as folders `checkpoint-STEP` in `course`.
    statistics_rows : int, default 64
        Training rows from which variants are initialized that place a factor by data.
    general_text : path, optional
        For the same, a text file to be read instead of the training rows: general inputs, as LoRA-Null uses them.

    Examples
    --------
    >>> from asym_analysis.finetuning.tasks import GlueTask
    >>> config = FinetuneConfig("some/model", GlueTask(Path("glue"), "MRPC"), ("query", "value"), rank=4)
    >>> config.factor_seed, config.parsed_variant.tuned
    (0, 'both')
    """

    model: str
    task: InstanceOf[Task]
    target_modules: tuple[str, ...] | str
    variant: Annotated[str, AfterValidator(_trainable)] = "hB_0 hA_Km"
    other_variant: Annotated[str, AfterValidator(_variant)] | None = None
    other_modules: tuple[str, ...] = ()
    rank: Count = 8
    alpha: Rate = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    init_seed: Seed | None = None
    learning_rate: Rate = 4e-4
    head_learning_rate: Rate | None = None
    epochs: Rate = 3.0
    max_steps: Count | None = None
    batch_size: Count = 16
    gradient_accumulation: Count = 1
    warmup: Fraction = 0.06
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    group_by_length: bool = False
    optimizer: Literal["adamw", "lorafa"] = "adamw"
    bf16: bool = False
    device_map: str | None = None
    dtype: Dtype = "float32"
    frozen_dtype: Literal["float16", "bfloat16"] | None = None
    remember_activations: bool = False
    storage_dtype: Dtype = "float32"
    base_model: str | None = None
    save_steps: Count | None = None
    reported: Literal["half", "all"] = "half"
    split_seed: Seed = 0
    curve_points: Seed = 5
    keep_course: bool = False
    statistics_rows: Count = 64
    general_text: DataPath | None = None

    @property
    def factor_seed(self) -> int:
        """The seed of the factors' initial values."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def parsed_variant(self) -> Variant | None:
        """The variant of the adapter; None for the kinds of run without one."""
        return None if self.variant in ("frozen", "full") else Variant.parse(self.variant)

    @property
    def other(self) -> Variant | None:
        """The variant of `other_modules`; None where all modules have one."""
        return None if self.other_variant is None else Variant.parse(self.other_variant)

    @classmethod
    def from_mapping(
        cls, settings: Mapping[str, Any], *, folder: Path | None = None, where: str = "settings"
    ) -> FinetuneConfig:
        """Make a config from plain values, as a TOML file gives them.

        Parameters
        ----------
        settings : mapping
            The settings; the task is a table with its `kind` and its own settings.
        folder : path, optional
            Relative paths are taken from it.
        where : str, default "settings"
            The path of the settings in their file, for messages.

        Returns
        -------
        FinetuneConfig
            The checked settings.

        Raises
        ------
        AdapterError
            If a setting is unknown, missing, of another type or out of its range; the message names its path.
        """
        values = dict(settings)
        values["task"] = read_task(values.get("task"), where=f"{where}.task", folder=folder)
        known = [field.name for field in fields(cls)]
        return read_settings(cls, values, where=where, known=known, folder=folder)

    def as_mapping(self) -> dict[str, Any]:
        """Give plain values that `from_mapping` reads back, as stored beside a run; paths of data are left out.

        Returns
        -------
        dict
            Every setting that is not None.
        """
        settings = {key: value for key, value in asdict(self).items() if key != "task"}
        task = {"kind": self.task.kind, **asdict(self.task)}  # type: ignore[call-overload]
        settings["task"] = {key: value for key, value in task.items() if not (value is None or isinstance(value, Path))}
        return {key: value for key, value in settings.items() if not (value is None or isinstance(value, Path))}


def model_source(model: str) -> tuple[str, dict[str, Any]]:
    """Find where `from_pretrained` reads a model, and with which options.

    Ids and folders are left as they are. "package:NAME/FOLDER" is resolved in an installed package, and a .gguf file
    becomes its folder with the option `gguf_file`.

    Parameters
    ----------
    model : str
        As in `FinetuneConfig`.

    Returns
    -------
    tuple
        The source, and options for `from_pretrained`.

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
