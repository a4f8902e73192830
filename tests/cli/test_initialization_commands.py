"""`asym drift`, `asym intruders` and `asym share` on written adapters: tables, JSON, files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from asym_analysis.results import read_result

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": True}


def write(folder: Path, seed: int, start_seed: int, *, keep_start: bool = False) -> Path:
    generator, starts = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(start_seed)
    state, initial = {}, {}
    for layer in range(2):
        prefix = f"base_model.model.encoder.layer.{layer}.query"
        start = (2 * torch.rand(4, 256, generator=starts) - 1) / 16
        step = torch.randn(4, 256, generator=generator)
        state[f"{prefix}.lora_A.weight"] = start + 0.3 * start.norm() * step / step.norm()
        state[f"{prefix}.lora_B.weight"] = torch.randn(32, 1, generator=generator) @ torch.ones(1, 4)
        initial |= {f"{prefix}.lora_A.weight": start, f"{prefix}.lora_B.weight": torch.zeros(32, 4)}
    folder.mkdir(parents=True)
    save_file(state, folder / "adapter_model.safetensors")
    if keep_start:
        save_file(initial, folder / "initial.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def test_drift(tmp_path: Path, asym) -> None:
    runs = [write(tmp_path / name, index, 7) for index, name in enumerate("ab")]
    table = tmp_path / "drift.json"
    done = asym("drift", *runs, "--json", "--out", table, "--figures", tmp_path / "figures")
    assert done.code == 0
    medians = {row["adapter"]: row["median"] for row in done.records("summary") if row["factor"] == "A"}
    assert medians == pytest.approx({"a": 0.3, "b": 0.3}, abs=0.1)
    assert done.records("shared_initializations")[0]["adapters"] == "a, b"
    found = read_result(table)
    frame, settings = found.frame, found.settings
    assert len(frame) == 8
    assert settings["adapters"] == ["a", "b"]
    assert (tmp_path / "figures" / "drift.png").stat().st_size > 1000


def test_compare_says_which_pairs_share_their_initialization(tmp_path: Path, asym) -> None:
    runs = [
        write(tmp_path / name, index, start) for index, (name, start) in enumerate({"a": 7, "b": 7, "c": 8}.items())
    ]
    said = " ".join(asym("compare", *runs).out.split())
    assert "1 of 3 pairs share their initialization, which is alike without being learned" in said
    assert "share their initialization" not in " ".join(asym("compare", *runs[1:]).out.split())


def test_drift_with_a_recorded_start_and_with_bad_input(tmp_path: Path, asym) -> None:
    done = asym("drift", write(tmp_path / "kept", 0, 7, keep_start=True))
    assert done.code == 0
    assert "measured" in done.out
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    done = asym("drift", tmp_path / "kept", tmp_path / "broken")
    assert done.code == 2
    assert "refused" in done.err
    assert asym("drift").code == 1


def test_intruders(tmp_path: Path, asym) -> None:
    adapter = write(tmp_path / "run", 0, 7)
    generator = torch.Generator().manual_seed(0)
    weights = {f"encoder.layer.{i}.query.weight": torch.randn(32, 256, generator=generator) for i in range(2)}
    (tmp_path / "base").mkdir()
    save_file(weights, tmp_path / "base" / "model.safetensors")
    command = ("intruders", adapter, "--base", tmp_path / "base", "--top-k", 4)
    done = asym(*command, "--cache", tmp_path / "cache", "--json")
    assert done.code == 0
    assert done.records("summary")[0]["examined"] == 8
    assert len(list((tmp_path / "cache").iterdir())) == 2
    save_file({"encoder.layer.0.query.weight": weights["encoder.layer.0.query.weight"]}, tmp_path / "half.safetensors")
    done = asym("intruders", adapter, "--base", tmp_path / "half.safetensors", "--top-k", 4)
    assert done.code == 2
    assert "encoder.layer.1.query" in done.err
    assert asym(*command[:-1], 0).code == 1
    assert asym("intruders", adapter, "--base", tmp_path / "nowhere").code == 1


@pytest.mark.parametrize(
    ("question", "column"),
    [("energy", "energy"), ("bases", "mean_error"), ("averaging", "both_averaged"), ("merging", "on_own_inputs")],
)
def test_share(tmp_path: Path, asym, question: str, column: str) -> None:
    runs = [write(tmp_path / name, index, 7) for index, name in enumerate("abc")]
    done = asym("share", *runs, "--question", question, "--rank", 4, "--json")
    assert done.code == 0
    assert column in done.records("summary")[0]
    assert asym("share", runs[0]).code == 1
    assert asym("share", *runs, "--rank", 0).code == 1


def test_intruders_of_an_adapter_whose_initialization_changed_the_base(tmp_path: Path, asym) -> None:
    """OLoRA took its initial factors out of the base weight: with it given, the change is that of the model."""
    torch.manual_seed(0)
    W0 = torch.randn(12, 10)
    Q, R = torch.linalg.qr(W0)
    scaling, A, B = 2.0, R[:2] + 0.1 * torch.randn(2, 10), Q[:, :2] + 0.1 * torch.randn(12, 2)
    change = scaling * (B @ A - Q[:, :2] @ R[:2])
    folder = tmp_path / "olora"
    folder.mkdir()
    tensors = {"base_model.model.q.lora_A.weight": A.contiguous(), "base_model.model.q.lora_B.weight": B.contiguous()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": "olora"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"q.weight": W0}, tmp_path / "base.safetensors")
    done = asym("intruders", folder, "--base", tmp_path / "base.safetensors", "--top-k", 3, "--json")
    row = done.records("modules")[0]
    assert row["update_norm"] == pytest.approx(torch.linalg.matrix_norm(change, 2).item(), rel=1e-4)
