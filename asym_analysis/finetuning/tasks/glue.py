"""GLUE tasks over the original tab-separated files, for encoders with a sequence classification head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, DataPath, Fraction, Seed
from asym_analysis.finetuning.tasks.base import Task, TaskData
from asym_analysis.finetuning.tasks.tokenizers import text_tokenizer

__all__ = ["GlueTask", "read_glue"]

GlueName = Literal["MRPC", "RTE", "STS-B", "CoLA", "SST-2"]


@plain_dataclass(frozen=True)
class _Columns:
    """Where the texts and the label stand in a row, and how the label is read."""

    texts: tuple[int, ...]
    label: int
    read: Callable[[str], float]
    header: bool = True


_COLUMNS: dict[str, _Columns] = {
    "MRPC": _Columns((3, 4), 0, int),
    "RTE": _Columns((1, 2), 3, ("not_entailment", "entailment").index),
    "STS-B": _Columns((7, 8), 9, float),
    "CoLA": _Columns((3,), 1, int, header=False),
    "SST-2": _Columns((0,), 1, int),
}
_METRICS = {"STS-B": "pearson", "CoLA": "matthews"}


def read_glue(task: GlueName, path: Path) -> list[dict[str, Any]]:
    """Rows of one GLUE file: `text`, `text_pair` (None for single sentences) and `label`.

    The files are tab separated without quoting, and some begin with a byte-order mark; CoLA has no header row.

    Raises
    ------
    AdapterError
        If the file is absent or a row does not have the task's columns.
    """
    columns = _COLUMNS[task]
    if not path.is_file():
        raise AdapterError(
            f"{task}: there is no {path}; give the folder that holds GLUE's {task} with train.tsv and dev.tsv "
            "(https://gluebenchmark.com/tasks)"
        )
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (columns.header and number == 1):
            continue
        cells = line.rstrip("\r").split("\t")
        try:
            texts = [cells[i] for i in columns.texts]
            rows.append(
                {
                    "text": texts[0],
                    "text_pair": texts[1] if len(texts) > 1 else None,
                    "label": columns.read(cells[columns.label]),
                }
            )
        except (IndexError, ValueError):
            raise AdapterError(
                f"{path}, line {number}: no {task} row, which has the label in column {columns.label}"
            ) from None
    return rows


@dataclass(frozen=True, config=CHECKED)
class GlueTask(Task):
    """One GLUE task from a folder `data_folder`/`dataset` with train.tsv and dev.tsv.

    Parameters
    ----------
    data_folder
        The folder that holds the tasks' folders.
    dataset
        MRPC, RTE, STS-B, CoLA or SST-2.
    max_length
        Longer inputs are cut, in tokens.
    train_rows
        Use only so many training rows, drawn with `rows_seed`; all by default.
    rows_seed
        Of that draw.
    pooling
        "own" is transformers' sequence classification model; "mean" puts the head on the mean hidden state, which suits
        sentence encoders.
    encoder_dropout
        Replaces the dropout rates of the encoder's own config where given.
    head_bias
        Initial bias of a regression head: "label mean" spares the first steps, which would only learn that mean.
    """

    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    source: ClassVar[str] = "GLUE's files are linked at https://gluebenchmark.com/tasks"
    data_folder: DataPath
    dataset: GlueName
    max_length: Count = 128
    train_rows: Count | None = None
    rows_seed: Seed = 0
    pooling: Literal["own", "mean"] = "own"
    encoder_dropout: Fraction | None = None
    head_bias: Literal["zero", "label mean"] = "label mean"
    kind: Literal["glue"] = field(default="glue", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return self.dataset

    @property
    @override
    def metric(self) -> str:
        """The deciding metric: Pearson correlation, Matthews correlation or accuracy."""
        return _METRICS.get(self.dataset, "accuracy")

    @override
    def files(self) -> list[Path]:
        return [Path(self.data_folder) / self.dataset / f"{split}.tsv" for split in ("train", "dev")]

    @override
    def start_head(self, model: Any, data: TaskData) -> None:
        """Put the labels' mean into the bias of a regression head."""
        if self.dataset != "STS-B" or self.head_bias == "zero":
            return
        for name, parameter in model.named_parameters():
            if "classifier" in name and name.endswith("bias") and parameter.shape == (1,):
                parameter.data.fill_(float(np.mean(data.train["labels"])))

    @override
    def outcomes(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, np.ndarray]:
        if self.dataset == "STS-B":
            return {"predicted": predictions.reshape(-1).astype(np.float32), "label": labels.astype(np.float32)}
        classes = predictions.argmax(-1)
        if self.metric == "accuracy":
            return {"score": (classes == labels).astype(np.float32)}
        return {"predicted": classes.astype(np.float32), "label": labels.astype(np.float32)}

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForSequenceClassification

        labels = 1 if self.dataset == "STS-B" else 2
        if self.encoder_dropout is not None:
            rate = self.encoder_dropout
            options = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate, **options}
        if self.pooling == "mean":
            from asym_analysis.finetuning.tasks.pooling import MeanPooledClassifier

            return MeanPooledClassifier(source, labels, **options)
        return AutoModelForSequenceClassification.from_pretrained(source, num_labels=labels, **options)

    @override
    def processor(self, source: str, **options: Any) -> Any:
        return text_tokenizer(source, **options)

    @override
    def data(self, processor: Any) -> TaskData:
        train = read_glue(self.dataset, Path(self.data_folder) / self.dataset / "train.tsv")
        dev = read_glue(self.dataset, Path(self.data_folder) / self.dataset / "dev.tsv")
        if self.train_rows is not None and self.train_rows < len(train):
            chosen = np.random.default_rng(self.rows_seed).choice(len(train), self.train_rows, replace=False)
            train = [train[i] for i in np.sort(chosen)]
        return TaskData(self._tokenized(train, processor), self._tokenized(dev, processor))

    def _tokenized(self, rows: list[dict[str, Any]], tokenizer: Any) -> Any:
        from datasets import Dataset

        pairs = [row["text_pair"] for row in rows]
        encoded = tokenizer(
            [row["text"] for row in rows],
            pairs if pairs and pairs[0] is not None else None,
            truncation=True,
            max_length=self.max_length,
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        return Dataset.from_dict({**encoded, "labels": [row["label"] for row in rows], "length": lengths})

    @override
    def collator(self, processor: Any) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        if self.dataset == "STS-B":
            scores = predictions.reshape(-1)
            return {"pearson": float(pearsonr(scores, labels)[0]), "spearman": float(spearmanr(scores, labels)[0])}
        classes = predictions.argmax(-1)
        return {
            "accuracy": float(accuracy_score(labels, classes)),
            "f1": float(f1_score(labels, classes)),
            "matthews": float(matthews_corrcoef(labels, classes)),
        }

    @override
    def baseline(self, data: TaskData) -> float | None:
        if self.metric != "accuracy":
            return 0.0
        positive = float(np.mean(data.dev["labels"]))
        return max(positive, 1 - positive)
