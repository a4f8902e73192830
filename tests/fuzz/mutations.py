"""Small sound adapters in every container, and the ways in which the harness spoils them."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "base_model_name_or_path": "tiny"}
Mutation = Callable[[random.Random, bytes], bytes]

WORDS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
NUMBERS = [
    b"0",
    b"1",
    b"-1",
    b"3",
    b"4294967295",
    b"10000000000",
    b"9223372036854775807",
    b"1e400",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"true",
]
TOKENS = [
    *b"F32 F64 F16 BF16 F8_E4M3 F4 I64 BOOL <f4 >f8 |O <c16 |V2 True False".split(),
    *b"FloatStorage DoubleStorage HalfStorage".split(),
    *b"lora_A lora_B lora_a lora_b weight query __metadata__ data_offsets shape dtype cpu storage weight_map".split(),
    *b".. / LORA ADALORA LOHA lora_alpha".split(),
    b"\\",
    b"\0",
]


def state(dtype: torch.dtype = torch.float32, size: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for layer in range(2):
        prefix = f"base_model.model.layer.{layer}.query"
        factors[f"{prefix}.lora_A.weight"] = torch.randn(2, size, generator=generator).to(dtype)
        factors[f"{prefix}.lora_B.weight"] = torch.randn(size, 2, generator=generator).to(dtype)
    return factors


def seeds() -> dict[str, dict[str, bytes]]:
    """Container -> the files of one sound adapter; the first of them is opened."""
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
    mixed = {name: tensor.to(dtype) for dtype, (name, tensor) in zip(dtypes, state().items(), strict=True)}
    names, shards = (
        list(state()),
        ["adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"],
    )
    halves = [{name: state()[name] for name in names[:2]}, {name: state()[name] for name in names[2:]}]
    index = {"metadata": {"total_size": 192}, "weight_map": {name: shards[name in names[2:]] for name in names}}
    config = json.dumps(CONFIG).encode()
    single = {
        "safetensors": ("adapter_model.safetensors", save(mixed, metadata={"format": "pt", "ss_network_alpha": "4"})),
        "safetensors, large": ("adapter_model.safetensors", save(state(size=20_000))),
        "torch zip": ("adapter_model.bin", torch_bytes(state())),
        "torch zip, views": (
            "adapter_model.bin",
            torch_bytes({name: tensor.T.contiguous().T for name, tensor in state().items()}),
        ),
        "legacy pickle": ("adapter_model.bin", torch_bytes(state(), zipped=False)),
        "npz": ("adapters.npz", npz_bytes(np.savez)),
        "npz, compressed": ("adapters.npz", npz_bytes(np.savez_compressed)),
        "gguf": ("adapter.gguf", gguf_bytes()),
    }
    files = {container: {name: data, "adapter_config.json": config} for container, (name, data) in single.items()}
    files["npz"].pop("adapter_config.json")
    files["gguf"].pop("adapter_config.json")
    files["sharded"] = {
        "adapter_model.safetensors.index.json": json.dumps(index).encode(),
        **{shard: save(half) for shard, half in zip(shards, halves, strict=True)},
        "adapter_config.json": config,
    }
    return files


def torch_bytes(value: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def npz_bytes(write: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    arrays = {}
    for name, tensor in state().items():
        plain = name.removeprefix("base_model.model.").removesuffix(".weight")
        arrays[plain.replace("lora_A", "lora_a").replace("lora_B", "lora_b")] = tensor.T.numpy()
    write(buffer, **arrays)
    return buffer.getvalue()


def gguf_bytes(note: str = "") -> bytes:
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 4.0)
        writer.add_array("general.tags", ["one", "two"])
        if note:
            writer.add_string("general.description", note)
        random_numbers = np.random.default_rng(0)
        for layer in range(2):
            A = random_numbers.standard_normal((2, 32)).astype(np.float32)
            B = random_numbers.standard_normal((6, 2)).astype(np.float16)
            kind = gguf.GGMLQuantizationType.Q8_0
            if layer:
                writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_a", gguf.quantize(A, kind), raw_dtype=kind)
            else:
                writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_a", A)
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_b", B)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def spoil(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to four mutations; half of the time the first knows the container."""
    if rng.random() < 0.5:
        data = structured(rng, data)
        if rng.random() < 0.6:
            return data
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(BLIND)(rng, data) if rng.random() < 0.95 else splice(rng, data, rng.choice(others))
    return data


