"""`asym inspect` shows what is there, and its exit code says whether all of it could be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import load_adapter
from asym_analysis.adapters.inspection import inspect_modules
from asym_analysis.results import read_result

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


def test_norms_are_those_of_the_dense_update(tmp_path):
    adapter = load_adapter(write(tmp_path))
    table = inspect_modules(adapter).frame
    for row in table.to_dict("records"):
        dense = adapter[row["module"]].delta().double()
        values = torch.linalg.svdvals(dense)
        assert row["norm"] == pytest.approx(dense.norm().item(), rel=1e-6)
        assert row["spectral_norm"] == pytest.approx(values[0].item(), rel=1e-6)
        assert row["stable_rank"] == pytest.approx((values.square().sum() / values[0] ** 2).item(), rel=1e-5)
        assert row["norm_A"] == pytest.approx(adapter[row["module"]].A.norm().item(), rel=1e-6)


def test_one_adapter_is_shown_module_by_module(tmp_path, asym):
    done = asym("inspect", write(tmp_path / "mrpc"))
    assert done.code == 0
    assert "mrpc" in done.out
    assert "24 of 24 used" in done.out
    assert "roberta-base" in done.out
    lines = [line.split()[0] for line in done.out.splitlines() if any(eighth in line for eighth in "█▏▎▍▌▋▊▉")]
    assert lines == [f"{layer}.query" for layer in range(12)]


def test_json_holds_the_table_and_the_coverage(tmp_path, asym):
    done = asym("inspect", write(tmp_path / "mrpc"), "--json")
    document = done.document
    assert done.code == 0
    assert document["refused"] == []
    adapter = done.records("adapters")[0]
    assert len(done.records("modules")) == 12
    assert adapter["complete"] is True
    assert [row["status"] for row in done.records("tensors")] == ["used"] * 24
    assert len(adapter["sha256"]) == 64


def test_refused_tensors_and_files_give_code_two(tmp_path, asym):
    lone = {"base_model.model.encoder.layer.99.query.lora_A.weight": torch.ones(2, 6)}
    part = write(tmp_path / "part", **lone)
    done = asym("inspect", part)
    assert done.code == 2
    assert "1 refused" in done.out
    assert "layer.99" in done.err
    whole = write(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    done = asym("inspect", whole, tmp_path / "broken")
    assert done.code == 2
    assert "is empty" in done.err
    assert "whole" in done.out
    done = asym("inspect", tmp_path / "broken")
    assert done.code == 1
    done = asym("inspect", tmp_path / "nowhere")
    assert done.code == 1
    assert "does not exist" in done.err


def test_nan_is_shown_at_its_module_and_gives_code_two(tmp_path, asym):
    bad = {"base_model.model.encoder.layer.3.query.lora_B.weight": torch.full((4, 2), float("nan"))}
    done = asym("inspect", write(tmp_path, **bad))
    assert done.code == 2
    assert "3.query" in done.err
    assert "NaN or infinity" in done.err


def test_zero_factors_are_noted_and_sound(tmp_path, asym):
    zero = {"base_model.model.encoder.layer.3.query.lora_B.weight": torch.zeros(4, 2)}
    done = asym("inspect", write(tmp_path, **zero))
    assert done.code == 0
    assert "B is zero" in done.out


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_out_writes_every_module_of_every_adapter(tmp_path, asym, suffix):
    one, two, out = write(tmp_path / "one"), write(tmp_path / "two"), tmp_path / f"table{suffix}"
    done = asym("inspect", one, two, "--out", out)
    assert done.code == 0
    assert "one" in done.out
    read = pd.read_csv(out) if suffix == ".csv" else read_result(out).frame
    assert read["adapter"].tolist() == ["one"] * 12 + ["two"] * 12
    assert read["norm"].notna().all()


def test_the_real_files(shared_adapters, asym):
    done = asym("inspect", f"{shared_adapters}/variety/*", "--json")
    assert done.code == 2
    document = done.document
    assert len(document["refused"]) == 5
    assert all(row["complete"] for row in done.records("adapters"))


HEADERS = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise AssertionError("torch was imported")

sys.meta_path.insert(0, NoTorch())
from asym_analysis.cli import main

main(sys.argv[1:])
"""


def test_headers_are_read_without_torch_and_say_the_same(tmp_path):
    folders = [write(tmp_path / name) for name in ("one", "two")]

    def rows(*arguments: str) -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-c", HEADERS, "inspect", "--headers", "--json", *map(str, arguments)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        table = json.loads(done.stdout)["tables"]["modules"]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]

    read = rows(*folders)
    assert len(read) == 24
    assert "norm" not in read[0]
    measured = inspect_modules(load_adapter(folders[1])).frame
    for row, whole in zip(read[12:], measured.to_dict("records"), strict=True):
        assert {name: whole[name] for name in row if name != "adapter"} == {
            name: value for name, value in row.items() if name != "adapter"
        }


def test_headers_do_not_notice_what_only_numbers_show(tmp_path, asym):
    bad = torch.full((2, 6), float("nan"))
    folder = write(tmp_path / "bad", **{"base_model.model.encoder.layer.3.query.lora_A.weight": bad})
    assert asym("inspect", folder).code == 2
    done = asym("inspect", folder, "--headers")
    assert done.code == 0
    assert "Norms were not read" in " ".join(done.out.split())  # lines break where the folder's name is long
