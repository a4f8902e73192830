"""Texts, or pairs of texts, of the user's own in classes: a table with a column of texts and one of labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, Folder, Fraction, Seed
from asym_analysis.finetuning.tasks.base import (
    OwnFiles,
    TaskData,
    class_scores,
    held_out_rows,
    largest_class,
    read_rows,
)
from asym_analysis.finetuning.tasks.tokenizers import check_known, text_tokenizer

__all__ = ["ClassificationTask"]


@dataclass(frozen=True, config=CHECKED)
class ClassificationTask(OwnFiles):
    """Classify the texts, or pairs of texts, of a table of one's own.

    Parameters
    ----------
    train_file
        A .csv, .tsv, .json or .jsonl file with one text a row.
    data_folder
        Holds the files; the config file's own folder by default.
    dev_file
        The rows to score on; without it a part of each class in `train_file` is held out.
    text, text_pair
        The column of texts, and that of the second texts where rows are pairs.
    label
        The column of classes, as words or numbers.
    held_out
        Fraction of each class that is held out, drawn with `rows_seed`.
    train_rows
        Learn from at most so many rows, drawn with `rows_seed`; all by default.
    max_length
        Longer inputs are cut, in tokens.
    dataset
        How tables call the task; the training file's name if None.
    """

    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    train_file: str
    data_folder: Folder = Path()
    dev_file: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    held_out: Fraction = 0.2
    train_rows: Count | None = None
    max_length: Count = 128
    rows_seed: Seed = 0
    dataset: str | None = None
    kind: Literal["classification"] = field(default="classification", kw_only=True)

    @property
    @override
    def metric(self) -> str:
        return "accuracy"

    @override
    def check(self) -> None:
        super().check()
        self._split  # noqa: B018  (reads and checks every row)

    @cached_property
    def _split(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[str]]:
        """Rows to learn from and to score on, each its texts and its label, and the classes in order."""
        first, *others = self.files()
        rows = self._rows(first)
        counts = Counter(row[-1] for row in rows)
        if len(counts) < 2:
            raise AdapterError(f"{first} has one class, {rows[0][-1]!r} (settings.task.label = {self.label!r})")
        if len(counts) > len(rows) / 2 and len(rows) > 8:
            raise AdapterError(
                f"{first}: column {self.label!r} has {len(counts)} different values in {len(rows)} rows, so it holds "
                "no classes; name the column of classes in settings.task.label"
            )
        # Names in their own order, and numbers as numbers: class 10 comes after class 9.
        classes = sorted(counts, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
        generator = np.random.default_rng(self.rows_seed)
        if others:
            train, dev = rows, self._rows(others[0])
            unknown = {row[-1] for row in dev} - set(classes)
            if unknown:
                raise AdapterError(f"{others[0]} has the label {min(unknown)!r}, which {first} does not have")
        else:
            where = f"{first}: column {self.label!r}"
            train, dev = held_out_rows(rows, [row[-1] for row in rows], self.held_out, generator, where)
        if self.train_rows is not None and self.train_rows < len(train):
            train = [train[i] for i in np.sort(generator.choice(len(train), self.train_rows, replace=False))]
        return train, dev, classes

    def _rows(self, path: Path) -> list[tuple[str, ...]]:
        table = read_rows(path)
        if not table:
            raise AdapterError(f"{path} has no row")
        keys = {"text": self.text, "text_pair": self.text_pair, "label": self.label}
        columns = {key: name for key, name in keys.items() if name is not None}
        for key, name in columns.items():
            if name not in table[0]:
                raise AdapterError(
                    f"{path} has no column {name!r}; it has {', '.join(table[0])}: name yours in settings.task.{key}"
                )
        rows = [
            tuple("" if row.get(name) is None else str(row[name]).strip() for name in columns.values()) for row in table
        ]
        for number, row in enumerate(rows, start=1):
            if "" in row:
                name = [*columns.values()][row.index("")]
                raise AdapterError(f"{path}, row {number}: column {name!r} is empty; fill it in or leave the row out")
        return rows

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForSequenceClassification

        names = dict(enumerate(self._split[2]))
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                source,
                num_labels=len(names),
                id2label=names,
                label2id={name: number for number, name in names.items()},
                ignore_mismatched_sizes=True,
                **options,
            )
        except ValueError as error:
            raise AdapterError(f"{source} cannot be opened as a classifier: {str(error).splitlines()[0]}") from None
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.processor(source).pad_token_id
        return model

    @override
    def processor(self, source: str, **options: Any) -> Any:
        return text_tokenizer(source, **options)

    @override
    def data(self, processor: Any) -> TaskData:
        train, dev, classes = self._split
        data = TaskData(self._tokenized(train, classes, processor), self._tokenized(dev, classes, processor))
        check_known(processor.name_or_path, processor, data.train["input_ids"])
        return data

    def _tokenized(self, rows: list[tuple[str, ...]], classes: list[str], tokenizer: Any) -> Any:
        from datasets import Dataset

        *texts, labels = (list(part) for part in zip(*rows, strict=True))
        length = min(self.max_length, tokenizer.model_max_length)
        encoded = tokenizer(*texts, truncation=True, max_length=length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        numbers = {name: number for number, name in enumerate(classes)}
        return Dataset.from_dict({**encoded, "labels": [numbers[label] for label in labels], "length": lengths})

    @override
    def collator(self, processor: Any) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        return class_scores(predictions, labels)

    @override
    def baseline(self, data: TaskData) -> float | None:
        return largest_class(data.dev["labels"])