def place(rng: random.Random, data: bytes) -> int:
    """Somewhere in the file, more often near its ends, where headers and directories lie."""
    size = len(data)
    if size == 0:
        return 0
    where = rng.random()
    if where < 0.4:
        return rng.randrange(min(size, 512))
    if where < 0.6:
        return size - 1 - rng.randrange(min(size, 512))
    return rng.randrange(size)


def flip(rng: random.Random, data: bytes) -> bytes:
    spoiled = bytearray(data or b"\0")
    spoiled[place(rng, spoiled)] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def set_byte(rng: random.Random, data: bytes) -> bytes:
    spoiled = bytearray(data or b"\0")
    spoiled[place(rng, spoiled)] = rng.choice((0, 1, 0x2E, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(spoiled)


def set_word(rng: random.Random, data: bytes) -> bytes:
    form = rng.choice(("<H", "<I", "<Q", ">I", ">Q"))
    size = struct.calcsize(form)
    value = rng.choice([*WORDS, len(data), len(data) + 1, len(data) - 1]) % 256**size
    at = place(rng, data)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: place(rng, data)]


def extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((bytes, rng.randbytes))(rng.randrange(1, 300))


def drop(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def double(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at : at + rng.randrange(1, 200)] + data[at:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + rng.randbytes(rng.randrange(1, 32)) + data[at:]


def blank(rng: random.Random, data: bytes) -> bytes:
    at, size = place(rng, data), rng.randrange(1, 64)
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def change_number(rng: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data[:4000]))
    if not found:
        return flip(rng, data)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]


def change_token(rng: random.Random, data: bytes) -> bytes:
    present = [token for token in TOKENS if token in data]
    if not present:
        return flip(rng, data)
    old, new = rng.choice(present), rng.choice(TOKENS)
    return data.replace(old, new, rng.choice((1, -1)))


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: place(rng, data)] + other[place(rng, other) :]


BLIND: list[Mutation] = [
    flip,
    flip,
    set_byte,
    set_word,
    set_word,
    cut,
    extend,
    drop,
    double,
    insert,
    blank,
    change_number,
    change_token,
]


def structured(rng: random.Random, data: bytes) -> bytes:
    """Spoil what a container holds and wrap it soundly again, so that the deeper checks are reached."""
    if data.startswith(b"PK\3\4"):
        return in_archive(rng, data)
    if data[8:9] == b"{":
        size = int.from_bytes(data[:8], "little")
        header = change_json(rng, data[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if data.startswith(b"{"):
        return change_json(rng, data)
    return rng.choice((change_number, change_token, set_word))(rng, data)


def in_archive(rng: random.Random, data: bytes) -> bytes:
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            chosen = rng.choice(old.infolist()).filename
            pickles = [name for name in old.namelist() if name.endswith("data.pkl")]
            chosen = pickles[0] if pickles and rng.random() < 0.7 else chosen
            for info in old.infolist():
                content = old.read(info)
                name = info.filename
                if name == chosen:
                    content = rng.choice(BLIND)(rng, content)
                    name = name if rng.random() < 0.9 else name + rng.choice((".npy", "x", "/", "\\"))
                new.writestr(name, content, compress_type=info.compress_type)
    except zipfile.BadZipFile:
        return flip(rng, data)
    return out.getvalue()


def change_json(rng: random.Random, text: bytes) -> bytes:
    try:
        value = json.loads(text)
    except ValueError:
        return change_number(rng, text)
    spots: list[tuple[dict | list, object]] = []

    def walk(node: object) -> None:
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            spots.append((node, key))
            walk(node[key])

    walk(value)
    if not spots:
        return flip(rng, text)
    parent, key = rng.choice(spots)
    choice = rng.random()
    if choice < 0.15:
        del parent[key]
    elif choice < 0.3 and isinstance(parent, dict):
        parent[rng.choice((f"{key}x", "", "__metadata__", "base_model.model.layer.1.query.lora_A.weight"))] = (
            parent.pop(key)
        )
    elif choice < 0.45:
        other, other_key = rng.choice(spots)
        parent[key] = json.loads(json.dumps(other[other_key]))
    elif isinstance(parent[key], int) and choice < 0.8:
        parent[key] += rng.choice((-1, 1, 4, -4, 2**31, 2**62, -(10**6)))
    else:
        parent[key] = rng.choice(
            (0, -1, 1.5, 2**70, None, True, "", "F64", [], [1], {}, [[0, 4]], "x" * 300, float("nan"))
        )
    return json.dumps(value).encode()
