"""A container is told by all it is: no sound file is taken for another kind because of its first bytes."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asym_analysis import AdapterError, load_adapter
from asym_analysis.adapters.containers import FOREIGN, open_container

BEGINNINGS = [b"PK\3\4", b"GGUF", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"<html", b"\n<html", *FOREIGN]


def with_header(path, length: int) -> None:
    """Write a pair with a header of exactly so many bytes; names that look like a tar archive's mark are in it."""
    A, B = np.arange(8, dtype="<f4"), np.arange(8, 16, dtype="<f4")
    entries = {
        "q.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "q.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
        "__metadata__": {"note": "ustar" * 40},
    }
    header = json.dumps(entries).encode()
    assert len(header) <= length
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + A.tobytes() + B.tobytes())


def lengths() -> list[int]:
    """Lengths whose bytes are another format's first ones, and every length over one turn of the last byte."""
    looks = {int.from_bytes(magic[:size], "little") for magic in BEGINNINGS for size in (1, 2, 3)}
    turned = {look + 65536 * turn for look in looks for turn in (0, 1, 2) if look < 65536}
    return sorted(n for n in {*looks, *turned, *range(420, 700)} if 420 <= n < 12_000_000)


def test_a_safetensors_header_may_have_any_length(tmp_path):
    path = tmp_path / "x.safetensors"
    assert {0x0280, 0x8B1F, 0x685A42} <= set(lengths())
    for length in lengths():
        with_header(path, length)
        adapter = load_adapter(path)
        assert adapter["q"].A.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]], length
    assert load_file(path).keys() == open_container(path).tensors.keys()


@pytest.mark.parametrize("length", [640, 0x8B1F])
def test_a_cut_file_is_told_as_what_it_was(tmp_path, length):
    path = tmp_path / "x.safetensors"
    with_header(path, length)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="cut short"):
        load_adapter(path)
    path.write_bytes(path.read_bytes()[: length // 2])
    with pytest.raises(AdapterError, match=r"claims a header of .* cut short"):
        load_adapter(path)


@pytest.mark.parametrize(
    "text", ["Access to model owner/name is restricted.", '{"error": "Über"}', "404: Not Found, sorry\n"]
)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_text_under_the_name_of_weights_is_said_to_be_text(tmp_path, text, name):
    (tmp_path / name).write_text(text * 40)
    with pytest.raises(AdapterError, match="is text, not a checkpoint") as caught:
        load_adapter(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_trained_tensors_of_any_dtype_are_kept_as_they_are(tmp_path):
    """Counters of batch normalization, fp8 and complex tensors beside the pairs."""
    pytest.importorskip("safetensors", minversion="0.8", reason="older ones do not write every type")
    extras = {
        "norm.num_batches_tracked": torch.tensor(7),
        "head.weight": torch.randn(3, 3).to(torch.float8_e4m3fn),
        "phase": torch.randn(3, dtype=torch.complex64),
        "mask": torch.tensor([True, False]),
    }
    pair = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}
    save_file({**pair, **extras}, tmp_path / "a.safetensors")
    torch.save({**pair, **extras}, tmp_path / "b.bin")
    plain = {name: tensor for name, tensor in extras.items() if name != "head.weight"}  # torch cannot read fp8 there
    torch.save({**pair, **plain}, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "b.bin", "c.bin"):
        adapter = load_adapter(tmp_path / file)
        assert adapter.coverage.complete, file
        for name, expected in (plain if file == "c.bin" else extras).items():
            value = adapter.extras[name].read()
            assert value.dtype == expected.dtype
            assert value.shape == expected.shape
            assert value.reshape(-1).view(torch.uint8).equal(expected.reshape(-1).view(torch.uint8)), name


def test_a_factor_of_complex_numbers_is_refused_by_name(tmp_path):
    pytest.importorskip("safetensors", minversion="0.8", reason="older ones do not write every type")
    pair = {"q.lora_A.weight": torch.ones(2, 4, dtype=torch.complex64), "q.lora_B.weight": torch.ones(4, 2)}
    save_file(
        {**pair, "v.lora_A.weight": torch.ones(2, 4), "v.lora_B.weight": torch.ones(4, 2)}, tmp_path / "a.safetensors"
    )
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert list(adapter) == ["v"]
    assert "complex64" in adapter.coverage.refused["q.lora_A.weight"]
