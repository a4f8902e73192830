"""Whatever a user points at becomes the right adapter, under a name that tells it from its neighbours."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asym_analysis import Adapter, AdapterError, load_adapter, load_adapters

CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "roberta-base",
    "task_type": "SEQ_CLS",
    "r": 2,
    "lora_alpha": 8,
    "target_modules": ["query", "value"],
}


def state(seed: int = 0, modules: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for layer in range(modules):
        prefix = f"base_model.model.encoder.layer.{layer}.query"
        factors[f"{prefix}.lora_A.weight"] = torch.randn(2, 6, generator=generator)
        factors[f"{prefix}.lora_B.weight"] = torch.randn(4, 2, generator=generator)
    return factors


def write(folder: Path, seed: int = 0, file: str = "adapter_model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(seed), folder / file) if file.endswith("safetensors") else torch.save(state(seed), folder / file)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder / file


def is_seed(adapter: Adapter, seed: int) -> bool:
    return adapter["encoder.layer.1.query"].A.equal(state(seed)["base_model.model.encoder.layer.1.query.lora_A.weight"])


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_folder_and_its_file_are_the_same_adapter(tmp_path, file):
    path = write(tmp_path / "mrpc-seed-1", seed=1, file=file)
    for source in (path, path.parent, str(path.parent)):
        adapter = load_adapter(source)
        assert list(adapter) == ["encoder.layer.0.query", "encoder.layer.1.query"]
        assert is_seed(adapter, 1)
        assert adapter["encoder.layer.0.query"].scaling == 4.0
        assert adapter.name == "mrpc-seed-1"
        assert adapter.coverage.complete
        assert adapter.metadata["base_model"] == "roberta-base"
        assert adapter.metadata["task_type"] == "SEQ_CLS"
        assert adapter.metadata["peft_type"] == "LORA"
        assert adapter.metadata["dialect"] == "peft"
        assert adapter.metadata["source"] == str(path)
        assert adapter.metadata["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert "step" not in adapter.metadata


def test_safetensors_text_header_is_kept(tmp_path):
    write(tmp_path)
    save_file(state(), tmp_path / "adapter_model.safetensors", metadata={"ss_sd_model_name": "v1-5", "format": "pt"})
    assert load_adapter(tmp_path).metadata["header"] == {"ss_sd_model_name": "v1-5", "format": "pt"}


def test_a_training_run_gives_its_checkpoints_in_the_order_of_steps(tmp_path):
    run = tmp_path / "run"
    for step in (100, 20, 3):
        write(run / f"checkpoint-{step}", seed=step)
        (run / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"not an adapter")
    steps = load_adapters(run)
    assert steps.names == ("run/checkpoint-3", "run/checkpoint-20", "run/checkpoint-100")
    assert steps.table["step"].tolist() == [3, 20, 100]
    assert all(is_seed(adapter, step) for adapter, step in zip(steps, (3, 20, 100), strict=True))
    assert load_adapters(str(run / "checkpoint-*")).names == steps.names
    with pytest.raises(AdapterError, match=r"holds 3 adapters .*load_adapters"):
        load_adapter(run)

    write(run, seed=7)
    assert load_adapter(run).name == "run"
    assert load_adapters(run).names == (*steps.names, "run")


def test_mlx_saves_are_a_run_too(tmp_path):
    pairs = {"layers.0.q.lora_a": torch.ones(6, 2), "layers.0.q.lora_b": torch.ones(2, 4)}
    for file in ("0000200_adapters", "0000100_adapters", "adapters"):
        save_file(pairs, tmp_path / f"{file}.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 10.0, "dropout": 0.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    steps = load_adapters(tmp_path)
    assert [adapter.metadata.get("step") for adapter in steps] == [100, 200, None]
    assert [adapter.metadata["dialect"] for adapter in steps] == ["mlx"] * 3
    assert load_adapter(tmp_path).metadata["source"].endswith("/adapters.safetensors")


def test_several_adapters_in_one_folder(tmp_path):
    folder = tmp_path / "model"
    write(folder / "alpha", seed=1)
    assert is_seed(load_adapter(folder), 1)  # the only one there
    write(folder / "beta", seed=2)
    assert load_adapters(folder).names == ("alpha", "beta")
    assert is_seed(load_adapter(folder, subfolder="beta"), 2)
    with pytest.raises(AdapterError, match="holds 2 adapters"):
        load_adapter(folder)
    with pytest.raises(AdapterError, match="no folder 'gamma'"):
        load_adapter(folder, subfolder="gamma")


def test_names_that_agree_take_the_folders_above(tmp_path):
    for task in ("mrpc", "rte"):
        for seed in (0, 1):
            write(tmp_path / task / f"seed{seed}" / "best_model", seed=seed)
    names = load_adapters(f"{tmp_path}/*/*/best_model").names
    assert names == tuple(f"{task}/seed{seed}/best_model" for task in ("mrpc", "rte") for seed in (0, 1))


def test_patterns_take_weights_and_folders_and_nothing_else(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two", file="adapter_model.bin")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "empty").mkdir()
    assert load_adapters(f"{tmp_path}/*").names == ("one", "two")
    assert load_adapters(f"{tmp_path}/**/adapter_model.*").names == ("one", "two")
    with pytest.raises(AdapterError, match="no adapter matches"):
        load_adapters(f"{tmp_path}/*.safetensors")


def test_several_sources_with_a_table(tmp_path):
    write(tmp_path / "one", seed=1)
    runs = load_adapters([tmp_path / "one", load_adapter(tmp_path / "one"), state(2)], metadata={"seed": [1, 1, 2]})
    assert runs.table["seed"].tolist() == [1, 1, 2]
    assert runs.names == ("one", "one (2)", "in memory")
    assert "sha256" not in runs.table


def test_initial_factors_beside_an_adapter(tmp_path):
    write(tmp_path, seed=1)
    save_file(state(0), tmp_path / "initial.safetensors")
    adapter = load_adapter(tmp_path)
    assert adapter.initial is not None
    assert is_seed(adapter, 1)
    assert is_seed(adapter.initial, 0)
    assert list(adapter.initial) == list(adapter)
    assert adapter.initial["encoder.layer.0.query"].scaling == 4.0
    assert load_adapters(f"{tmp_path}/*").names == load_adapters(tmp_path).names


def test_a_state_dict_in_memory():
    adapter = load_adapter(state(3), config=CONFIG, name="mine")
    assert (adapter.name, len(adapter), adapter["encoder.layer.0.query"].scaling) == ("mine", 2, 4.0)
    assert is_seed(adapter, 3)
    with pytest.raises(AdapterError, match="cannot be loaded from a int"):
        load_adapter(3)
    with pytest.raises(AdapterError, match="cannot be loaded from a dict"):
        load_adapter({"q.lora_A.weight": [1.0]})


def test_an_open_peft_model(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False)
    )
    wrapped.add_adapter("second", peft.LoraConfig(r=3, lora_alpha=3, target_modules=["2"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path)

    both = load_adapters(wrapped)
    assert both.names == ("default", "second")
    assert [list(adapter) for adapter in both] == [["0", "2"], ["2"]]
    for opened in (load_adapter(wrapped), load_adapter(tmp_path), both[0]):
        for module in ("0", "2"):
            expected = wrapped.base_model.model[int(module)].get_delta_weight("default")
            torch.testing.assert_close(opened[module].delta(), expected)
    wrapped.set_adapter("second")
    assert list(load_adapter(wrapped)) == ["2"]
    assert load_adapter(wrapped).metadata["peft_type"] == "LORA"
    assert load_adapter(tmp_path, subfolder="second").name == "second"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache with one repository, and the client offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commit, repository = "a" * 40, tmp_path / "cache" / "models--owner--lora-mrpc"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "v1").write_text(commit)
    for folder, seed in (("", 1), ("other", 2)):
        write(tmp_path / "plain" / folder, seed=seed)
        (snapshot / folder).mkdir(parents=True, exist_ok=True)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            blob = repository / "blobs" / f"{seed}{file}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes((tmp_path / "plain" / folder / file).read_bytes())
            (snapshot / folder / file).symlink_to(blob)
    return commit


def test_a_hub_id_through_the_clients_cache(hub):
    adapter = load_adapter("owner/lora-mrpc")
    assert is_seed(adapter, 1)
    assert adapter.name == "lora-mrpc"
    assert adapter.metadata["source"] == f"owner/lora-mrpc@{hub}"
    assert is_seed(load_adapter("owner/lora-mrpc", revision="v1"), 1)
    assert is_seed(load_adapter("owner/lora-mrpc", revision=hub), 1)
    other = load_adapter("owner/lora-mrpc", subfolder="other")
    assert is_seed(other, 2)
    assert other.name == "other"
    assert load_adapters(["owner/lora-mrpc"]).names == ("lora-mrpc", "other")


@pytest.mark.parametrize(
    ("source", "arguments"),
    [("owner/absent", {}), ("owner/lora-mrpc", {"revision": "v9"}), ("owner/lora-mrpc", {"subfolder": "nowhere"})],
)
def test_what_the_hub_does_not_have_is_said_in_one_sentence(hub, source, arguments):
    with pytest.raises(AdapterError, match=source) as caught:
        load_adapter(source, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "~nobody/x/y"])
def test_a_path_that_does_not_exist(source):
    with pytest.raises(AdapterError, match="does not exist"):
        load_adapter(source)


def test_a_folder_without_an_adapter(tmp_path):
    (tmp_path / "training_args.bin").write_bytes(b"x" * 20)
    with pytest.raises(AdapterError, match="holds no adapter"):
        load_adapter(tmp_path)
    with pytest.raises(AdapterError, match="holds no adapter"):
        load_adapters(tmp_path)


def test_broken_configs_are_named(tmp_path):
    write(tmp_path)
    for text, words in (
        ("{", "not valid JSON"),
        ("[1]", "no JSON object"),
        ("version https://git-lfs.x", "LFS pointer"),
    ):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterError, match=words):
            load_adapter(tmp_path)


def test_an_adapter_survives_pickling(tmp_path):
    write(tmp_path, seed=4)
    adapter = pickle.loads(pickle.dumps(load_adapter(tmp_path)))
    assert is_seed(adapter, 4)
    assert adapter.metadata["sha256"] == load_adapter(tmp_path).metadata["sha256"]


# The real files beside the checkout ------------------------------------------------------------------------------

CAUSES = {
    "cloneofsimo_ti_only_negative": r"textual inversion",
    "A_only_vit": r"(?i)\bB\b",
    "prompt_tuning_bloomz_negative": r"(?i)prompt.tuning",
    "lfs_pointer_safetensors": r"Git LFS pointer to a file of 15\.2 MB",
    "broken_2byte_bin": r"only 2 bytes",
    "empty": r"is empty",
    "safetensors_body_cut": r"cut short",
    "safetensors_header_cut": r"cut short",
    "torch_zip_cut": r"cut short",
}


def manifest(shared: Path) -> list[tuple[str, str, dict[str, str]]]:
    rows, section, columns = [], "", []
    for line in (shared / "MANIFEST.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("| name"):
            columns = cells
        elif line.startswith("| ") and columns:
            row = dict(zip(columns, cells, strict=False))
            rows.append((section, row["name"], row))
    return rows


def test_every_real_file_loads_with_its_pairs_or_is_refused_by_its_cause(shared_adapters):
    rows = manifest(shared_adapters)
    assert len(rows) > 40
    broken = [("derived-broken", folder.name, {}) for folder in sorted((shared_adapters / "derived-broken").iterdir())]
    for section, name, row in [*rows, *broken]:
        folder = shared_adapters / section / name
        pairs = int(re.match(r"\d+", row["pairs / layers"])[0]) if row else 0
        if pairs == 0:
            with pytest.raises(AdapterError, match=CAUSES[name]) as caught:
                load_adapter(folder)
            assert "\n" not in str(caught.value), name
            assert str(folder) in str(caught.value), name
            continue
        adapter = load_adapter(folder)
        assert len(adapter) == pairs, name
        assert adapter.coverage.complete, f"{name}: {adapter.coverage}"
        assert adapter.metadata["sha256"] == row["sha256"], name
        rank = int(row["r / alpha"].split(" / ")[0])
        merged = "MergedLinear" in row.get("note", "")  # its factors hold one pair for each enabled part
        assert adapter.ranks == ((2 * rank,) if merged else (rank,)), name
        zero = re.search(r"Bz(\d+)", row["pairs / layers"])
        assert sum(not update.B.any() for update in adapter.values()) == (int(zero[1]) if zero else 0), name


def test_real_folders_load_as_sets(shared_adapters):
    seeds = load_adapters(f"{shared_adapters}/tinyllama-r4-seeds/*")
    assert seeds.names == ("notebooks_final", "results_ckpt30", "root_final")
    assert len(seeds.modules) == 44
    assert len(load_adapters(shared_adapters / "ner-roberta-base")) == 9


def test_factors_are_those_of_the_file(shared_adapters):
    for path in sorted(shared_adapters.glob("*/*/adapter_model.safetensors"))[::6]:
        if path.stat().st_size < 1000:
            continue
        expected = {tensor.float().contiguous().numpy().tobytes() for tensor in load_file(path).values()}
        adapter = load_adapter(path)
        for module in list(adapter)[:3]:
            update = adapter[module]
            assert {update.A.contiguous().numpy().tobytes(), update.B.contiguous().numpy().tobytes()} <= expected
