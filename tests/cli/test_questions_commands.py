"""`asym ask` and `asym doctor` on shipped adapters: schema, exit codes, and one sentence for what is missing."""

from __future__ import annotations

import json
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


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two adapters of the small language model, as PEFT writes them."""
    found = []
    for seed in range(2):
        draw, folder, state = torch.Generator().manual_seed(seed), tmp_path / f"run-{seed}", {}
        for layer in range(2):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            state[f"{prefix}.lora_A.weight"] = torch.randn(4, 64, generator=draw)
            state[f"{prefix}.lora_B.weight"] = 0.01 * torch.randn(64, 4, generator=draw)
        folder.mkdir()
        save_file(state, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        found.append(folder)
    return found


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    stories = ("Once upon a time there was a dog.\n" * 6, "The sun was warm and the cat slept.\n" * 6)
    files = [tmp_path / f"{i}.txt" for i in range(2)]
    for file, story in zip(files, stories, strict=True):
        file.write_text(story)
    return files


def test_questions_about_a_real_model(
    asym: Callable[..., Any], shared_models: Path, runs: list[Path], texts: list[Path]
) -> None:
    given = ("--model", shared_models / "stories260K", "--data", texts[0])
    for question in ("null-space", "worth", "first-gradient", "ranks"):
        shown = asym("ask", question, runs[0], *given, "--json")
        assert shown.code == 0, shown.err
        assert shown.records("summary")
    ratio = asym("ask", "null-space", runs[0], *given, "--task-data", texts[0], "--json").records("rows")
    assert [row["task_ratio"] for row in ratio] == pytest.approx([1, 1])
    assert asym("ask", "crowding", *runs, *given).code == 1


def test_a_merge_is_asked_with_the_inputs_of_each_adapter(
    asym: Callable[..., Any], shared_models: Path, runs: list[Path], texts: list[Path], tmp_path: Path
) -> None:
    given = ("--model", shared_models / "stories260K", "--data", texts[0], "--data", texts[1])
    shown = asym("ask", "merge", *runs, *given, "--save", tmp_path / "best", "--json")
    assert shown.code == 0, shown.err
    rows = shown.records("rows")
    assert all(row["error_optimum"] < row["error_weighted"] < row["error"] for row in rows)
    files = asym("ask", "merge", *runs, "--json").records("rows")
    assert [row["error"] for row in rows] != pytest.approx([row["error"] for row in files], rel=1e-3)
    assert load_adapter(tmp_path / "best").ranks == (8,)
    once = asym("ask", "merge", *runs, *given[:4])
    assert once.code == 1
    assert "2 times, once for each adapter" in once.err


def test_the_allocated_ranks_are_written(asym: Callable[..., Any], tmp_path: Path) -> None:
    shown = asym("ask", "ranks", ONE, "--budget", 24, "--save", tmp_path / "smaller", "--json")
    assert shown.code == 0, shown.err
    smaller = load_adapter(tmp_path / "smaller")
    ranks = {row["module"]: row["allocated"] for row in shown.records("rows") if row["allocated"]}
    assert {module: smaller[module].rank for module in smaller} == ranks
    assert sum(ranks.values()) == 24
    assert "--save is for ranks and merge" in asym("ask", "projections", ONE, "--save", tmp_path / "x").err


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
