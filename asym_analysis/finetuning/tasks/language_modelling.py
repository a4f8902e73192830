"""Text in windows, for decoders; the score is the loss on held-out text."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, Folder
from asym_analysis.finetuning.tasks.base import OwnFiles, TaskData, read_rows
from asym_analysis.finetuning.tasks.causal import CausalTask
from asym_analysis.finetuning.tasks.tokenizers import check_known

__all__ = ["LanguageModellingTask"]


@dataclass(frozen=True, config=CHECKED)
class LanguageModellingTask(OwnFiles, CausalTask):
    """Learn a text, in windows of `window` tokens without overlap.

    Parameters
    ----------
    data_folder
        Holds the files; the config file's own folder by default.
    train_file, dev_file
        .txt files (documents apart by an empty line), or tables of rows with a column of text. Without a `dev_file` the
        last `dev_windows` windows of the training file are held out; a tenth of them if `dev_windows` is None too.
    column
        That column.
    window
        Tokens a window.
    train_windows, dev_windows
        At most so many, from the beginning.
    other_file
        Further text on which a run is scored, as `other_loss`: what training on the first does to it.
    other_windows
        At most so many of its windows, from the end.
    dataset
        How tables call the text; the training file's name if None.
    lower_case
        For models whose vocabulary has no capitals.
    """

    lower_is_better: ClassVar[bool] = True
    data_folder: Folder = Path()
    train_file: str = "train.txt"
    dev_file: str | None = None
    column: str = "text"
    window: Count = 256
    train_windows: Count | None = None
    dev_windows: Count | None = None
    other_file: str | None = None
    other_windows: Count | None = None
    lower_case: bool = False
    dataset: str | None = None
    kind: Literal["language_modelling"] = field(default="language_modelling", kw_only=True)

    @property
    @override
    def metric(self) -> str:
        return "loss"

    @override
    def files(self) -> list[Path]:
        return super().files() + ([] if self.other_file is None else [Path(self.data_folder) / self.other_file])

    @override
    def outcomes(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, np.ndarray]:
        return {"score": np.asarray(predictions, dtype=np.float32).reshape(-1)}

    @override
    def data(self, processor: Any) -> TaskData:
        if self.window > processor.model_max_length:
            raise AdapterError(
                f"settings.task.window is {self.window}, and {processor.name_or_path} has "
                f"{processor.model_max_length} positions"
            )
        train = self._windows(self.train_file, processor)
        if self.dev_file is not None:
            dev = self._windows(self.dev_file, processor)[: self.dev_windows]
        else:
            held = max(1, len(train) // 10) if self.dev_windows is None else self.dev_windows
            if held >= len(train):
                raise AdapterError(
                    f"{self.files()[0]} has {len(train)} windows of {self.window} tokens: without a dev_file, "
                    f"{held} are held out, which leaves none to learn from; give more text or a smaller "
                    "settings.task.window"
                )
            train, dev = train[:-held], train[-held:]
        check_known(processor.name_or_path, processor, train)
        more = {}
        if self.other_file is not None:
            others = self._windows(self.other_file, processor)
            more["other"] = self._rows(others[-(self.other_windows or len(others)) :])
        return TaskData(self._rows(train[: self.train_windows]), self._rows(dev), more)

    def _windows(self, file: str, tokenizer: Any) -> list[list[int]]:
        path = Path(self.data_folder) / file
        if path.suffix == ".txt":
            documents = path.read_text(encoding="utf-8").split("\n\n")
        else:
            rows = read_rows(path)
            if not rows or self.column not in rows[0]:
                known = f"it has {', '.join(rows[0])}" if rows else "it has no row"
                raise AdapterError(f"{path} has no column {self.column!r}; {known}: name yours in settings.task.column")
            documents = [str(row.get(self.column) or "") for row in rows]
        documents = [text.lower() if self.lower_case else text for text in documents if text.strip()]
        ids = [token for text in documents for token in tokenizer(text)["input_ids"]]
        windows = [ids[i : i + self.window] for i in range(0, len(ids) - self.window + 1, self.window)]
        if not windows:
            raise AdapterError(
                f"{path} has {len(ids)} tokens, fewer than one window of {self.window} (settings.task.window)"
            )
        return windows

    def _rows(self, windows: list[list[int]]) -> Any:
        from datasets import Dataset

        return Dataset.from_dict(
            {"input_ids": windows, "attention_mask": [[1] * self.window] * len(windows), "labels": windows}
        )

    @override
    def reduce(self, logits: Any, labels: Tensor, processor: Any) -> Tensor:
        """The mean loss of each window, shape (batch,): the logits of a whole set would not fit in memory."""
        scores = (logits[0] if isinstance(logits, tuple) else logits)[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(scores.transpose(1, 2), labels[:, 1:], reduction="none")
        return losses.mean(1)

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        loss = float(np.mean(predictions))
        return {"loss": loss, "perplexity": float(np.exp(loss))}

    @override
    def baseline(self, data: TaskData) -> float | None:
        return None
