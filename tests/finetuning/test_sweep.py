"""Interrupted runs and sweeps lose nothing, nothing is overwritten, and the table says what was run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import matthews_corrcoef

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import FinetuneConfig, finetune, model_source, read_sweep, run_sweep, storage, sweep
from asym_analysis.finetuning.digest import inputs_of
from asym_analysis.finetuning.estimate import estimate_sweep, planned_steps
from asym_analysis.finetuning.models import adapted_model
from asym_analysis.finetuning.progress import TrainingState

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
    path.write_text(text + "[search]\nlearning_rate = [1e-3, 1e-2]\nseed = 7\nseeds = [0, 1]\n")
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
    with pytest.raises(FileExistsError, match=r"unfinished run of other inputs \(rank 2 -> 3\)"):
        finetune(replace(one_run, rank=3), tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="holds no run"):
        finetune(one_run, tmp_path / "notes")


def fake_training(monkeypatch: pytest.MonkeyPatch, *, until: int = 10**9, best: float = 1e-2) -> list[str]:
    """Runs that cost nothing: their value is known, and the n-th is interrupted."""
    done: list[str] = []

    def pretend(config: FinetuneConfig, folder: Path, **_: Any) -> None:
        if len(done) == until:
            raise InterruptedTrainingError
        done.append(folder.name)
        folder.mkdir(parents=True)
        value = float("nan") if config.learning_rate < best and best > 0.1 else -abs(config.learning_rate - best)
        metrics = {"metric": "matthews", "value": value, "tune_value": value, "baseline": 0.0, "steps": 2}
        (folder / storage.INPUTS).write_text(json.dumps(inputs_of(config)))
        (folder / storage.METRICS).write_text(json.dumps(metrics))

    monkeypatch.setattr(sweep, "finetune", pretend)
    return done


SEARCHED = ["run-rate-0.001-seed-7", "run-rate-0.01-seed-7"]
FINAL = ["run-best-seed-0", "run-best-seed-1"]


def test_every_run_is_planned_before_the_first_starts(config_file: Path) -> None:
    runs = read_sweep(config_file)
    assert [run.name for run in runs] == SEARCHED + FINAL
    assert [run.stage for run in runs] == ["search", "search", "final", "final"]


def test_a_search_runs_the_best_rate_on_every_seed_and_resumes(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = read_sweep(config_file)
    with monkeypatch.context() as patch:
        first = fake_training(patch, until=1)
        with pytest.raises(InterruptedTrainingError):
            run_sweep(runs, tmp_path / "out")
        assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 1
    second = fake_training(monkeypatch)
    table = run_sweep(runs, tmp_path / "out")
    assert first == SEARCHED[:1]
    assert second == SEARCHED[1:] + FINAL
    assert list(table["stage"]) == ["search", "search", "final", "final"]
    assert set(table["rate_grid"]) == {"0.001 0.01"}
    assert list(table["rate_at_edge"]) == [False, False, True, True]
    assert list(table["learning_rate"]) == [0.001, 0.01, 0.01, 0.01]
    assert run_sweep(runs, tmp_path / "out").equals(table)
    assert len(second) == 3
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 4


def test_metrics_are_read_once(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of n runs reads each run's metrics a bounded number of times, not n times."""
    fake_training(monkeypatch)
    reads: list[str] = []
    original = sweep.read_run

    def counted(folder: Path) -> Any:
        reads.append(folder.name)
        return original(folder)

    monkeypatch.setattr(sweep, "read_run", counted)
    run_sweep(read_sweep(config_file), tmp_path / "out")
    assert sorted(reads) == sorted(SEARCHED + FINAL)


