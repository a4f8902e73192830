"""Summaries of documents, for sequence-to-sequence models."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass
from typing_extensions import override

from asym_analysis.finetuning.settings import CHECKED, Count, DataPath
from asym_analysis.finetuning.tasks.base import Task, TaskData, read_rows
from asym_analysis.finetuning.tasks.sequence_scores import rouge

__all__ = ["SummarizationTask"]


@dataclass(frozen=True, config=CHECKED)
class SummarizationTask(Task):
    """Documents and their summaries from two files of rows, scored by ROUGE in percent.

    Parameters
    ----------
    data_folder
        Holds the two files.
    train_file, dev_file
        .jsonl, .json or .csv files with the two columns.
    document, summary
        The columns' names.
    max_length, max_summary_length
        Longer texts are cut, in tokens; the second also bounds what is generated.
    """

    peft_task_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    generates: ClassVar[bool] = True
    data_folder: DataPath
    train_file: str = "train.jsonl"
    dev_file: str = "validation.jsonl"
    document: str = "document"
    summary: str = "summary"
    max_length: Count = 1024
    max_summary_length: Count = 128
    beams: Count = 1
    kind: Literal["summarization"] = field(default="summarization", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return Path(self.train_file).parent.name or Path(self.data_folder).name

    @override
    def files(self) -> list[Path]:
        return [Path(self.data_folder) / name for name in (self.train_file, self.dev_file)]

    @property
    @override
    def metric(self) -> str:
        return "rougeL"

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        model = AutoModelForSeq2SeqLM.from_pretrained(source, **options)
        model.generation_config.max_length = self.max_summary_length
        model.generation_config.num_beams = self.beams
        return model

    @override
    def processor(self, source: str, **options: Any) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source, **options)

    @override
    def data(self, processor: Any) -> TaskData:
        folder = Path(self.data_folder)
        return TaskData(*(self._tokenized(read_rows(folder / f), processor) for f in (self.train_file, self.dev_file)))

    def _tokenized(self, rows: list[dict[str, Any]], tokenizer: Any) -> Any:
        from datasets import Dataset

        inputs = tokenizer([row[self.document] for row in rows], truncation=True, max_length=self.max_length)
        summaries = [row[self.summary] for row in rows]
        targets = tokenizer(text_target=summaries, truncation=True, max_length=self.max_summary_length)
        ids = inputs["input_ids"]
        return Dataset.from_dict(
            {
                "input_ids": ids,
                "attention_mask": inputs["attention_mask"],
                "labels": targets["input_ids"],
                "length": [len(row) for row in ids],
            }
        )

    @override
    def collator(self, processor: Any) -> Any:
        from transformers import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(processor)

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        def texts(ids: np.ndarray) -> list[str]:
            return processor.batch_decode(np.where(ids < 0, processor.pad_token_id, ids), skip_special_tokens=True)

        scores = [rouge(*pair) for pair in zip(texts(predictions), texts(labels), strict=True)]
        return {key: 100 * float(np.mean([score[key] for score in scores])) for key in ("rouge1", "rouge2", "rougeL")}

    @override
    def baseline(self, data: TaskData) -> float | None:
        return None
