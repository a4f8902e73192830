"""Spelling to phonemes, for small sequence-to-sequence models whose symbols stand in their config."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic.dataclasses import dataclass
from typing_extensions import override

from asym_analysis.finetuning.settings import CHECKED, Count, DataPath, Seed
from asym_analysis.finetuning.tasks.base import Task, TaskData, read_rows
from asym_analysis.finetuning.tasks.sequence_scores import edit_distance

__all__ = ["PronunciationTask", "SymbolTable"]

PAD, START, END, UNKNOWN = 0, 1, 2, 3


@plain_dataclass(frozen=True)
class SymbolTable:
    """Characters to token ids: the position of a character in the model's own list of symbols.

    `spellings` and `phonemes` map characters to ids. Phonemes that the model does not know take over ids of symbols
    that the lexicon does not use (see `PronunciationTask`).
    """

    spellings: dict[str, int]
    phonemes: dict[str, int]
    pad_token_id: int = PAD

    def encode(self, word: str, pronunciation: str) -> dict[str, Any]:
        """Token ids of one word, and of its pronunciation as labels."""
        return {
            "input_ids": [START, *(self.spellings.get(c, UNKNOWN) for c in word), END],
            "labels": [*(self.phonemes.get(c, UNKNOWN) for c in pronunciation), END],
            "length": len(word) + 2,
        }

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Nothing to save: the symbols stand in the model's config."""


@dataclass(frozen=True, config=CHECKED)
class PronunciationTask(Task):
    """A lexicon of word and phonemes, learned by a model that reads one character a token.

    The model's config names its symbols in `grapheme_chars` and `phoneme_chars`. A lexicon of another accent has
    phonemes that the model lacks: they are given, in alphabetical order, the ids of symbols that the lexicon never
    uses, and then ids that the model's table leaves empty.

    Parameters
    ----------
    data_folder
        Holds the lexicon.
    lexicon
        A .tsv file with columns `word` and `phonemes`.
    train_rows, dev_rows
        Words drawn for each, without overlap, with `rows_seed`.
    dataset
        How tables call the task; the lexicon's name if None.
    """

    peft_task_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    generates: ClassVar[bool] = True
    data_folder: DataPath
    lexicon: str
    train_rows: Count = 10_000
    dev_rows: Count = 2_000
    rows_seed: Seed = 0
    dataset: str | None = None
    kind: Literal["pronunciation"] = field(default="pronunciation", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return self.dataset or Path(self.lexicon).stem

    @property
    @override
    def metric(self) -> str:
        return "word_accuracy"

    @override
    def files(self) -> list[Path]:
        return [Path(self.data_folder) / self.lexicon]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return read_rows(Path(self.data_folder) / self.lexicon)

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM.from_pretrained(source, **options)

    @override
    def processor(self, source: str, **options: Any) -> SymbolTable:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source, **options)
        spellings = _positions(config.grapheme_chars)
        known = _positions(config.phoneme_chars)
        used = sorted({symbol for row in self._rows for symbol in row["phonemes"]})
        free = [known[symbol] for symbol in sorted(set(known) - set(used))]
        free += range(len(config.phoneme_chars), config.vocab_size)
        missing = [symbol for symbol in used if symbol not in known]
        return SymbolTable(spellings, known | dict(zip(missing, free, strict=False)))

    @override
    def data(self, processor: SymbolTable) -> TaskData:
        from datasets import Dataset

        order = np.random.default_rng(self.rows_seed).permutation(len(self._rows))
        chosen = [self._rows[i] for i in order[: self.train_rows + self.dev_rows]]
        encoded = [processor.encode(row["word"], row["phonemes"]) for row in chosen]
        return TaskData(Dataset.from_list(encoded[self.dev_rows :]), Dataset.from_list(encoded[: self.dev_rows]))

    @override
    def collator(self, processor: SymbolTable) -> Any:
        return _pad

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        pairs = [(_until_end(found), _until_end(wanted)) for found, wanted in zip(predictions, labels, strict=True)]
        errors = sum(edit_distance(found, wanted) for found, wanted in pairs)
        return {
            "word_accuracy": float(np.mean([found == wanted for found, wanted in pairs])),
            "phoneme_error_rate": errors / sum(len(wanted) for _, wanted in pairs),
        }

    @override
    def baseline(self, data: TaskData) -> float | None:
        return None


def _positions(symbols: str) -> dict[str, int]:
    # The first ids are the special tokens, written as underscores in the list.
    return {symbol: i for i, symbol in enumerate(symbols) if i > UNKNOWN}


def _pad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch, padded on the right; labels are padded with -100, which the loss leaves out."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def padded(key: str, value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row[key]) for row in rows], batch_first=True, padding_value=value)

    inputs = padded("input_ids", PAD)
    return {"input_ids": inputs, "attention_mask": (inputs != PAD).long(), "labels": padded("labels", -100)}


def _until_end(ids: Int[np.ndarray, " length"]) -> list[int]:
    """The symbols before the end, without what starts or pads the sequence."""
    symbols = []
    for i in ids.tolist():
        if i == END:
            break
        if i not in (PAD, START, -100):
            symbols.append(i)
    return symbols