def test_a_finished_run_never_answers_for_other_inputs(
    config_file: Path, tiny_glue: Path, tiny_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_glue / "CoLA", data / "CoLA")
    head = config_file.read_text().split("[search]")[0]
    config_file.write_text(head + "[grid]\nseed = [0, 1]\n")
    done = fake_training(monkeypatch)
    run_sweep(read_sweep(config_file, data=data), out)
    assert done == ["seed-0", "seed-1"]

    config_file.write_text(head.replace("rank = 2", "rank = 1\nlearning_rate = 0.1") + "[grid]\nseed = [0, 1]\n")
    changed = r"seed-0 was finished from other inputs: rank 2 -> 1, learning_rate 0\.0004 -> 0\.1, and 1 more"
    with pytest.raises(AdapterError, match=changed):
        run_sweep(read_sweep(config_file, data=data), out)
    with pytest.raises(AdapterError, match=r"model .* -> no/such-model"):
        run_sweep(read_sweep(config_file, data=data, model="no/such-model"), out)
    assert len(done) == 2, "nothing is trained, and nothing answered"
    table = run_sweep(read_sweep(config_file, data=data), out, redo=True)
    assert done[2:] == ["seed-0", "seed-1"]
    assert set(table["learning_rate"]) == {0.1}

    (data / "CoLA" / "dev.tsv").write_text((data / "CoLA" / "train.tsv").read_text() + "gj04\t1\t\tthe cat\n")
    with pytest.raises(AdapterError, match=r"the file dev\.tsv"):
        run_sweep(read_sweep(config_file, data=data), out)
    shutil.copy(tiny_glue / "CoLA" / "dev.tsv", data / "CoLA")
    shutil.copytree(tiny_roberta, tmp_path / "moved")
    again = read_sweep(config_file, data=data, model=str(tmp_path / "moved"))
    assert run_sweep(again, out).equals(table), "a model that moved is the same model"
    (tmp_path / "moved" / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="other inputs: model"):
        run_sweep(again, out)


