"""A set is indexed by place, name, mask and condition, and its labels reach the right adapters."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import Adapter, AdapterError, AdapterSet, load_adapter, load_adapters

NAMES = ("mrpc-0", "mrpc-1", "rte-0", "rte-1")


def pair():
    return {"q.lora_A.weight": torch.randn(2, 8), "q.lora_B.weight": torch.randn(4, 2)}


def made(name: str) -> Adapter:
    return Adapter.from_factors({"q": (torch.randn(2, 8), torch.randn(4, 2))}, name=name)


@pytest.fixture
def runs() -> AdapterSet:
    table = {"task": ["MRPC", "MRPC", "RTE", None], "seed": [0, 1, 0, 1]}
    return AdapterSet([made(name) for name in NAMES], table, refused=[("lost", "lost is empty")])


@pytest.fixture
def seeds(tmp_path):
    for task in ("mrpc", "rte"):
        for seed in (0, 1):
            folder = tmp_path / task / f"seed-{seed}"
            folder.mkdir(parents=True)
            save_file(pair(), folder / "adapter_model.safetensors")
    return tmp_path


def test_one_adapter_by_place_or_name(runs):
    assert runs["rte-0"] is runs[2] is runs[-2] is runs[np.int64(2)]
    assert "rte-0" in runs
    assert runs[0] in runs
    assert "rte" not in runs
    with pytest.raises(KeyError, match="no adapter 'rte'; it has mrpc-0"):
        runs["rte"]
    with pytest.raises(AdapterError, match="neither a place nor a name"):
        runs[1.0]
    with pytest.raises(AdapterError, match="neither a place nor a name"):
        runs[True]
    with pytest.raises(IndexError):
        runs[4]


@pytest.mark.parametrize(
    "index",
    [
        [0, 2],
        (0, -2),
        ["mrpc-0", "rte-0"],
        ["mrpc-0", 2],
        np.array([0, 2]),
        [True, False, True, False],
        np.array([True, False, True, False]),
        pd.Series([True, False, True, False], index=[9, 8, 7, 6]),
        slice(0, 4, 2),
    ],
)
def test_several_adapters(runs, index):
    chosen = runs[index]
    assert chosen.names == ("mrpc-0", "rte-0")
    assert chosen.table["task"].tolist() == ["MRPC", "RTE"]
    assert list(chosen) == [runs[0], runs[2]]
    assert chosen.refused == runs.refused


def test_the_order_asked_for_is_kept(runs):
    assert runs[[3, 0]].names == ("rte-1", "mrpc-0")
    assert runs[[3, 0, 3]].names == ("rte-1", "mrpc-0", "rte-1 (2)")


@pytest.mark.parametrize("rows", [["mrpc-0"], "task=='RTE'", [1, 0, 1, 0], [math.nan, 1.0, 0.0, 1.0]])
@pytest.mark.usefixtures("without_shape_checks")
def test_a_mask_is_made_of_booleans(runs, rows):
    with pytest.raises(AdapterError, match="one boolean for each adapter"):
        runs.select(rows)


@pytest.mark.parametrize("rows", [[True], [True] * 5])
def test_a_mask_has_one_entry_for_each_adapter(runs, rows):
    for choose in (runs.select, runs.__getitem__):
        with pytest.raises(AdapterError, match=rf"the mask has {len(rows)} entries for 4 adapters"):
            choose(rows)
    with pytest.raises(AdapterError, match="none was selected"):
        runs.select([False] * 4)
    with pytest.raises(AdapterError, match="none was selected"):
        runs[[]]


def test_conditions(runs):
    assert runs.query("task == 'MRPC'").names == ("mrpc-0", "mrpc-1")
    assert runs.query("seed == 1").names == ("mrpc-1", "rte-1")
    assert runs[2:].query("seed == 0").names == ("rte-0",)
    task, seeds = "MRPC", [1]  # noqa: F841
    assert runs.query("task == @task and seed in @seeds").names == ("mrpc-1",)
    with pytest.raises(AdapterError, match="nowhere"):
        runs.query("task == @nowhere")
    with pytest.raises(AdapterError, match="no adapter fulfils"):
        runs.query("seed == 7")
    for condition in ("taks == 'MRPC'", "task ==", "seed + 1"):
        with pytest.raises(AdapterError, match="cannot be evaluated") as caught:
            runs.query(condition)
        assert "the columns are name, task, seed" in str(caught.value)


def test_groups(runs):
    assert [(task, group.names) for task, group in runs.groupby("task")] == [
        ("MRPC", ("mrpc-0", "mrpc-1")),
        ("RTE", ("rte-0",)),
    ]
    assert dict(runs.groupby(["task", "seed"]))["MRPC", 1].names == ("mrpc-1",)
    with pytest.raises(AdapterError, match="no column 'family'"):
        runs.groupby("family")


def test_sums(runs):
    both = runs[:1] + runs[2:]
    assert both.names == ("mrpc-0", "rte-0", "rte-1")
    assert both.table["seed"].tolist() == [0, 0, 1]
    other = AdapterSet([made("mrpc-0")], {"lr": [0.1]})
    joined = runs + other
    assert joined.names == (*NAMES, "mrpc-0 (2)")
    assert joined.table["lr"].tolist()[-1] == 0.1
    assert joined.table["task"].isna().tolist() == [False, False, False, True, True]
    with pytest.raises(TypeError):
        runs + made("x")


def test_one_name_is_told_apart_the_same_way_everywhere(seeds):
    paths = [f"{seeds}/{task}/seed-{seed}" for task in ("mrpc", "rte") for seed in (0, 1)]
    expected = ("mrpc/seed-0", "mrpc/seed-1", "rte/seed-0", "rte/seed-1")
    assert load_adapters(paths).names == expected
    assert AdapterSet([load_adapter(path) for path in paths]).names == expected
    assert (load_adapters(paths[:2]) + load_adapters(paths[2:])).names == expected
    assert load_adapters([paths[0], paths[0]]).names == ("seed-0", "seed-0 (2)")


@pytest.mark.parametrize(
    "form",
    [
        lambda path: str(path),
        lambda path: str(path / "adapter_model.safetensors"),
        lambda path: f"{path.parent.name}/{path.name}",
        lambda path: f"{path.parent.name}/{path.name}/",
        lambda path: f"{path.parent.name}/{path.name}/adapter_model.safetensors",
    ],
)
def test_labels_match_by_name_or_path_in_any_order(seeds, form):
    paths = [seeds / task / f"seed-{seed}" for task in ("mrpc", "rte") for seed in (0, 1)]
    table = pd.DataFrame({"name": [form(path) for path in paths], "task": ["mrpc", "mrpc", "rte", "rte"]})
    table = table.iloc[[2, 0, 3, 1]]
    found = load_adapters(paths, metadata=table)
    assert found.table["task"].tolist() == ["mrpc", "mrpc", "rte", "rte"]
    assert found.names == load_adapters(paths).names
    assert load_adapters(paths[:2], metadata=table).table["task"].tolist() == ["mrpc", "mrpc"]


def test_a_label_that_fits_several_or_none_is_refused(seeds):
    paths = [seeds / task / f"seed-{seed}" for task in ("mrpc", "rte") for seed in (0, 1)]
    names = ["seed-0", "seed-1", "seed-0 (2)", "seed-1 (2)"]
    table = pd.DataFrame({"name": names, "task": ["mrpc", "mrpc", "rte", "rte"]})
    with pytest.raises(AdapterError, match=r"row 'seed-0' of the table fits 2 adapters \(mrpc/seed-0, rte/seed-0\)"):
        load_adapters(paths, metadata=table)
    with pytest.raises(AdapterError, match="no row for the adapter 'rte/seed-0'"):
        load_adapters(paths, metadata=pd.DataFrame({"name": ["mrpc/seed-0", "mrpc/seed-1"]}))
    with pytest.raises(AdapterError, match="two rows for the adapter 'mrpc/seed-0'"):
        load_adapters(paths, metadata=pd.DataFrame({"name": ["mrpc/seed-0"] * 4}))


@pytest.mark.parametrize("values", [[2, 1], [2.0, 1.0], ["2", "1"], ["02", "01"]])
def test_numeric_names_are_text(tmp_path, values):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        save_file(pair(), tmp_path / name / "adapter_model.safetensors")
    found = load_adapters([tmp_path / "1", tmp_path / "2"], metadata={"name": values, "task": ["two", "one"]})
    assert found.names == ("1", "2")
    assert found.table["task"].tolist() == ["one", "two"]


def test_a_table_without_names_keeps_its_rows_when_an_adapter_is_refused(seeds):
    (seeds / "mrpc" / "seed-1" / "adapter_model.safetensors").write_bytes(b"")
    found = load_adapters(f"{seeds}/*/*", metadata={"seed": [0, 1, 2, 3]}, on_error="collect")
    assert found.table["seed"].tolist() == [0, 2, 3]


def test_new_names_in_order():
    assert AdapterSet([made("x"), made("y")], {"name": ["one", 2]}).names == ("one", "2")


def test_several_adapters_in_one_file_are_several(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), config)
    model.add_adapter("second", config)
    torch.save(model.state_dict(), tmp_path / "whole.bin")
    found = load_adapters(tmp_path / "whole.bin", alpha=6)
    assert [adapter.name.rpartition("/")[2] for adapter in found] == ["default", "second"]
    for adapter, name in zip(found, ("default", "second"), strict=True):
        assert list(adapter) == ["0"]
        assert adapter["0"].B.equal(model.base_model.model[0].lora_B[name].weight)
        assert len(adapter.metadata["sha256"]) == 64
    with pytest.raises(AdapterError, match=r"holds 2 adapters \(default, second\)"):
        load_adapter(tmp_path / "whole.bin")
