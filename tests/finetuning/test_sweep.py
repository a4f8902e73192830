"""Interrupted runs and sweeps lose nothing, nothing is overwritten, and the table says what was run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import FinetuneConfig, finetune, read_sweep, run_sweep, sweep, train
from asym_analysis.finetuning.train import adapted_model

SETTINGS = """
[settings]
model = {model}
target_modules = ["query", "value"]
variant = "hB_0 A_rand"
rank = 2
max_steps = {steps}
batch_size = 4
[settings.task]
kind = "glue"
data_folder = {data}
dataset = "CoLA"
max_length = 16
"""


@pytest.fixture
def config_file(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    text = SETTINGS.format(model=json.dumps(str(tiny_roberta)), data=json.dumps(str(tiny_glue)), steps=2)
    path.write_text(text + "[search]\nlearning_rate = [1e-3, 1e-2]\nseeds = [0, 1]\n")
    return path


@pytest.fixture
def one_run(config_file: Path) -> FinetuneConfig:
    return read_sweep(config_file)[0].config


class InterruptedTrainingError(Exception):
    pass


def interrupt_training_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    original = Trainer.training_step

    def training_step(self: Any, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step >= step:
            raise InterruptedTrainingError
        return original(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "training_step", training_step)


@pytest.mark.parametrize("variant", ["hB_0 A_rand", "hB_rand hA_0"])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    one_run: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    config = replace(one_run, variant=variant, max_steps=4, save_steps=2, learning_rate=1e-2)
    whole = finetune(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_training_at(3, patch)
        with pytest.raises(InterruptedTrainingError):
            finetune(config, tmp_path / "parts")
    assert not (tmp_path / "parts" / "adapter_model.safetensors").exists()
    parts = finetune(config, tmp_path / "parts")
    assert parts.metrics["steps"] == 4
    assert parts.metrics["value"] == pytest.approx(whole.metrics["value"], nan_ok=True)
    expected = load_file(whole.folder / "adapter_model.safetensors")
    for key, value in load_file(parts.folder / "adapter_model.safetensors").items():
        assert torch.allclose(value, expected[key], atol=1e-6), key
    for key, value in load_file(parts.folder / "initial.safetensors").items():
        assert torch.equal(value, load_file(whole.folder / "initial.safetensors")[key])
        if variant == "hB_0 A_rand" and ".lora_A." in key:
            assert torch.equal(value, expected[key]), "a frozen A moved after the run was resumed"


def test_nothing_is_overwritten(one_run: FinetuneConfig, tmp_path: Path) -> None:
    finetune(one_run, tmp_path / "run")
    with pytest.raises(FileExistsError, match="finished run"):
        finetune(one_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(FileExistsError, match="other settings"):
        finetune(replace(one_run, rank=3), tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="holds no run"):
        finetune(one_run, tmp_path / "notes")


def fake_training(monkeypatch: pytest.MonkeyPatch, *, until: int = 10**9) -> list[str]:
    """Runs that cost nothing: their value is known, and the n-th is interrupted."""
    done: list[str] = []

    def pretend(config: FinetuneConfig, folder: Path, **_: Any) -> None:
        if len(done) == until:
            raise InterruptedTrainingError
        done.append(folder.name)
        folder.mkdir(parents=True)
        value = float("nan") if config.learning_rate > 5e-3 and config.seed == 7 else -abs(config.learning_rate - 1e-2)
        metrics = {"metric": "matthews", "value": value, "baseline": 0.0, "steps": 2}
        (folder / train.METRICS).write_text(json.dumps(metrics))

    monkeypatch.setattr(sweep, "finetune", pretend)
    return done


def test_a_search_runs_the_best_rate_on_every_seed_and_resumes(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = read_sweep(config_file)
    assert [run.name for run in runs] == ["run-rate-0.001-seed-0", "run-rate-0.01-seed-0"]
    with monkeypatch.context() as patch:
        first = fake_training(patch, until=1)
        with pytest.raises(InterruptedTrainingError):
            run_sweep(runs, tmp_path / "out")
        assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 1
    second = fake_training(monkeypatch)
    table = run_sweep(runs, tmp_path / "out")
    assert first == ["run-rate-0.001-seed-0"]
    # Seed 0 of the best rate is the search's own run.
    assert second == ["run-rate-0.01-seed-0", "run-rate-0.01-seed-1"]
    assert list(table["stage"]) == ["search", "best", "best"]
    assert set(table["rate_grid"]) == {"0.001 0.01"}
    assert list(table["rate_at_edge"]) == [False, True, True]
    assert run_sweep(runs, tmp_path / "out").equals(table)
    assert len(second) == 2
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 3


def test_a_grid_multiplies_the_listed_runs(config_file: Path, tiny_glue: Path) -> None:
    head = config_file.read_text().split("[search]")[0]
    config_file.write_text(
        head + '[[runs]]\nname = "b"\n[[runs]]\nname = "a"\nvariant = "B_rand hA_0"\nlabels.family = "x"\n'
        '[grid]\nseed = [0, 1]\n"task.dataset" = ["CoLA", "MRPC"]\n'
    )
    runs = read_sweep(config_file, data=tiny_glue)
    assert [run.name for run in runs][:3] == ["b-seed-0-CoLA", "b-seed-0-MRPC", "b-seed-1-CoLA"]
    assert len(runs) == 8
    assert runs[5].labels == {"run": "a", "family": "x"}
    assert runs[5].config.task.name == "MRPC"


TASKS = """
[[tasks]]
name = "first"
"task.dataset" = "CoLA"
[[tasks]]
name = "second"
"task.dataset" = "MRPC"
rank = 3
"""


def test_tasks_multiply_the_listed_runs_and_bring_their_settings(config_file: Path, tiny_glue: Path) -> None:
    head = config_file.read_text().split("[search]")[0]
    config_file.write_text(head + '[[runs]]\nname = "b"\n[[runs]]\nname = "a"\nvariant = "B_rand hA_0"\n' + TASKS)
    runs = read_sweep(config_file, data=tiny_glue)
    assert [run.name for run in runs] == ["b-first", "b-second", "a-first", "a-second"]
    assert [(run.config.task.name, run.config.rank) for run in runs[2:]] == [("CoLA", 2), ("MRPC", 3)]


def test_a_search_on_one_task_gives_its_rate_to_the_others(
    config_file: Path, tiny_glue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config_file.read_text().replace("seeds = [0, 1]", 'seeds = [0, 1]\ntask = "second"')
    config_file.write_text(text + TASKS)
    runs = read_sweep(config_file, data=tiny_glue)
    assert [run.name for run in runs] == ["second-rate-0.001-seed-0", "second-rate-0.01-seed-0"]
    done = fake_training(monkeypatch)
    table = run_sweep(runs, tmp_path / "out")
    assert done[2:] == ["second-rate-0.01-seed-1", "first-rate-0.01-seed-0", "first-rate-0.01-seed-1"]
    assert list(table.loc[table["stage"] == "best", "task"]) == ["MRPC", "MRPC", "CoLA", "CoLA"]
    assert set(table["rate_grid"]) == {"0.001 0.01"}
    config_file.write_text(text.replace('"second"', '"third"') + TASKS)
    with pytest.raises(AdapterError, match=r"on task third, which must be one of \[\[tasks\]\]"):
        read_sweep(config_file, data=tiny_glue)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("settings = 3 =", "no TOML"),
        ("[plan]\nmodel = 'm'", "unknown plan"),
        ("[settings]\nmodel = 'm'", "task table with a kind"),
        ("[settings]\n[settings.task]\nkind = 'glue'\ndata = '.'", "no setting data"),
        (
            "[settings]\nwidth = 3\n[settings.task]\nkind = 'glue'\ndataset='CoLA'\ndata_folder='.'",
            "no setting width",
        ),
        ("[settings]\n[settings.task]\nkind = 'glue'\ndataset='CoLA'\ndata_folder='.'", "lacks model"),
    ],
)
def test_a_wrong_config_is_refused_in_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(AdapterError, match=reason):
        read_sweep(path)


def test_an_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(AdapterError, match="samples"):
        read_sweep("no-such-config")


def test_settings_survive_being_written(one_run: FinetuneConfig, tiny_glue: Path) -> None:
    stored = json.loads(json.dumps(one_run.as_mapping()))
    assert str(tiny_glue) not in json.dumps(stored)
    stored["task"]["data_folder"] = str(tiny_glue)
    assert FinetuneConfig.from_mapping(stored) == one_run


def test_one_name_in_a_list_is_a_name_and_a_string_is_a_pattern(one_run: FinetuneConfig) -> None:
    from asym_analysis.finetuning.application import lora_layers

    named = lora_layers(adapted_model(replace(one_run, target_modules=("query",)))[0])
    assert len(named) == 2
    layer = r".*layer\.1\.attention\.self\.(query|value)"
    assert len(lora_layers(adapted_model(replace(one_run, target_modules=layer))[0])) == 2
    stored = replace(one_run, target_modules=layer).as_mapping()
    assert stored["target_modules"] == layer
    with pytest.raises(AdapterError, match=r"no module query.*linear modules end in dense, .*query, value"):
        adapted_model(replace(one_run, target_modules="query"))


def test_weights_from_a_gguf_file_can_be_trained(one_run: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers leaves its mark of quantized weights on a model that it has read from GGUF and dequantized."""
    from transformers import GgufConfig, Trainer, TrainingArguments

    task = type(one_run.task)
    load = task.model

    def marked(self: Any, source: str, *, gguf_file: str, **options: Any) -> Any:
        assert gguf_file == "weights.gguf"
        model = load(self, source, **options)
        model.is_quantized, model.config.quantization_config = True, GgufConfig()
        return model

    monkeypatch.setattr(task, "model", marked)
    config = replace(one_run, model=f"{one_run.model}/weights.gguf")
    model, _ = adapted_model(config)
    Trainer(model=model, args=TrainingArguments(report_to=[]))
    assert not hasattr(model.config, "quantization_config")
