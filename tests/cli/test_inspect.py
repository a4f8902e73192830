"""`asym inspect` shows what is there, and its exit code says whether all of it could be used."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import load_adapter
from asym_analysis.adapters.inspection import inspect_modules
from asym_analysis.cli import main

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "base_model_name_or_path": "roberta-base"}


def write(folder: Path, **changes: torch.Tensor) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for layer in range(12):
        prefix = f"base_model.model.encoder.layer.{layer}.query"
        state[f"{prefix}.lora_A.weight"] = torch.randn(2, 6, generator=generator)
        state[f"{prefix}.lora_B.weight"] = torch.randn(4, 2, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**state, **changes}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *map(str, arguments)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_norms_are_those_of_the_dense_update(tmp_path):
    adapter = load_adapter(write(tmp_path))
    table = inspect_modules(adapter)
    for row in table.to_dict("records"):
        dense = adapter[row["module"]].delta().double()
        values = torch.linalg.svdvals(dense)
        assert row["norm"] == pytest.approx(dense.norm().item(), rel=1e-6)
        assert row["spectral_norm"] == pytest.approx(values[0].item(), rel=1e-6)
        assert row["stable_rank"] == pytest.approx((values.square().sum() / values[0] ** 2).item(), rel=1e-5)
        assert row["norm_A"] == pytest.approx(adapter[row["module"]].A.norm().item(), rel=1e-6)


def test_one_adapter_is_shown_module_by_module(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / "mrpc"))
    assert code == 0
    assert "mrpc" in out
    assert "24 of 24 used" in out
    assert "roberta-base" in out
    lines = [
        line.split()[0] for line in out.splitlines() if line.strip().endswith(("█", "▏", "▎", "▍", "▌", "▋", "▊", "▉"))
    ]
    assert lines == [f"{layer}.query" for layer in range(12)]


def test_json_holds_the_table_and_the_coverage(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / "mrpc"), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["refused"] == []
    adapter = document["adapters"][0]
    assert len(adapter["modules"]) == 12
    assert adapter["coverage"]["complete"] is True
    assert len(adapter["coverage"]["used"]) == 24
    assert len(adapter["metadata"]["sha256"]) == 64


def test_refused_tensors_and_files_give_code_two(tmp_path, capsys):
    lone = {"base_model.model.encoder.layer.99.query.lora_A.weight": torch.ones(2, 6)}
    part = write(tmp_path / "part", **lone)
    code, out, _ = run(capsys, part)
    assert code == 2
    assert "1 refused" in out
    assert "layer.99" in out
    whole = write(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    code, out, _ = run(capsys, whole, tmp_path / "broken")
    assert code == 2
    assert "is empty" in out
    assert "whole" in out
    code, out, _ = run(capsys, tmp_path / "broken")
    assert code == 1
    code, out, _ = run(capsys, tmp_path / "nowhere")
    assert code == 1
    assert "does not exist" in out


def test_nan_is_shown_at_its_module_and_gives_code_two(tmp_path, capsys):
    bad = {"base_model.model.encoder.layer.3.query.lora_B.weight": torch.full((4, 2), float("nan"))}
    code, out, _ = run(capsys, write(tmp_path, **bad))
    assert code == 2
    assert "1 modules unreadable" in out
    assert "NaN or infinity" in out


def test_zero_factors_are_noted_and_sound(tmp_path, capsys):
    zero = {"base_model.model.encoder.layer.3.query.lora_B.weight": torch.zeros(4, 2)}
    code, out, _ = run(capsys, write(tmp_path, **zero))
    assert code == 0
    assert "B is zero" in out


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_out_writes_every_module_of_every_adapter(tmp_path, capsys, suffix):
    one, two, out = write(tmp_path / "one"), write(tmp_path / "two"), tmp_path / f"table{suffix}"
    code, shown, _ = run(capsys, one, two, "--out", out)
    assert code == 0
    assert "one" in shown
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}[suffix](out)
    assert read["adapter"].tolist() == ["one"] * 12 + ["two"] * 12
    assert read["norm"].notna().all()


def test_the_real_files(shared_adapters, capsys):
    code, out, _ = run(capsys, f"{shared_adapters}/variety/*", "--json")
    assert code == 2
    document = json.loads(out)
    assert len(document["refused"]) == 5
    assert all(adapter["coverage"]["complete"] for adapter in document["adapters"])
