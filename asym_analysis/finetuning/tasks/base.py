"""What a task is to the training loop: data, a model class, a collator, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["Task", "TaskData"]


@dataclass(frozen=True)
class TaskData:
    """Rows ready for a collator: `train` and `dev` are datasets or sequences of dictionaries."""

    train: Any
    dev: Any


class Task(ABC):
    """A dataset with the way to learn it. Subclasses are small frozen dataclasses over local files.

    Class attributes: `kind` (the name in a config file), `peft_task_type` (None where PEFT has no such type),
    `heads` (modules that are trained in full beside the adapter; PEFT's own choice if empty), `lower_is_better` (of the
    metric), and `generates` (whether predictions are generated token by token).
    """

    kind: ClassVar[str]
    peft_task_type: ClassVar[str | None] = None
    heads: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    name: str
    metric: str

    @abstractmethod
    def model(self, source: str | Path, **options: Any) -> Any:
        """The pretrained model with the head that the task needs; `options` go to `from_pretrained`."""

    @abstractmethod
    def processor(self, source: str | Path) -> Any:
        """The tokenizer or image processor of the model."""

    @abstractmethod
    def data(self, processor: Any) -> TaskData:
        """Training and development rows, tokenized or ready to be."""

    @abstractmethod
    def collator(self, processor: Any) -> Any:
        """Makes a batch of rows."""

    @abstractmethod
    def score(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The development metrics."""

    @abstractmethod
    def baseline(self, data: TaskData) -> float:
        """What `metric` is for a constant prediction: the majority class, or no correlation."""
