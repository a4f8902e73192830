"""`asym ask` and `asym doctor` on shipped adapters: schema, exit codes, and one sentence for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import load_adapter
from asym_analysis.cli.ask import Question

SAMPLES = Path(__import__("asym_analysis").__file__).parent / "samples"
ONE, MANY = SAMPLES / "mrpc-0", [SAMPLES / name for name in ("mrpc-0", "mrpc-1", "shared-cola")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapter = load_adapter(ONE)
    draw = torch.Generator().manual_seed(0)
    weights = {f"{m}.weight": torch.randn(*adapter[m].shape, generator=draw) for m in adapter}
    file = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file(weights, file)
    return file


@pytest.mark.parametrize("question", ["initialization", "ranks", "projections"])
def test_questions_about_one_adapter(asym: Callable[..., Any], question: str, tmp_path: Path) -> None:
    shown = asym("ask", question, ONE, "--json", "--figures", tmp_path, "--out", tmp_path / "table.parquet")
    assert shown.code == 0, shown.err
    assert shown.records("summary")
    assert (tmp_path / f"{question}.png").stat().st_size > 1000
    assert (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize("question", ["chain", "movement", "merge", "crowding", "mean"])
def test_questions_about_several_adapters(asym: Callable[..., Any], question: str, tmp_path: Path) -> None:
    shown = asym("ask", question, *MANY, "--json", "--figures", tmp_path)
    assert shown.code == 0, shown.err
    assert shown.records("summary")
    assert (tmp_path / f"{question}.svg").exists()


@pytest.mark.parametrize("question", ["base", "intruder-scaling"])
def test_questions_about_the_base(asym: Callable[..., Any], question: str, base: Path) -> None:
    assert asym("ask", question, ONE, "--base", base, "--json").code == 0
    missing = asym("ask", question, ONE)
    assert missing.code == 1
    assert "needs --base" in missing.err


@pytest.mark.parametrize("question", ["null-space", "worth", "first-gradient"])
def test_questions_that_need_a_model_say_so(asym: Callable[..., Any], question: str) -> None:
    missing = asym("ask", question, ONE)
    assert missing.code == 1
    assert "needs --model and --data" in missing.err


def test_questions_about_a_real_model(asym: Callable[..., Any], shared_models: Path, tmp_path: Path) -> None:
    network = shared_models / "stories260K"
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a dog.\nThe sun was warm and the cat slept.\n" * 4)
    draw = torch.Generator().manual_seed(0)
    state = {}
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        state[f"{prefix}.lora_A.weight"] = torch.randn(4, 64, generator=draw)
        state[f"{prefix}.lora_B.weight"] = 0.01 * torch.randn(64, 4, generator=draw)
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}'
    )
    for question in ("null-space", "worth", "first-gradient", "ranks"):
        shown = asym("ask", question, tmp_path, "--model", network, "--data", texts, "--json")
        assert shown.code == 0, shown.err
        assert shown.records("summary")


def test_one_adapter_where_several_are_needed(asym: Callable[..., Any]) -> None:
    shown = asym("ask", "merge", ONE)
    assert shown.code == 1
    assert "two adapters" in shown.err


def test_every_question_has_a_meaning_and_a_function() -> None:
    from asym_analysis import questions
    from asym_analysis.cli.ask import _ASKED

    assert set(_ASKED) == set(Question)
    assert all(callable(getattr(questions, asked.function)) and asked.row for asked in _ASKED.values())


def test_the_doctor_on_a_shipped_adapter(asym: Callable[..., Any], base: Path) -> None:
    shown = asym("doctor", ONE, "--base", base, "--sibling", SAMPLES / "mrpc-1", "--json")
    assert shown.code == 0, shown.err
    assert "findings" in shown.document["tables"]
    assert asym("doctor", ONE, "--data", "x.txt").code == 1
