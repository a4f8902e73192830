"""Multiple-choice questions for decoders: the answer is the letter with the largest logit."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, DataPath, Seed
from asym_analysis.finetuning.tasks.base import TaskData, read_rows
from asym_analysis.finetuning.tasks.causal import CausalTask, prompt_and_answer

__all__ = ["ChoiceTask", "InstructionTask", "Question", "read_questions"]


@plain_dataclass(frozen=True)
class Question:
    """A question, its choices and the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int

    def prompt(self) -> str:
        """The question and its lettered choices, up to where the letter of the answer follows."""
        lettered = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, self.choices, strict=False)]
        return "\n".join([self.question, *lettered, "Answer:"])

    @property
    def letter(self) -> str:
        """The letter of the right choice, with the space before it."""
        return f" {string.ascii_uppercase[self.answer]}"


def read_questions(path: Path) -> list[Question]:
    """Questions in CommonsenseQA's form (.jsonl) or MMLU's (.csv: question, choice0, ..., answer as an index).

    Raises
    ------
    AdapterError
        If the file is neither.
    """
    rows = read_rows(path)
    try:
        if rows and isinstance(rows[0].get("choices"), dict):
            return [
                Question(
                    row["question"], tuple(row["choices"]["text"]), row["choices"]["label"].index(row["answerKey"])
                )
                for row in rows
            ]
        names = [key for key in rows[0] if key.startswith("choice")]
        return [Question(row["question"], tuple(row[n] for n in names), int(row["answer"])) for row in rows]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise AdapterError(f"{path} holds no questions in the form of CommonsenseQA or MMLU: {error!r}") from error


class _LetterTask(CausalTask):
    """Scores a row by the logits of the letters at the place of the answer."""

    max_length: int
    choices: int

    @property
    @override
    def metric(self) -> str:
        return "accuracy"

    def _asked(self, questions: Sequence[Question], tokenizer: Any, before: str = "") -> list[dict[str, Any]]:
        return [prompt_and_answer(tokenizer, before + q.prompt(), q.letter, self.max_length) for q in questions]

    @override
    def reduce(self, logits: Any, labels: Tensor, processor: Any) -> Tensor:
        """The letter's token with the largest logit where the answer's letter stands, shape (batch,)."""
        scores = logits[0] if isinstance(logits, tuple) else logits
        rows, places = (
            torch.arange(len(labels), device=labels.device),
            torch.arange(labels.shape[1], device=labels.device),
        )
        last = torch.where(labels != -100, places, 0).amax(1)
        ids = [
            processor(f" {a}", add_special_tokens=False)["input_ids"][-1]
            for a in string.ascii_uppercase[: self.choices]
        ]
        letters = torch.tensor(ids, device=labels.device)
        return letters[scores[rows, last - 1][:, letters].argmax(1)]

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        answers = np.array([row[row != -100][-1] for row in labels])
        return {"accuracy": float(np.mean(predictions == answers))}

    @override
    def baseline(self, data: TaskData) -> float | None:
        answers = [row["labels"][-1] for row in data.dev]
        return max(answers.count(answer) for answer in set(answers)) / len(answers)


@dataclass(frozen=True, config=CHECKED)
class ChoiceTask(_LetterTask):
    """Multiple-choice questions, learned by the letter of the answer.

    Parameters
    ----------
    data_folder
        Holds `file`, in the form of CommonsenseQA or MMLU.
    file
        Its name.
    choices
        How many choices a question has.
    dev_rows
        Questions held out, drawn with `rows_seed`.
    max_length
        Longer prompts are cut on the left, in tokens.
    """

    data_folder: DataPath
    file: str = "dev.jsonl"
    choices: Count = 5
    dev_rows: Count = 221
    rows_seed: Seed = 0
    max_length: Count = 256
    kind: Literal["choices"] = field(default="choices", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return Path(self.data_folder).name

    @override
    def files(self) -> list[Path]:
        return [Path(self.data_folder) / self.file]

    @override
    def data(self, processor: Any) -> TaskData:
        from datasets import Dataset

        questions = read_questions(Path(self.data_folder) / self.file)
        order = np.random.default_rng(self.rows_seed).permutation(len(questions))
        rows = self._asked([questions[i] for i in order], processor)
        return TaskData(Dataset.from_list(rows[self.dev_rows :]), Dataset.from_list(rows[: self.dev_rows]))


@dataclass(frozen=True, config=CHECKED)
class InstructionTask(_LetterTask):
    """Instructions in Alpaca's form, scored on MMLU with examples in the prompt.

    Parameters
    ----------
    data_folder
        Holds the instructions and the questions.
    train_file
        Rows with `instruction`, `input` (may be empty) and `output`.
    questions_folder
        Holds `test` and `dev`, each with one .csv file a subject; the examples come from `dev`.
    examples
        Questions with their answers before each question.
    questions_a_subject
        At most so many, from the beginning; all if None.
    """

    data_folder: DataPath
    train_file: str = "alpaca.json"
    questions_folder: str = "mmlu"
    examples: Seed = 5
    choices: Count = 4
    questions_a_subject: Count | None = None
    max_length: Count = 2048
    kind: Literal["instructions"] = field(default="instructions", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return Path(self.train_file).stem

    @override
    def files(self) -> list[Path]:
        folder = Path(self.data_folder)
        return [folder / self.train_file, *sorted((folder / self.questions_folder).rglob("*.csv"))]

    @override
    def data(self, processor: Any) -> TaskData:
        from datasets import Dataset

        folder = Path(self.data_folder)
        train = [
            prompt_and_answer(
                processor, self._prompt(row), row["output"] + (processor.eos_token or ""), self.max_length
            )
            for row in read_rows(folder / self.train_file)
        ]
        return TaskData(Dataset.from_list(train), Dataset.from_list(self._questions(folder, processor)))

    def _prompt(self, row: dict[str, str]) -> str:
        given = f"\n\n{row['input']}" if row.get("input") else ""
        return f"{row['instruction']}{given}\n\nAnswer: "

    def _questions(self, folder: Path, tokenizer: Any) -> list[dict[str, Any]]:
        tests = sorted((folder / self.questions_folder / "test").glob("*.csv"))
        if not tests:
            raise AdapterError(f"{folder / self.questions_folder / 'test'} holds no .csv file of questions")
        rows = []
        for path in tests:
            shown = sorted((folder / self.questions_folder / "dev").glob(f"{path.stem.removesuffix('_test')}*.csv"))
            solved = read_questions(shown[0])[: self.examples] if shown else []
            before = "".join(f"{question.prompt()}{question.letter}\n\n" for question in solved)
            rows += self._asked(read_questions(path)[: self.questions_a_subject], tokenizer, before)
        return rows
