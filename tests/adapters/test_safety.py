"""Hostile, damaged and foreign files: refused by name, before anything is allocated, and nothing in them ever runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import AdapterError, load_adapter
from asym_analysis.adapters.containers import open_container, pickle_opcodes
from asym_analysis.errors import AdapterFormatError, AdapterValueError, NotAnAdapterError

HUGE = 10 * 10**9


def safetensors_bytes(header: object, data: bytes = b"", claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def torch_bytes(value: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def rezipped(data: bytes, change) -> bytes:
    """The archive with `change(name, content)` in place of every entry's content."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return out.getvalue()


def npz_bytes(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def gguf_bytes(tensors: int, values: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + rest


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def huge_npy() -> bytes:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2500000000,), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"


def npz_of(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("w.npy", content)
    return out.getvalue()


def ten_gigabytes() -> dict[str, bytes]:
    """For each container a file of about a kilobyte that claims ten gigabytes."""
    small, large = struct.pack("<i", 256), struct.pack("<i", 2**31 - 1)
    tensor = torch.zeros(256, dtype=torch.float64)
    plain, legacy = torch_bytes({"w": tensor}), torch_bytes({"w": tensor}, zipped=False)
    assert b"M" + struct.pack("<H", 256) in legacy
    grown = lambda data: data.replace(b"M" + struct.pack("<H", 256), b"J" + large)  # noqa: E731
    assert small != large
    return {
        "tensor.safetensors": safetensors_bytes({"w": entry([HUGE // 4], 0, HUGE)}, bytes(900)),
        "header.safetensors": safetensors_bytes(b"{" + b" " * 900, claimed=HUGE),
        "numel.bin": rezipped(plain, lambda name, data: grown(data) if name.endswith("data.pkl") else data),
        "legacy.bin": grown(legacy),
        "shape.npz": npz_of(huge_npy()),
        "array.npz": npz_of(huge_npy() + bytes(900)),
        "values.gguf": gguf_bytes(0, HUGE, bytes(900)),
        "tensors.gguf": gguf_bytes(HUGE, 0, bytes(900)),
        "text.gguf": gguf_bytes(0, 1, struct.pack("<Q", HUGE) + bytes(900)),
        "list.gguf": gguf_bytes(0, 1, gguf_text(b"k") + struct.pack("<IIQ", 9, 4, HUGE // 4) + bytes(900)),
        "texts.gguf": gguf_bytes(0, 1, gguf_text(b"k") + struct.pack("<IIQ", 9, 8, HUGE // 8) + bytes(900)),
        "size.gguf": gguf_bytes(1, 0, gguf_text(b"w") + struct.pack("<IQIQ", 1, HUGE // 4, 0, 0) + bytes(900)),
        "quantized.gguf": gguf_bytes(
            1, 0, gguf_text(b"w") + struct.pack("<IQIQ", 1, HUGE // 32 * 32, 8, 0) + bytes(900)
        ),
        "repeated.bin": torch_bytes({"w": torch.zeros(1).expand(HUGE // 4)}),
        "repeated_legacy.bin": torch_bytes({"w": torch.zeros(1).expand(HUGE // 4)}, zipped=False),
    }


@pytest.mark.parametrize("name", sorted(ten_gigabytes()))
def test_a_claim_of_ten_gigabytes_in_a_kilobyte_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(ten_gigabytes()[name])
    assert path.stat().st_size < 4096
    with pytest.raises(AdapterFormatError) as caught:
        load_adapter(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Runs:
    """A pickle that would leave a file behind if it ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class FillsMemory:
    def __reduce__(self):
        return bytearray, (HUGE,)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickle_code_runs(tmp_path, zipped):
    path, marker = tmp_path / "adapter_model.bin", tmp_path / "it-ran"
    path.write_bytes(torch_bytes({"w": torch.ones(2), "x": Runs(marker)}, zipped))
    with pytest.raises(AdapterFormatError, match=r"more than tensors \(posix\.system\)"):
        load_adapter(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", [FillsMemory(), {"x": np.ones(3)}, {"x": Path("a")}])
def test_pickles_of_anything_but_tensors_are_refused(tmp_path, zipped, value):
    path = tmp_path / "weights.pt"
    path.write_bytes(torch_bytes(value, zipped))
    with pytest.raises(AdapterFormatError, match="more than tensors"):
        load_adapter(path)


def bare_pickles() -> dict[str, bytes]:
    return {
        "a plain pickle": pickle.dumps({"w": [1.0]}, protocol=2),
        "protocol 5": pickle.dumps({"w": 1.0}, protocol=5),
        "deep tuples": b"\x80\x02}N" + b"\x85" * 5_000 + b"Ns.",
        "tuples deep by the memo": b"\x80\x02}N" + b"q\x00h\x00\x86" * 2_000 + b"Ns.",
        "deep lists": b"\x80\x02" + b"](" * 2_000 + b"e" * 2_000 + b".",
        "many dicts": b"\x80\x02(" + b"}" * 12_000 + b"l.",
        "no end": b"\x80\x02(((((((((((((((",
        "nothing on the stack": b"\x80\x02\x85\x85\x85\x85\x85\x85\x85\x85\x85.",
    }


@pytest.mark.parametrize("name", bare_pickles())
def test_pickles_that_attack_the_reader(tmp_path, name, monkeypatch):
    monkeypatch.setattr(pickle_opcodes, "ALLOWANCE", 1_000_000)
    start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    for number, prefix in enumerate((b"", start)):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(prefix + bare_pickles()[name] + pickle.dumps([], 2))
        with pytest.raises(AdapterError):
            load_adapter(path)


def test_tensors_that_torch_would_leave_uninitialized_are_refused(tmp_path):
    """torch fills only the storages that a legacy file lists; and none of a record that is marked as a folder."""
    path, state = tmp_path / "weights.bin", {"q.lora_A": torch.ones(2, 6), "q.lora_B": torch.ones(4, 2)}
    file, ends = io.BytesIO(torch_bytes(state, zipped=False)), []
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    data = file.getvalue()
    path.write_bytes(data[: ends[3]] + pickle.dumps([], 2) + data[ends[4] :])
    with pytest.raises(AdapterFormatError, match="does not hold the numbers of all its tensors"):
        load_adapter(path)

    with zipfile.ZipFile(io.BytesIO(torch_bytes(state))) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            marked = zipfile.ZipInfo(info.filename)
            marked.external_attr = 0x10 if info.filename.endswith("data/0") else 0
            new.writestr(marked, old.read(info))
    with pytest.raises(AdapterFormatError, match="marked as a folder"):
        load_adapter(path)


def test_torch_archives_packed_again_or_with_a_strange_layout_load(tmp_path):
    """torch divides by the alignment that a file states: a zero there would end the process."""
    path, state = tmp_path / "weights.bin", {"q.lora_A": torch.randn(2, 6), "q.lora_B": torch.randn(4, 2)}
    path.write_bytes(rezipped(torch_bytes(state), lambda name, data: b"0" if name.endswith("alignment") else data))
    assert all(source.read().equal(state[name]) for name, source in open_container(path).tensors.items())


def test_shapes_that_no_tensor_can_have_are_refused(tmp_path):
    path = tmp_path / "adapter.gguf"
    for shape, kind in (((0, 2**63), 0), ((2**40, 2**40, 0), 1), ((0, 32), 8)):
        row = gguf_text(b"w") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
        path.write_bytes(gguf_bytes(1, 0, row) + bytes(100))
        with pytest.raises(AdapterFormatError, match=r"no tensor can have|does not fit"):
            open_container(path)


def test_zip_bombs_are_not_unpacked(tmp_path):
    bomb = npz_bytes(compressed=True, w=np.zeros(60_000_000, np.uint8))
    (tmp_path / "bomb.npz").write_bytes(bomb)
    with pytest.raises(AdapterFormatError, match="zip bomb"):
        load_adapter(tmp_path / "bomb.npz")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(60_000_000))
    (tmp_path / "bomb.bin").write_bytes(out.getvalue())
    with pytest.raises(AdapterFormatError, match="zip bomb"):
        load_adapter(tmp_path / "bomb.bin")


def test_an_untrained_adapter_that_compresses_well_is_no_bomb(tmp_path):
    path = tmp_path / "adapters.npz"
    zeros = {"q.lora_a": np.zeros((4096, 8), np.float32), "q.lora_b": np.zeros((8, 4096), np.float32)}
    path.write_bytes(npz_bytes(compressed=True, **zeros))
    assert path.stat().st_size < 2000
    assert not load_adapter(path)["q"].B.any()


def bad_headers() -> dict[str, tuple[bytes, str]]:
    deep = b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    values = b'{"x":[' + b"[]," * 6_000_000 + b"[]]}"
    twice = (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    return {
        "deeply nested": (safetensors_bytes(deep), "not valid JSON"),
        "twenty megabytes of empty lists": (safetensors_bytes(values), "far more than its tensors need"),
        "a name twice": (safetensors_bytes(twice, bytes(4)), "not valid JSON"),
        "not UTF-8": (safetensors_bytes(b'{"\xff":1}' + bytes(20)), "not valid JSON"),
        "endless digits": (safetensors_bytes(b'{"w":' + b"9" * 10_000 + b"}"), "not valid JSON"),
        "a list": (safetensors_bytes(b"[]              "), "not a JSON object"),
        "metadata of numbers": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
        "a hole": (safetensors_bytes({"w": entry([1], 4, 8)}, bytes(8)), "begins at byte 4"),
        "overlapping": (
            safetensors_bytes({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)),
            "begins at byte 4",
        ),
        "bytes of no tensor": (safetensors_bytes({"w": entry([1], 0, 4)}, bytes(9)), "bytes of no tensor"),
        "another length": (safetensors_bytes({"w": entry([3], 0, 8)}, bytes(8)), "needs 12"),
        "negative": (safetensors_bytes({"w": entry([-1], 0, 8)}, bytes(8)), "malformed"),
        "true for one": (safetensors_bytes({"w": entry([True], 0, 4)}, bytes(4)), "malformed"),
        "four-bit floats": (safetensors_bytes({"w": entry([8], 0, 4, "F4")}, bytes(4)), "F4"),
        "many dimensions": (safetensors_bytes({"w": entry([2**62] * 5000, 0, 4)}, bytes(4)), "malformed"),
        "a missing field": (safetensors_bytes({"w": {"dtype": "F32", "shape": [1]}}), "not described"),
    }


@pytest.mark.parametrize("name", bad_headers())
def test_damaged_headers_are_refused(tmp_path, name):
    data, words = bad_headers()[name]
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(data)
    with pytest.raises(AdapterFormatError, match=words):
        load_adapter(path)


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "/etc/hostname",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "..\\outside.safetensors",
        "C:\\x",
        "a\0b",
    ],
)
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path, file):
    save_file({"w": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    save_file({"w": torch.ones(1)}, folder / "sub" / "x.safetensors")
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(AdapterFormatError, match="not in its own folder"):
        load_adapter(folder)


def test_links_of_shards_may_not_leave_the_folder_but_in_the_hubs_cache(tmp_path):
    def shard_through(link: Path, target: Path) -> Path:
        link.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.ones(1)}, target)
        link.symlink_to(target)
        index = link.parent / "adapter_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"w": link.name}}))
        return index

    outside = shard_through(tmp_path / "adapter" / "shard.safetensors", tmp_path / "outside.safetensors")
    with pytest.raises(AdapterFormatError, match="link that leaves its folder"):
        open_container(outside)
    within = shard_through(tmp_path / "own" / "shard.safetensors", tmp_path / "own" / "real.safetensors")
    assert list(open_container(within).tensors) == ["w"]
    hub = tmp_path / "models--a--b"
    cached = shard_through(hub / "snapshots" / "1" / "sub" / "shard.safetensors", hub / "blobs" / "0123")
    assert list(open_container(cached).tensors) == ["w"]
    loop = tmp_path / "own" / "loop.safetensors"
    loop.symlink_to(loop)
    within.write_text(json.dumps({"weight_map": {"w": loop.name}}))
    with pytest.raises(AdapterFormatError, match="missing"):
        open_container(within)
    with pytest.raises(AdapterError):
        load_adapter(loop)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("pipe.safetensors", "zero.safetensors"):
        with pytest.raises(AdapterError, match="not a regular file"):
            load_adapter(tmp_path / name)


def foreign_files() -> dict[str, tuple[bytes, str]]:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("adapter_model.bin"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 15234567\n"
    return {
        "empty": (b"", "is empty"),
        "two bytes": (b"ab", "only 2 bytes"),
        "LFS pointer": (pointer, r"Git LFS pointer to a file of 15\.2 MB.*git lfs pull"),
        "web page": (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        "gzip": (gzip.compress(bytes(100)), "gzip"),
        "tar": (tar.getvalue(), "tar archive"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        "npy": (b"\x93NUMPY" + bytes(100), "single NumPy array"),
        "words": (b"These are not the weights that you look for.", "is text, not a checkpoint"),
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".npz", ".gguf"])
@pytest.mark.parametrize("name", foreign_files())
def test_foreign_files_are_refused_by_their_own_name(tmp_path, name, suffix):
    data, words = foreign_files()[name]
    path = tmp_path / f"adapter{suffix}"
    path.write_bytes(data)
    with pytest.raises(AdapterError, match=words) as caught:
        load_adapter(path)
    assert "\n" not in str(caught.value)


def test_a_torchscript_program_is_refused_by_name(tmp_path):
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("program/data.pkl", "program/constants.pkl"):
            archive.writestr(name, b"\x80\x02N.")
    with pytest.raises(NotAnAdapterError, match="TorchScript"):
        load_adapter(path)


def sound_files() -> dict[str, bytes]:
    state = {"q.lora_A.weight": torch.randn(2, 6), "q.lora_B.weight": torch.randn(4, 2)}
    buffers = {"a.bin": torch_bytes(state), "b.bin": torch_bytes(state, zipped=False)}
    buffers["c.npz"] = npz_bytes(**{name: value.numpy() for name, value in state.items()})
    header = {"q.lora_A.weight": entry([2, 6], 0, 48), "q.lora_B.weight": entry([4, 2], 48, 80)}
    buffers["d.safetensors"] = safetensors_bytes(header, bytes(80))
    rows = b"".join(
        gguf_text(name) + struct.pack("<IQQIQ", 2, *shape, 0, offset)
        for name, shape, offset in ((b"q.weight.lora_a", (6, 2), 0), (b"q.weight.lora_b", (2, 4), 64))
    )
    start = gguf_bytes(2, 0, rows)
    buffers["e.gguf"] = start + bytes(-len(start) % 32) + bytes(64 + 32)
    return buffers


def read_all(path: Path) -> None:
    for source in open_container(path).tensors.values():
        source.read()


@pytest.mark.parametrize("name", sorted(sound_files()))
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    data, path = sound_files()[name], tmp_path / name
    path.write_bytes(data)
    assert open_container(path).tensors
    for length in sorted({1, 15, 17, *range(20, len(data), 97), len(data) - 1}):
        path.write_bytes(data[:length])
        with pytest.raises(AdapterError):
            read_all(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_nan_and_infinity_name_the_module_when_it_is_read(tmp_path, value, factor):
    state = {}
    for layer in range(2):
        state[f"base_model.model.layer.{layer}.query.lora_A.weight"] = torch.ones(2, 6)
        state[f"base_model.model.layer.{layer}.query.lora_B.weight"] = torch.ones(4, 2)
    state[f"base_model.model.layer.1.query.lora_{factor}.weight"][0, 1] = value
    save_file(state, tmp_path / "adapter_model.safetensors")
    adapter = load_adapter(tmp_path, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    assert adapter["layer.0.query"].rank == 2
    with pytest.raises(AdapterValueError, match=r"layer\.1\.query.*NaN or infinity"):
        adapter["layer.1.query"]


def test_refusing_hostile_files_takes_no_memory(tmp_path):
    """All the attacks above in one process, which may grow by at most 50 MB."""
    files = {
        **ten_gigabytes(),
        "fills.bin": torch_bytes(FillsMemory()),
        "empty_lists.safetensors": bad_headers()["twenty megabytes of empty lists"][0],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    program = f"""
import resource, torch
from pathlib import Path
from asym_analysis import AdapterError, load_adapter
torch.save({{"w": torch.ones(2)}}, {str(tmp_path / "warm")!r})
try: load_adapter({str(tmp_path / "warm")!r})
except AdapterError: pass
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
before, refused = peak(), 0
for path in sorted(Path({str(tmp_path)!r}).glob("*.*")):
    try: load_adapter(path)
    except AdapterError: refused += 1
print(refused, peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    refused, grown = map(int, run.stdout.split())
    assert refused == len(files)
    assert grown < 50 + 20, f"{grown} MB"  # and once the file of twenty megabytes
