"""Every container gives the tensors that its own library gives, without reading one before it is asked for."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asym_analysis.adapters.containers import open_container
from asym_analysis.errors import AdapterError, AdapterFormatError

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.contiguous().reshape(-1).view(torch.uint8).equal(other.contiguous().reshape(-1).view(torch.uint8))
    )


def check(path: Path, expected: dict[str, torch.Tensor], container: str) -> None:
    contents = open_container(path)
    assert contents.container == container
    assert list(contents.tensors) == list(expected)
    for name, source in contents.tensors.items():
        value = source.read()
        assert source.shape == tuple(value.shape)
        assert f"torch.{source.dtype}" == str(value.dtype)
        assert same_bytes(value, expected[name]), name


def test_safetensors_of_every_dtype(tmp_path):
    pytest.importorskip("safetensors", minversion="0.8", reason="older ones do not write every type")
    torch.manual_seed(0)
    state = {str(dtype): torch.randn(3, 5).to(dtype) for dtype in FLOATS}
    state |= {str(dtype): torch.randint(0, 2, (4, 2)).to(dtype) for dtype in INTEGERS}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 7), "unsigned": torch.ones(3).to(torch.uint16)}
    path = tmp_path / "all.safetensors"
    save_file(state, path, metadata={"ss_network_alpha": "4"})
    expected = load_file(path)
    check(path, {name: expected[name] for name in open_container(path).tensors}, "safetensors")
    assert set(open_container(path).tensors) == set(state)
    assert open_container(path).header == {"ss_network_alpha": "4"}


def views() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 8, generator=generator)
    return {
        "whole": base,
        "transposed": base.T,
        "rows of the same storage": base[2:4],
        "columns": base[:, 3:5],
        "every other": base[::2, ::3],
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)).detach(),
        "scalar": torch.tensor(4.0),
        "empty": torch.empty(0, 5),
        "half": torch.randn(4, 4, generator=generator).half(),
        "bfloat16": torch.randn(4, 4, generator=generator).bfloat16(),
        "float8": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
    }


@pytest.mark.parametrize(("zipped", "container"), [(True, "torch zip"), (False, "legacy pickle")])
def test_torch_files_with_views_and_shared_storages(tmp_path, zipped, container):
    path, state = tmp_path / "weights.bin", views()
    if not zipped:
        del state["float8"]  # younger than this form, in which torch itself cannot read it back
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    check(path, torch.load(path, weights_only=True), container)


@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_state_dicts_lose_the_wrapper_and_keep_plain_values(tmp_path, zipped):
    path = tmp_path / "epoch.ckpt"
    state = {"q.lora_A": torch.ones(2, 3), "q.lora_B": torch.ones(4, 2)}
    torch.save({"state_dict": state, "epoch": 3, "alpha": 8.0}, path, _use_new_zipfile_serialization=zipped)
    contents = open_container(path)
    assert list(contents.tensors) == list(state)
    assert contents.header == {"epoch": 3, "alpha": 8.0}


def test_a_nameless_list_is_numbered(tmp_path):
    path = tmp_path / "list.pt"
    torch.save([torch.ones(4, 1), torch.ones(1, 3)], path)
    assert {name: source.shape for name, source in open_container(path).tensors.items()} == {"0": (4, 1), "1": (1, 3)}


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    base = random.standard_normal((5, 7))
    return {
        "float64": base,
        "float32": base.astype(np.float32),
        "float16": base.astype(np.float16),
        "fortran": np.asfortranarray(base),
        "big-endian": base.astype(">f4"),
        "integers": np.arange(6).reshape(2, 3),
        "scalar": np.float32(3.0),
        "empty": np.zeros((0, 4), np.float32),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_of_every_layout(tmp_path, save):
    path = tmp_path / "adapters.npz"
    save(path, **arrays())
    expected = {
        name: torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="))) for name, value in arrays().items()
    }
    check(path, expected, "npz")


def test_npz_bfloat16_as_mlx_stores_it(tmp_path):
    path, values = tmp_path / "adapters.npz", torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.savez(path, weight=values.view(torch.int16).numpy().view("V2"))
    check(path, {"weight": values}, "npz")


def test_gguf_floats_and_quantized_blocks(tmp_path):
    path, random = tmp_path / "adapter.gguf", np.random.default_rng(3)
    values = random.standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    writer.add_array("general.tags", ["one", "two"])
    writer.add_array("general.numbers", [1, 2, 3])
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    kinds = {
        "bf16": gguf.GGMLQuantizationType.BF16,
        "q8": gguf.GGMLQuantizationType.Q8_0,
        "q4": gguf.GGMLQuantizationType.Q4_0,
    }
    packed = {name: gguf.quantize(values, kind) for name, kind in kinds.items()}
    for name, kind in kinds.items():
        writer.add_tensor(name, packed[name], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    contents = open_container(path)
    assert contents.header["adapter.lora.alpha"] == 16.0
    assert contents.header["adapter.type"] == "lora"
    assert {name: source.dtype for name, source in contents.tensors.items()} == {
        "f32": "float32",
        "f16": "float16",
        "bf16": "bfloat16",
        "q8": "q8_0",
        "q4": "q4_0",
    }
    read = {name: source.read().float().numpy() for name, source in contents.tensors.items()}
    assert np.array_equal(read["f32"], values)
    assert np.array_equal(read["f16"], values.astype(np.float16).astype(np.float32))
    for name, kind in kinds.items():
        assert np.array_equal(read[name], gguf.dequantize(packed[name], kind)), name
    assert all(source.shape == (4, 64) for source in contents.tensors.values())


def write_shards(folder: Path, state: dict[str, torch.Tensor], suffix: str = "safetensors") -> Path:
    names, weight_map = list(state), {}
    for number, half in enumerate((names[::2], names[1::2]), 1):
        file = f"adapter_model-{number:05}-of-00002.{suffix}"
        part = {name: state[name].contiguous() for name in half}
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(half, file)
    index = folder / f"adapter_model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {name: weight_map[name] for name in names}}))
    return index


@pytest.mark.parametrize(
    ("suffix", "container"), [("safetensors", "sharded safetensors"), ("bin", "sharded torch zip")]
)
def test_shards_are_gathered_in_the_order_of_the_index(tmp_path, suffix, container):
    state = {f"layer.{i}": torch.full((2, 3), float(i)) for i in range(5)}
    check(write_shards(tmp_path, state, suffix), state, container)


def test_index_and_shards_that_disagree_are_refused(tmp_path):
    index = write_shards(tmp_path, {f"layer.{i}": torch.ones(2) for i in range(4)})
    content = json.loads(index.read_text())
    moved = {**content["weight_map"], "layer.0": content["weight_map"]["layer.1"]}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(AdapterFormatError, match="does not"):
        open_container(index)
    index.write_text(json.dumps({"weight_map": {"layer.0": content["weight_map"]["layer.0"]}}))
    with pytest.raises(AdapterFormatError, match=r"layer\.2"):
        open_container(index)


def files_of_each_kind(folder: Path) -> list[Path]:
    state = {"q.lora_A.weight": torch.randn(2, 6), "q.lora_B.weight": torch.randn(4, 2)}
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "b.bin")
    torch.save(state, folder / "c.bin", _use_new_zipfile_serialization=False)
    np.savez_compressed(folder / "d.npz", **{name: value.numpy() for name, value in state.items()})
    return sorted(folder.iterdir())


def test_another_process_can_read_the_tensors(tmp_path):
    for path in files_of_each_kind(tmp_path):
        source = open_container(path).tensors["q.lora_A.weight"]
        assert pickle.loads(pickle.dumps(source)).read().equal(source.read())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert executor.submit(source.read).result().equal(source.read())


def test_a_file_that_changes_after_opening_is_noticed(tmp_path):
    for path in files_of_each_kind(tmp_path):
        contents = open_container(path)
        path.write_bytes(path.read_bytes() + b"x")
        if contents.container != "legacy pickle":  # that one was read at once
            with pytest.raises(AdapterFormatError, match="changed after it was opened"):
                contents.tensors["q.lora_A.weight"].read()
        path.unlink()
        if contents.container != "legacy pickle":
            with pytest.raises(AdapterFormatError, match="can no longer be read"):
                contents.tensors["q.lora_A.weight"].read()


@pytest.mark.parametrize("kind", ["safetensors", "npz", "torch"])
def test_opening_reads_headers_only(tmp_path, kind):
    """A file of 3 GB, all hole, opens; reading it would not fit the test machines' patience."""
    path, size = tmp_path / "large", 3 * 10**9
    if kind == "safetensors":
        header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
    else:
        small = io.BytesIO()
        np.savez(small, w=np.zeros(8, np.float32)) if kind == "npz" else torch.save({"w": torch.zeros(8)}, small)
        path.write_bytes(small.getvalue())
        size = 32
    source = open_container(path).tensors["w"]
    assert source.size == size // 4


def test_zip_entries_are_checked_against_their_checksum(tmp_path):
    path = tmp_path / "adapters.npz"
    np.savez(path, w=np.arange(100, dtype=np.float32))
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    with pytest.raises(AdapterError, match="checksum"):
        open_container(path).tensors["w"].read()
    with pytest.raises(zipfile.BadZipFile):
        np.load(path)["w"]
