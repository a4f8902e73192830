"""Tasks to fine-tune on, as small dataclasses over local files; a config file names them by their kind."""

from __future__ import annotations

from asym_analysis.finetuning.tasks.base import Task, TaskData
from asym_analysis.finetuning.tasks.choices import ChoiceTask, InstructionTask
from asym_analysis.finetuning.tasks.glue import GlueTask
from asym_analysis.finetuning.tasks.images import DomainTask
from asym_analysis.finetuning.tasks.language_modelling import LanguageModellingTask
from asym_analysis.finetuning.tasks.pronunciation import PronunciationTask
from asym_analysis.finetuning.tasks.summarization import SummarizationTask

__all__ = [
    "TASKS",
    "ChoiceTask",
    "DomainTask",
    "GlueTask",
    "InstructionTask",
    "LanguageModellingTask",
    "PronunciationTask",
    "SummarizationTask",
    "Task",
    "TaskData",
]

TASKS: dict[str, type[Task]] = {
    task.kind: task
    for task in (
        ChoiceTask,
        DomainTask,
        GlueTask,
        InstructionTask,
        LanguageModellingTask,
        PronunciationTask,
        SummarizationTask,
    )
}
