"""What a task is to the training loop: data, a model with its head, a collator, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from typing_extensions import override

from asym_analysis.errors import AdapterError

__all__ = ["OwnFiles", "Task", "TaskData", "class_scores", "held_out_rows", "largest_class", "read_rows"]

LEAST_ROWS = 4  # of a class, where some of its rows are held out


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
    metric), `generates` (whether predictions are generated token by token), and `source` (where the data are had).
    """

    kind: str
    peft_task_type: ClassVar[str | None] = None
    heads: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    source: ClassVar[str] = ""
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

    def check(self) -> None:
        """Refuse data that cannot be used, before a model is loaded or a folder made.

        Raises
        ------
        AdapterError
            If a file is absent; subclasses also look into their files.
        """
        absent = [path for path in self.files() if not path.is_file()]
        if absent:
            origin = f"; {self.source}" if self.source else ""
            raise AdapterError(
                f"{self.name}: there is no {absent[0]}; give the data with --data or settings.task.data_folder{origin}"
            )

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


class OwnFiles(Task):
    """A task on files of the user's own, which give it its name."""

    train_file: str
    dev_file: str | None
    dataset: str | None

    @property
    @override
    def name(self) -> str:
        return self.dataset or Path(self.train_file).stem

    @override
    def files(self) -> list[Path]:
        return [Path(self.data_folder) / name for name in (self.train_file, self.dev_file) if name is not None]


def held_out_rows(
    rows: Sequence[Any], labels: Sequence[str], fraction: float, generator: np.random.Generator, where: str
) -> tuple[list[Any], list[Any]]:
    """Hold out a fraction of the rows of each class, at least one of each.

    Parameters
    ----------
    rows, labels
        The rows, and the class of each.
    fraction
        Of each class.
    generator
        Draws them.
    where
        The file and its column, for the message.

    Returns
    -------
    tuple
        Rows to learn from, and those held out, both in their given order.

    Raises
    ------
    AdapterError
        If a class has fewer than four rows, or the fraction leaves it none to learn from.
    """
    held: list[int] = []
    for label, count in Counter(labels).items():
        if count < LEAST_ROWS:
            raise AdapterError(
                f"{where}: class {label!r} has {count} {'row' if count == 1 else 'rows'}, and each needs at least "
                f"{LEAST_ROWS}, since some are held out; add rows or leave the class out"
            )
        number = max(1, round(fraction * count))
        if number >= count:
            raise AdapterError(f"settings.task.held_out is {fraction:g}, which leaves class {label!r} no row to learn")
        own = np.flatnonzero(np.asarray(labels) == label)
        held += generator.permutation(own)[:number].tolist()
    chosen = set(held)
    return [row for i, row in enumerate(rows) if i not in chosen], [rows[i] for i in sorted(chosen)]


def class_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The accuracy of logits, and the F1 score averaged over the classes."""
    from sklearn.metrics import f1_score

    chosen = predictions.argmax(-1)
    return {
        "accuracy": float(np.mean(chosen == labels)),
        "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0)),
    }


def largest_class(labels: Sequence[int]) -> float:
    """The accuracy of always answering with the most frequent class."""
    return max(Counter(labels).values()) / len(labels)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json, .tsv or .csv file as dictionaries.

    Raises
    ------
    AdapterError
        If the file is absent, is of another kind or cannot be read.
    """
    import json

    import pandas as pd

    if not path.is_file():
        raise AdapterError(f"there is no {path}; give the data's folder with --data or data_folder")
    try:
        match path.suffix:
            case ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                return _objects(path, [json.loads(line) for line in lines if line.strip()])
            case ".json":
                return _objects(path, json.loads(path.read_text(encoding="utf-8")))
            case ".tsv" | ".csv":
                separator = "\t" if path.suffix == ".tsv" else _separator(path)
                # Words such as "nan" and "null" are data here, and quotes are letters in a .tsv.
                table = pd.read_csv(
                    path, sep=separator, dtype=str, keep_default_na=False, quoting=3 if path.suffix == ".tsv" else 0
                )
                return [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]
    except (ValueError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    raise AdapterError(f"{path}: rows are read from .jsonl, .json, .tsv and .csv files")


def _objects(path: Path, rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('it holds no rows such as [{"text": "...", "label": "..."}, ...]')
    return rows


def _separator(path: Path) -> str:
    """What parts the columns: spreadsheets of many countries write semicolons."""
    with open(path, encoding="utf-8") as file:
        header = file.readline()
    return ";" if ";" in header and "," not in header else ","
