"""The shell's manners: exit codes, one-sentence errors, JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three tiny PEFT adapters: the first two share their A."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 64, generator=generator)
    for index in range(3):
        folder = tmp_path / f"run-{index}"
        folder.mkdir()
        tensors = {}
        for layer in range(2):
            A = shared if index < 2 else torch.randn(4, 64, generator=generator)
            name = f"base_model.model.encoder.layer.{layer}.query"
            tensors[f"{name}.lora_A.weight"] = A + layer
            tensors[f"{name}.lora_B.weight"] = torch.randn(48, 4, generator=generator)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"]})
        )
    return tmp_path


def test_compare_prints_a_table_and_writes_every_row(runs: Path, asym) -> None:
    out = runs / "table.csv"
    done = asym("compare", *sorted(runs.glob("run-*")), "--out", out)
    assert done.code == 0
    assert "overlap" in done.out
    frame = pd.read_csv(out)
    assert len(frame) == 3 * 2 * 2
    shared = frame[(frame["adapter_i"] == "run-0") & (frame["adapter_j"] == "run-1") & (frame["factor"] == "A")]
    assert shared["value"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert shared["same_initialization"].tolist() == [True, True]


def test_json_goes_to_standard_output_alone(runs: Path, asym) -> None:
    done = asym("compare", *sorted(runs.glob("run-*")), "--json")
    assert done.code == 0
    assert done.document["settings"]["measure"] == "overlap"
    assert {row["factor"] for row in done.records("summary")} == {"A", "B"}


def test_a_path_that_cannot_be_read_is_named_and_the_rest_compared(runs: Path, asym) -> None:
    (runs / "empty.safetensors").write_bytes(b"")
    done = asym("compare", runs / "run-0", runs / "run-1", runs / "empty.safetensors")
    assert done.code == 2
    assert "empty.safetensors" in done.err
    told = asym("compare", runs / "run-0", runs / "run-1", runs / "empty.safetensors", "--json")
    assert [refused["source"] for refused in told.document["refused"]] == [str(runs / "empty.safetensors")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "at least two adapters"),
        (("compare", "run-0", "--measure", "nearness"), "no measure is called 'nearness'"),
        (("compare", "run-0"), "needs two adapters"),
        (("compare", "nowhere-at-all-7"), "no adapter could be read"),
        (("compare", "run-0", "run-1", "--by", "task"), "task"),
        (("report", "--out", "x.pdf"), "ends in .html"),
        (("compare", "run-0", "run-1", "--out", "table.xlsx"), "--out table.xlsx: the suffix must be"),
        (("drift", "run-0", "--out", "run-1"), "--out run-1: the suffix must be"),
        (("drift", "run-0", "--figures", "run-0/adapter_config.json"), "is a file: give a folder"),
        (("drift", "run-0", "--figures", "run-0/adapter_config.json/x"), "not a folder that you may write to"),
        (("drift", "run-0", "--alpha", "-1"), "finite numbers above 0"),
        (("inspect", "run-0", "--config", "broken.json"), "--config broken.json is not JSON"),
        (("finetune", "copy", "nothing"), "there is no shipped config nothing; the names are"),
        (("inspect",), "name an adapter"),
        (("nonsense",), "nonsense"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_one(
    runs: Path, monkeypatch: pytest.MonkeyPatch, asym, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(runs)
    (runs / "broken.json").write_text("{")
    before = sorted(runs.rglob("*"))
    done = asym(*arguments)
    assert done.code == 1
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert sorted(runs.rglob("*")) == before


def test_metadata_joins_by_name(runs: Path, asym) -> None:
    pd.DataFrame({"name": ["run-2", "run-0", "run-1"], "task": ["y", "x", "x"]}).to_csv(runs / "runs.csv", index=False)
    done = asym("compare", *sorted(runs.glob("run-*")), "--metadata", runs / "runs.csv", "--by", "task")
    assert done.code == 0
    assert "same against different task" in done.out


def test_metadata_that_do_not_fit_are_refused(runs: Path, asym) -> None:
    pd.DataFrame({"task": ["y"]}).to_csv(runs / "short.csv", index=False)
    done = asym("compare", runs / "run-0", runs / "run-1", "--metadata", runs / "short.csv")
    assert done.code == 1
    assert "1 rows for 2 adapters" in " ".join(done.err.split())
