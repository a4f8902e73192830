"""A sweep predicts from its own adapters, and its measured losses are compared on one scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from asym_analysis import load_adapter, predict_asymmetry
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import predict_sweep, read_sweep, run_sweep, task_batches
from asym_analysis.finetuning.models import pretrained_model
from asym_analysis.finetuning.sweep_prediction import advantages
from asym_analysis.prediction import input_covariances

PLAN = """
[settings]
model = {model}
target_modules = ["query", "value"]
rank = 2
max_steps = 3
batch_size = 4
[settings.task]
kind = "glue"
data_folder = "."
max_length = 16
[[tasks]]
name = "first"
"task.dataset" = "CoLA"
[[tasks]]
name = "second"
"task.dataset" = "MRPC"
[[runs]]
name = "lora-r2"
[[runs]]
name = "b-only-r2"
variant = "hB_0 A_rand"
[search]
learning_rate = [1e-2]
seeds = [1, 2]
task = "first"
"""


def test_a_finished_sweep_predicts_for_every_task_seed_and_kind(
    tiny_roberta: Path, tiny_glue: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.format(model=json.dumps(str(tiny_roberta))))
    runs = read_sweep(tmp_path / "plan.toml", data=tiny_glue)
    with pytest.raises(AdapterError, match="no finished run of variant hB_0 hA_Km and rank 2"):
        predict_sweep(runs, tmp_path / "out", rank=2)
    run_sweep(runs, tmp_path / "out")
    table = predict_sweep(runs, tmp_path / "out", rank=2, rows=10)
    counts = table.groupby(["task", "seed", "kind"]).size()
    assert set(counts) == {5}  # two layers of query and value, and the whole
    assert len(counts) == 2 * 2 * 3

    config = next(run.config for run in runs if run.config.task.name == "CoLA")
    batches = list(task_batches(config, rows=10))
    assert [len(batch["labels"]) for batch in batches] == [8, 2]
    adapter = load_adapter(tmp_path / "out" / "lora-r2-first-best-seed-1")
    moments = input_covariances(pretrained_model(config), batches, list(adapter))
    expected = predict_asymmetry(adapter, moments).frame.set_index("module")["random_A"]
    chosen = table.query("task == 'CoLA' and seed == 1 and kind == 'inputs' and module != 'all'")
    assert np.allclose(chosen.set_index("module")["random_A"], expected[chosen["module"]], rtol=1e-6)


def test_advantages_are_log_ratios_of_losses_over_common_seeds() -> None:
    b_only, a_only = "hB_0 A_rand", "B_rand hA_0"
    losses = {(b_only, 0): 1.0, (b_only, 1): 2.0, (b_only, 2): 9.0, (a_only, 0): 2.0, (a_only, 1): 2.0}
    rows = [
        {"variant": v, "rank": 8, "seed": s, "task": "t", "target_modules": "q v", "stage": "final", "loss": loss}
        for (v, s), loss in losses.items()
    ]
    rows.append({**rows[0], "stage": "search", "loss": 50.0})
    found = advantages(pd.DataFrame(rows)).iloc[0]
    assert found["advantage"] == pytest.approx(np.log(2) / 2)
    assert found["advantage_error"] == pytest.approx(np.log(2) / 2)
    assert found["target_modules"] == "q v"
