"""Sound adapters whose headers have any length: none of them may be refused."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from mutations import CONFIG, gguf_bytes, state, torch_bytes

LONGEST = 2**18
# Two bytes that begin another format where they are the length of a safetensors header, or a part of it.
MAGIC = [int.from_bytes(magic, "little") for magic in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"\x1f\x8b", b"PK")]


def length(rng: random.Random, least: int) -> int:
    """A header length: any, with those that look like another format's first bytes among them."""
    magic = rng.choice(MAGIC) + 65536 * rng.randrange(3)
    if rng.random() < 0.2 and magic >= least:
        return magic
    return round(least * (LONGEST / least) ** rng.random())


def safetensors_bytes(tensors: dict[str, torch.Tensor], size: int) -> bytes:
    """The tensors with a header of exactly so many bytes, or as many as it needs."""
    data, entries = b"", {}
    for name, tensor in tensors.items():
        values = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[tensor.dtype]
        place = [len(data), len(data) + len(values)]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": place}
        data += values
    header = json.dumps(entries).encode()
    return struct.pack("<Q", max(size, len(header))) + header.ljust(size) + data


def least_length(tensors: dict[str, torch.Tensor]) -> int:
    return int.from_bytes(safetensors_bytes(tensors, 0)[:8], "little")


def npz_bytes(rng: random.Random) -> bytes:
    """Arrays whose own headers are padded to any length that NumPy reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, tensor in state().items():
            plain = name.removeprefix("base_model.model.").removesuffix(".weight")
            array = np.ascontiguousarray(tensor.T.numpy())
            text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {array.shape}, }}".encode()
            text = text.ljust(rng.randrange(len(text) + 1, 10_000) - 1) + b"\n"
            header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
            entry = plain.replace("lora_A", "lora_a").replace("lora_B", "lora_b") + ".npy"
            archive.writestr(entry, header + array.tobytes())
    return buffer.getvalue()


def _single(rng: random.Random) -> dict[str, bytes]:
    tensors = state(rng.choice((torch.float32, torch.float16, torch.bfloat16)), size=rng.choice((3, 6, 100)))
    return {"adapter_model.safetensors": safetensors_bytes(tensors, length(rng, least_length(tensors)))}


def _sharded(rng: random.Random) -> dict[str, bytes]:
    names = list(state())
    halves = {f"part-{n}.safetensors": {name: state()[name] for name in names[2 * n : 2 * n + 2]} for n in (0, 1)}
    where = {name: shard for shard, half in halves.items() for name in half}
    index = json.dumps({"weight_map": where, "metadata": {"note": "y" * rng.randrange(5000)}}).encode()
    shards = {shard: safetensors_bytes(half, length(rng, least_length(half))) for shard, half in halves.items()}
    return {"adapter_model.safetensors.index.json": index, **shards}


def _pickle(zipped: bool) -> Callable[[random.Random], dict[str, bytes]]:
    def files(rng: random.Random) -> dict[str, bytes]:
        value = {**state(), "note": "y" * length(rng, 1), "epoch": rng.randrange(1000)}
        return {"adapter_model.bin": torch_bytes(value, zipped=zipped)}

    return files


KINDS: dict[str, Callable[[random.Random], dict[str, bytes]]] = {
    "safetensors": _single,
    "sharded": _sharded,
    "torch zip": _pickle(zipped=True),
    "legacy pickle": _pickle(zipped=False),
    "npz": lambda rng: {"adapters.npz": npz_bytes(rng)},
    "gguf": lambda rng: {"adapter.gguf": gguf_bytes(note="y" * length(rng, 1))},
}


def sound_files(rng: random.Random, kind: str) -> dict[str, bytes]:
    """The files of one sound adapter of some container; the first of them is opened."""
    files = KINDS[kind](rng)
    return files if kind in ("npz", "gguf") else {**files, "adapter_config.json": json.dumps(CONFIG).encode()}
