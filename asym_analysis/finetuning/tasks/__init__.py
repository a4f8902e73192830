"""Tasks to fine-tune on, as small dataclasses over local files; a config file names them by their kind."""

from __future__ import annotations

from asym_analysis.finetuning.tasks.base import Task, TaskData
from asym_analysis.finetuning.tasks.glue import GlueTask, read_glue

__all__ = ["TASKS", "GlueTask", "Task", "TaskData", "read_glue"]

TASKS: dict[str, type[Task]] = {task.kind: task for task in (GlueTask,)}