def test_a_search_done_again_takes_its_final_runs_along(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fake_training(patch, best=1e-2)
        run_sweep(read_sweep(config_file), tmp_path / "out")
    config_file.write_text(config_file.read_text().replace("max_steps = 2", "max_steps = 3"))
    done = fake_training(monkeypatch, best=1e-3)
    table = run_sweep(read_sweep(config_file), tmp_path / "out", redo=True)
    assert done == SEARCHED + FINAL
    assert set(table.query("stage == 'final'")["learning_rate"]) == {0.001}


def test_the_tuning_seed_is_not_reported(config_file: Path) -> None:
    config_file.write_text(config_file.read_text().replace("seed = 7", "seed = 1"))
    with pytest.raises(AdapterError, match=r"search\.seeds holds the tuning seed 1"):
        read_sweep(config_file)


def test_lengths_multiply_the_final_runs_and_the_longest_is_searched(config_file: Path) -> None:
    text = config_file.read_text()
    config_file.write_text(text.replace("max_steps = 2\n", "") + "[lengths]\nmax_steps = [2, 6]\n")
    runs = read_sweep(config_file)
    assert [run.name for run in runs if run.stage == "final"] == [
        f"run-best-steps-{steps}-seed-{seed}" for steps in (2, 6) for seed in (0, 1)
    ]
    assert {run.config.max_steps for run in runs if run.stage == "search"} == {6}
    assert {run.labels["length"] for run in runs if run.stage == "final"} == {"2 steps", "6 steps"}
    config_file.write_text(text + "[lengths]\nepochs = [3, 1]\n")
    with pytest.raises(AdapterError, match=r"lengths\.epochs is \[3\.0, 1\.0\]: give rising numbers"):
        read_sweep(config_file)


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
    assert [run.name for run in runs] == [
        "second-rate-0.001-seed-7",
        "second-rate-0.01-seed-7",
        *(f"{task}-best-seed-{seed}" for task in ("second", "first") for seed in (0, 1)),
    ]
    done = fake_training(monkeypatch)
    table = run_sweep(runs, tmp_path / "out")
    assert done == [run.name for run in runs]
    final = table[table["stage"] == "final"]
    assert list(final["task"]) == ["MRPC", "MRPC", "CoLA", "CoLA"]
    assert set(final["learning_rate"]) == {0.01}
    config_file.write_text(text.replace('"second"', '"third"') + TASKS)
    with pytest.raises(AdapterError, match=r"search.task is 'third', which must be one of \[\[tasks\]\]"):
        read_sweep(config_file, data=tiny_glue)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("settings = 3 =", "not a TOML"),
        ("[plan]\nmodel = 'm'", "plan is not a setting"),
        ("[settings]\nmodel = 'm'", "settings.task must be a table with a kind"),
        ("[settings]\n[settings.task]\nkind = 'glue'\ndata = '.'", "settings.task.data is not a setting"),
        ("[settings]\n[settings.task]\nkind = 'gleu'", "settings.task.kind is 'gleu'.*did you mean 'glue'"),
        (
            "[settings]\n[search]\nlearning_rate = [0.1, -1]\nseeds = [1]",
            r"search.learning_rate.1 is -1: .*greater than 0",
        ),
        ("[lengths]\nepochs = [1]", "lengths.epochs is"),
        (
            "[settings]\nmodel='m'\ntarget_modules='q'\nrank=0\n[settings.task]\nkind='glue'\ndataset='CoLA'\ndata_folder='.'",
            "settings.rank is 0: should be greater than or equal to 1",
        ),
        (
            "[settings]\nwidth = 3\n[settings.task]\nkind = 'glue'\ndataset='CoLA'\ndata_folder='.'",
            "settings.width is not a setting",
        ),
        ("[settings]\n[settings.task]\nkind = 'glue'\ndataset='CoLA'\ndata_folder='.'", "settings.model is missing"),
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


def test_weights_from_a_gguf_file_can_be_trained(
    one_run: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers leaves its mark of quantized weights on a model that it has read from GGUF and dequantized."""
    transformers = pytest.importorskip("transformers", minversion="5.18", reason="older ones leave no such mark")
    GgufConfig, Trainer, TrainingArguments = (
        getattr(transformers, name) for name in ("GgufConfig", "Trainer", "TrainingArguments")
    )

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
    Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to=[]))
    assert not hasattr(model.config, "quantization_config")


def test_rows_are_scored_in_one_order_whatever_the_seed(one_run: FinetuneConfig, tmp_path: Path) -> None:
    """Grouped by length, transformers shuffles what it scores by the seed: rows would not be the same rows."""
    for seed in (0, 1):
        config = replace(one_run, seed=seed, group_by_length=True)
        run = finetune(config, tmp_path / str(seed))
        labels = run.outcomes()["label"]
        source, options = model_source(config.model)
        data = config.task.data(config.task.processor(source, **options))
        assert labels.tolist() == data.dev["labels"], "labels stand as in the file"
        kept = run.outcomes()
        half = ~kept["tuning"]
        value = matthews_corrcoef(kept["label"][half], kept["predicted"][half])
        assert run.metrics["value"] == pytest.approx(value)
        assert int(kept["tuning"].sum()) == len(labels) // 2


def test_frozen_and_full_runs_have_no_adapter(one_run: FinetuneConfig, tmp_path: Path) -> None:
    frozen = finetune(replace(one_run, variant="frozen", learning_rate=0.1), tmp_path / "frozen")
    assert frozen.metrics["adapter_parameters"] == 0
    assert frozen.metrics["head_parameters"] == frozen.metrics["trainable_parameters"] > 0
    head = load_file(frozen.folder / "head.safetensors")
    assert head
    assert all("classifier" in key for key in head)
    assert not (frozen.folder / "adapter_model.safetensors").exists()
    full = finetune(replace(one_run, variant="full"), tmp_path / "full")
    lora = finetune(one_run, tmp_path / "lora")
    assert lora.metrics["head_parameters"] == full.metrics["head_parameters"] == frozen.metrics["head_parameters"]
    assert full.metrics["adapter_parameters"] > 10 * lora.metrics["adapter_parameters"] > 0


def test_the_head_has_its_own_rate_and_starts_at_the_labels_mean(one_run: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(one_run, task=replace(one_run.task, dataset="STS-B"), learning_rate=1e-9)  # type: ignore[call-arg]
    for rate in (None, 1e-2):
        run = finetune(replace(config, head_learning_rate=rate), tmp_path / str(rate))
        state = load_file(run.folder / "adapter_model.safetensors")
        bias = next(value for key, value in state.items() if "out_proj.bias" in key)
        source, options = model_source(config.model)
        mean = np.mean(config.task.data(config.task.processor(source, **options)).train["labels"])
        assert (abs(float(bias) - mean) < 1e-6) == (rate is None)


def test_curves_are_kept_and_steps_are_reported(one_run: FinetuneConfig, tmp_path: Path) -> None:
    states: list[TrainingState] = []
    run = finetune(replace(one_run, max_steps=6, curve_points=3), tmp_path / "run", progress=states.append)
    assert [entry["step"] for entry in run.metrics["curve"]] == [2, 4, 6]
    assert run.metrics["curve"][-1]["value"] == pytest.approx(run.metrics["value"])
    assert [state.step for state in states] == [0, 1, 2, 3, 4, 5, 6]
    assert states[-1].seconds_left == 0
    assert run.metrics["cpu_seconds"] > 0
    assert "run: step 6 of 6" in str(states[-1])


def test_a_rank_above_the_width_is_one_sentence(one_run: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"settings.rank is 40, above the width 16 of module .*query"):
        finetune(replace(one_run, rank=40), tmp_path / "run")


@pytest.mark.parametrize("variant", ["hB_0 A_X", "hB_0 A_G", "B_Y hA_0", "hB_0 A_X_last"])
def test_a_factor_is_placed_by_data(one_run: FinetuneConfig, tmp_path: Path, variant: str) -> None:
    run = finetune(replace(one_run, variant=variant, statistics_rows=8), tmp_path / "run")
    trained, initial = (load_file(run.folder / name) for name in ("adapter_model.safetensors", "initial.safetensors"))
    frozen = ".lora_A." if variant.startswith("h") else ".lora_B."
    for key, value in initial.items():
        if frozen in key:
            assert torch.equal(value, trained[key])
            gram = value @ value.T if frozen == ".lora_A." else value.T @ value
            assert torch.allclose(gram, torch.eye(2), atol=1e-5)


def test_a_run_may_have_rates_of_its_own_and_a_frozen_one_tunes_its_head(config_file: Path) -> None:
    text = config_file.read_text().replace("batch_size = 4", "batch_size = 4\nhead_learning_rate = 0.5")
    runs = '[[runs]]\nname = "b"\n[[runs]]\nname = "full"\nvariant = "full"\nrates = [1e-5]\n'
    config_file.write_text(text + runs + '[[runs]]\nname = "frozen"\nvariant = "frozen"\n')
    planned = read_sweep(config_file)
    rates = {(run.labels["run"], run.config.learning_rate, run.config.head_learning_rate) for run in planned}
    assert rates == {
        *(("b", rate, 0.5) for rate in (1e-3, 1e-2)),
        ("full", 1e-5, 0.5),
        *(("frozen", rate, None) for rate in (1e-3, 1e-2)),
    }


def test_a_plan_is_estimated(config_file: Path, tmp_path: Path) -> None:
    runs = read_sweep(config_file)
    estimate = estimate_sweep(runs, tmp_path, steps=1)
    assert list(estimate.frame["name"]) == [run.name for run in runs]
    assert set(estimate.frame["steps"]) == {2}
    assert (estimate.frame["hours"] > 0).all()
    assert estimate.summary()["runs"].sum() == 4


@pytest.mark.parametrize(("epochs", "rows", "steps"), [(1.0, 24, 3), (2.0, 25, 8), (0.5, 24, 2)])
def test_planned_steps_are_those_of_the_trainer(
    one_run: FinetuneConfig, tmp_path: Path, epochs: float, rows: int, steps: int
) -> None:
    config = replace(one_run, max_steps=None, epochs=epochs, batch_size=8)
    assert planned_steps(config, rows) == steps
    if rows == 24:
        assert finetune(replace(config, curve_points=0), tmp_path / "run").metrics["steps"] == steps


def test_a_finished_table_ships_as_it_is_and_no_other(config_file: Path, tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "figures" / "ship_runs.py"
    spec = importlib.util.spec_from_file_location("ship_runs", file)
    assert spec is not None
    assert spec.loader is not None
    ship_runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ship_runs)

    runs = read_sweep(config_file)
    run_sweep(runs, tmp_path / "out", only="rate")
    with pytest.raises(SystemExit, match="2 of 4 runs are not finished, run-best-seed-0 among them"):
        ship_runs.ship(runs, tmp_path / "out", tmp_path / "shipped")
    assert ship_runs.complete(runs, tmp_path / "out") == []
    table = run_sweep(runs, tmp_path / "out")
    assert ship_runs.complete(runs, tmp_path / "out") == runs
    ship_runs.ship(runs, tmp_path / "out", tmp_path / "shipped")
    shipped = pd.read_csv(tmp_path / "shipped" / "runs.csv")
    assert shipped["name"].tolist() == table["name"].tolist()
    assert np.allclose(shipped["loss"], table["loss"], rtol=1e-5)
    with np.load(tmp_path / "shipped" / "rows.npz") as rows:
        assert {key.split("/")[0] for key in rows.files} == set(FINAL)
    changed = read_sweep(config_file, model="no/such-model")
    with pytest.raises(SystemExit, match=r"run-rate-0\.001-seed-7 was finished from other inputs: model"):
        ship_runs.ship(changed, tmp_path / "out", tmp_path / "shipped")


def test_an_interrupted_run_of_other_inputs_is_redone_on_request(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = config_file.read_text().split("[search]")[0]
    config_file.write_text(head)
    with monkeypatch.context() as patch:
        interrupt_training_at(1, patch)
        with pytest.raises(InterruptedTrainingError):
            run_sweep(read_sweep(config_file), tmp_path / "out")
    config_file.write_text(head.replace("rank = 2", "rank = 1"))
    with pytest.raises(FileExistsError, match=r"unfinished run of other inputs \(rank 2 -> 1\).*--redo"):
        run_sweep(read_sweep(config_file), tmp_path / "out")
    assert run_sweep(read_sweep(config_file), tmp_path / "out", redo=True)["rank"].tolist() == [1]
