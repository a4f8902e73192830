"""A run that keeps its adapter on the way, and one that is scored on text it does not learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asym_analysis import load_adapter, load_adapters
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import FinetuneConfig, finetune
from asym_analysis.finetuning.tasks import LanguageModellingTask


def config(model: Path, data: Path, **changes: object) -> FinetuneConfig:
    task = LanguageModellingTask(
        data, train_file="text.txt", dev_file="text.txt", window=8, other_file="text.txt", other_windows=2
    )
    return FinetuneConfig(str(model), task, ("q_proj",), rank=2, max_steps=5, learning_rate=1e-2, **changes)  # type: ignore[arg-type]


def test_the_adapter_is_kept_after_powers_of_two(tiny_llama: Path, tiny_data: Path, tmp_path: Path) -> None:
    run = finetune(config(tiny_llama, tiny_data, keep_course=True), tmp_path / "run")
    course = load_adapters(run.folder / "course")
    assert [adapter.name.rsplit("-", 1)[1] for adapter in course] == ["1", "2", "4"]
    final = load_adapter(run.folder)
    assert final.initial is not None
    module = next(iter(final))
    moved = [float((adapter[module].B - final.initial[module].B).norm()) for adapter in (*course, final)]
    # The first step of the warm-up has learning rate zero.
    assert 0 == moved[0] < moved[1] < moved[2] < moved[3]
    assert not torch.equal(course[2][module].B, final[module].B)
    plain = finetune(config(tiny_llama, tiny_data), tmp_path / "plain")
    assert not (plain.folder / "course").exists()
    assert plain.metrics["value"] == run.metrics["value"]


def test_other_text_is_scored_but_not_learned(tiny_llama: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = config(tiny_llama, tiny_data)
    run = finetune(settings, tmp_path / "run")
    data = settings.task.data(settings.task.processor(str(tiny_llama)))
    # The last windows of the same text: their scores are among those of the development rows.
    count = len(data.dev)
    assert len(data.more["other"]) == 2 < count
    assert run.metrics["other_loss"] == pytest.approx(float(run.outcomes()["score"][count - 2 :].mean()), rel=1e-5)
    absent = LanguageModellingTask(tiny_data, train_file="text.txt", other_file="absent.txt", window=8)
    with pytest.raises(AdapterError, match=r"there is no .*absent\.txt"):
        absent.check()
