"""What a task is to the training loop: data, a model with its head, a collator, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

__all__ = ["Task", "TaskData", "read_rows"]


@dataclass(frozen=True)
class TaskData:
    """Rows ready for the collator; each of `train`, `dev` and the tables in `more` is a sequence of dictionaries.

    `more` holds further sets on which a run is scored, by name: another domain, the training rows.
    """

    train: Any
    dev: Any
    more: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A dataset with the way to learn it. Subclasses are small frozen dataclasses over local files in `data_folder`.

    `kind` is the name in a config file. Class attributes: `peft_task_type` (None where PEFT has no such type),
    `heads` (modules that are trained in full beside the adapter; PEFT's own choice if empty), `lower_is_better` (of the
    metric), and `generates` (whether predictions are generated token by token).
    """

    kind: str
    peft_task_type: ClassVar[str | None] = None
    heads: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    data_folder: Path

    @property
    @abstractmethod
    def name(self) -> str:
        """How tables call the task."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The key of `score` that decides."""

    @property
    def has_head(self) -> bool:
        """Whether a head is trained in full beside the adapter."""
        return bool(self.heads) or self.peft_task_type == "SEQ_CLS"

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that the data are read from, whether they exist or not."""

    @abstractmethod
    def model(self, source: str, **options: Any) -> Any:
        """The pretrained model with the head that the task needs; `options` go to `from_pretrained`."""

    @abstractmethod
    def processor(self, source: str, **options: Any) -> Any:
        """The tokenizer or image processor of the model."""

    @abstractmethod
    def data(self, processor: Any) -> TaskData:
        """Training and development rows, tokenized or ready to be."""

    @abstractmethod
    def collator(self, processor: Any) -> Any:
        """Makes a batch of rows."""

    @abstractmethod
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        """The metrics of a set of rows; the processor decodes what was generated."""

    @abstractmethod
    def baseline(self, data: TaskData) -> float | None:
        """What `metric` is on the development rows for a constant prediction; None if there is none."""

    def start_head(self, model: Any, data: TaskData) -> None:  # noqa: B027  (most tasks need none)
        """Set initial values of the head that depend on the data; none by default."""

    def outcomes(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, np.ndarray]:
        """What is kept of every row, so that scores can be computed again on any of them.

        Returns
        -------
        dict
            "score", shape (rows,), whose mean is the metric; or "predicted" and "label" for correlations.
        """
        rows = range(len(labels))
        each = [self.score(predictions[i : i + 1], labels[i : i + 1], processor)[self.metric] for i in rows]
        return {"score": np.array(each)}

    def reduce(self, logits: Any, labels: Tensor, processor: Any) -> Any:
        """What is kept of a batch's outputs for `score`; all of the logits by default."""
        return logits[0] if isinstance(logits, tuple) else logits


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json, .tsv or .csv file as dictionaries.

    Raises
    ------
    AdapterError
        If the file is absent, is of another kind or cannot be read.
    """
    import json

    import pandas as pd

    from asym_analysis.errors import AdapterError

    if not path.is_file():
        raise AdapterError(f"there is no {path}; give the data's folder with --data or data_folder")
    try:
        match path.suffix:
            case ".jsonl":
                return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            case ".json":
                return list(json.loads(path.read_text(encoding="utf-8")))
            case ".tsv" | ".csv":
                separator = "\t" if path.suffix == ".tsv" else ","
                # Words such as "nan" and "null" are data here, and quotes are letters in a .tsv.
                table = pd.read_csv(
                    path, sep=separator, dtype=str, keep_default_na=False, quoting=3 if path.suffix == ".tsv" else 0
                )
                return [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]
    except (ValueError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    raise AdapterError(f"{path}: rows are read from .jsonl, .json, .tsv and .csv files")
