"""How long the bounds of a 7B model's adapter take, over reading its file: rank 16 on 224 matrices of 4096 x 4096.

    python benchmarks/bounds_7b.py [--coded]

The file is made in a temporary folder. Times are given as ratios to reading every factor through `load_adapter`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from asym_analysis import compute_bound, load_adapter

COUNTED = ("parameter count", "degrees of freedom", "mutual information", "Gaussian posterior")
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.a", "mlp.b", "mlp.c")


def make(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(32):
        for name in NAMES:
            stem = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(16, 4096, generator=generator) / 64
            tensors[f"{stem}.lora_B.weight"] = torch.randn(4096, 16, generator=generator) / 200
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"target_modules": [n.split(".")[1] for n in NAMES]})
    )


def read(folder: Path) -> None:
    adapter = load_adapter(folder)
    for module in adapter:
        adapter[module]


def count(folder: Path) -> None:
    compute_bound(load_adapter(folder), 50_000, mutual_information=100.0, rungs=COUNTED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coded", action="store_true", help="also time the description length, which takes minutes")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        best = {}
        for what in (read, count, read, count, read, count):  # interleaved, so that both meet the same machine
            began = time.process_time()
            what(folder)
            best[what.__name__] = min(best.get(what.__name__, 1e9), time.process_time() - began)
        print(f"reading the file: {best['read']:.2f} s of processor time")
        print(f"rungs 1, 2 and 4: {best['count']:.2f} s, {best['count'] / best['read']:.2f} times reading")
        if chosen.coded:
            began = time.process_time()
            compute_bound(load_adapter(folder), 50_000, rungs=("description length",), progress=True)
            print(f"description length, B, A and both: {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
