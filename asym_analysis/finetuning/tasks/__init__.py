"""Tasks to fine-tune on, as small dataclasses over local files; a config file names them by their kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import read_settings
from asym_analysis.finetuning.tasks.base import Task, TaskData
from asym_analysis.finetuning.tasks.choices import ChoiceTask, InstructionTask
from asym_analysis.finetuning.tasks.classification import ClassificationTask
from asym_analysis.finetuning.tasks.glue import GlueTask
from asym_analysis.finetuning.tasks.image_folders import ImageFolderTask
from asym_analysis.finetuning.tasks.images import DomainTask
from asym_analysis.finetuning.tasks.language_modelling import LanguageModellingTask
from asym_analysis.finetuning.tasks.pronunciation import PronunciationTask
from asym_analysis.finetuning.tasks.summarization import SummarizationTask
from asym_analysis.vocabulary import choose

__all__ = [
    "TASKS",
    "ChoiceTask",
    "ClassificationTask",
    "DomainTask",
    "GlueTask",
    "ImageFolderTask",
    "InstructionTask",
    "LanguageModellingTask",
    "PronunciationTask",
    "SummarizationTask",
    "Task",
    "TaskData",
    "read_task",
]

#: Kind in a config file -> task. A new task is one file and one entry here.
TASKS: dict[str, type[Task]] = {
    "choices": ChoiceTask,
    "classification": ClassificationTask,
    "domains": DomainTask,
    "glue": GlueTask,
    "images": ImageFolderTask,
    "instructions": InstructionTask,
    "language_modelling": LanguageModellingTask,
    "pronunciation": PronunciationTask,
    "summarization": SummarizationTask,
}


def read_task(values: Any, *, where: str = "settings.task", folder: Path | None = None) -> Task:
    """Make a task from its table in a config file.

    Parameters
    ----------
    values
        A table with the task's `kind` and its settings; a `Task` is returned as it is.
    where
        The table's path in the file, for messages.
    folder
        Relative paths are taken from it.

    Returns
    -------
    Task
        The task with its checked settings.

    Raises
    ------
    AdapterError
        If a setting is unknown, missing, of another type or out of its range; the message names its path.
    """
    if isinstance(values, Task):
        return values
    if not isinstance(values, Mapping) or "kind" not in values:
        raise AdapterError(f"{where} must be a table with a kind, one of {', '.join(sorted(TASKS))}")
    try:
        kind = TASKS[choose(values["kind"], sorted(TASKS), f"{where}.kind")]
    except ValueError as error:
        raise AdapterError(str(error)) from None
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return read_settings(kind, dict(values), where=where, known=known, folder=folder)
