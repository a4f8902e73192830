"""Each of the paper's four families, end to end on a tiny random model of its class, through its shipped config."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from asym_analysis.finetuning import (
    FinetuneConfig,
    FinetuneRun,
    check_claims,
    finetune,
    read_outcomes,
    read_sweep,
    run_sweep,
    score_variants,
)
from asym_analysis.finetuning.models import adapted_model


def shrunk(config: FinetuneConfig, model: Path, **changes: Any) -> FinetuneConfig:
    """A shipped config on a tiny model: everything else stays but what makes it long."""
    task = {"max_length": 24, "beams": 1, "max_summary_length": 8, "examples": 1}
    task = {key: value for key, value in task.items() if hasattr(config.task, key)}
    small = {"max_steps": 2, "batch_size": 4, "rank": 2, "alpha": 4.0, "device_map": None}
    return replace(config, model=str(model), task=replace(config.task, **task), **(small | changes))


def planned(name: str, data: Path, run: str) -> FinetuneConfig:
    return next(planned.config for planned in read_sweep(name, data=data) if run in planned.name)


def factors(run: FinetuneRun) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    trained = load_file(run.folder / "adapter_model.safetensors")
    return {key: value for key, value in trained.items() if ".lora_" in key}, load_file(
        run.folder / "initial.safetensors"
    )


def assert_trained(run: FinetuneRun, *, A: bool, B: bool) -> None:
    trained, initial = factors(run)
    assert trained.keys() == initial.keys()
    assert any(".lora_A." in key for key in trained)
    for key, value in trained.items():
        moved = not torch.equal(value, initial[key])
        assert moved == (A if ".lora_A." in key else B), key


def test_encoder(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path) -> None:
    config = planned("roberta-large-glue", tiny_glue, "b-only-r8-MRPC")
    run = finetune(shrunk(config, tiny_roberta), tmp_path / "run")
    assert_trained(run, A=False, B=True)
    assert 0 <= run.metrics["value"] <= 1
    assert run.metrics["baseline"] == 0.5
    # The head is trained in full, and lies beside the factors.
    assert any("classifier" in key for key in load_file(run.folder / "adapter_model.safetensors"))


def test_sequence_to_sequence(tiny_bart: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = planned("bart-large-summarization", tiny_data, "a-only")
    run = finetune(shrunk(config, tiny_bart, gradient_accumulation=2), tmp_path / "run")
    assert_trained(run, A=True, B=False)
    assert {"rouge1", "rouge2", "rougeL"} <= run.metrics.keys()


def test_decoder(tiny_llama: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = planned("llama-2-7b-alpaca", tiny_data, "lora-r32")
    # The first step has learning rate zero, and A no gradient until B has left zero.
    run = finetune(shrunk(config, tiny_llama, max_steps=4), tmp_path / "run")
    assert_trained(run, A=True, B=True)
    assert run.metrics["value"] in {0, 0.25, 0.5, 0.75, 1}
    assert run.metrics["baseline"] == 0.25


def test_vision(tiny_vit: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = planned("vit-base-domains", tiny_data, "b-only-r16")
    config = replace(config, task=replace(config.task, train_domains=("photo",)))  # type: ignore[call-arg]
    run = finetune(shrunk(config, tiny_vit), tmp_path / "run")
    assert_trained(run, A=False, B=True)
    for scored in ("", "train_", "sketch_"):
        assert 0 < run.metrics[f"{scored}loss"] < 5
        assert 0 <= run.metrics[f"{scored}accuracy"] <= 1


def test_every_shipped_config_plans_runs(tiny_glue: Path) -> None:
    from asym_analysis.finetuning import shipped_configs

    for name in shipped_configs():
        runs = read_sweep(name, data=tiny_glue)
        assert len({run.name for run in runs}) == len(runs) >= 2
        for run in runs:
            json.dumps(run.config.as_mapping())


def test_half_precision_weights_are_trained_in_the_dtype_that_was_asked_for(
    tiny_llama: Path, tiny_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_llama).half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    config = planned("llama-2-7b-alpaca", tiny_data, "b-only-r32")
    for dtype in ("float32", "bfloat16"):
        model, _ = adapted_model(shrunk(config, folder, dtype=dtype))
        assert {str(p.dtype) for n, p in model.named_parameters() if "lora" not in n} == {f"torch.{dtype}"}


@pytest.mark.parametrize("optimizer", ["adamw", "lorafa"])
def test_frozen_a_with_either_optimizer(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path, optimizer: str) -> None:
    config = planned("roberta-large-glue", tiny_glue, "b-only-r8-CoLA")
    run = finetune(shrunk(config, tiny_roberta, optimizer=optimizer), tmp_path / "run")
    assert_trained(run, A=False, B=True)


SHIPPED = {
    "roberta-large-glue": ("tiny_roberta", "tiny_glue", "MRPC", "epochs"),
    "bart-large-summarization": ("tiny_bart", "tiny_data", "", "epochs"),
    "llama-2-7b-alpaca": ("tiny_llama", "tiny_data", "", "epochs"),
    "vit-base-domains": ("tiny_vit", "tiny_data", "", "max_steps"),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_full_size_configs_follow_one_design(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A frozen run, two lengths and paired seeds, from the plan to a verdict, on a tiny model of the same class."""
    model, data, only, setting = SHIPPED[name]
    folder, texts = request.getfixturevalue(model), request.getfixturevalue(data)
    runs = [run for run in read_sweep(name, data=texts) if only in run.name]
    lengths = {getattr(run.config, setting) for run in runs if run.config.variant != "frozen"}
    assert len(lengths) == 2
    assert any(run.config.variant == "frozen" for run in runs)
    seed = max(run.config.seed for run in runs)
    kept = [run for run in runs if run.config.seed == seed and run.stage != "search"]
    variants = {"frozen", "hB_0 hA_Km", "hB_0 A_rand"}
    kept = [run for run in kept if run.config.variant in variants and run.stage != "search"]
    frozen = [run for run in runs if run.config.variant == "frozen" and run.stage != "search"][:1]
    chosen = list({run.name: run for run in [*frozen, *kept]}.values())
    small = []
    least = min(run.config.rank for run in kept if run.config.variant != "frozen")
    for run in chosen:
        config = run.config
        if name == "vit-base-domains":
            config = replace(config, task=replace(config.task, train_domains=("photo",)))  # type: ignore[call-arg]
        changes = {"rank": max(1, 2 * config.rank // least), "curve_points": 1}
        changes |= {"max_steps": 1 if getattr(config, setting) == min(lengths) else 2}
        small.append(replace(run, config=shrunk(config, folder, **changes), stage="given", group=None))
    table = run_sweep(small, tmp_path)
    assert len(table) == len(small) >= 3
    assert table["length"].nunique() >= 2
    scores = score_variants(table, outcomes=read_outcomes(table, tmp_path))
    assert (scores.frame["baseline_of"] == "frozen run").all()
    claims = check_claims(scores).frame
    assert (claims["verdict"] == "undecided").all(), "one seed decides nothing"
    assert claims["reason"].str.contains("fewer than 3 seeds").all()
