"""How fast adapters load, as ratios taken in one run.

    python benchmarks/loading.py [--repeats 15]

1. Opening an adapter of 100 modules (headers only) against `safetensors.safe_open` and its keys.
2. Reading all its factors, which looks at every number for NaN and infinity, to `safetensors.torch.load_file`, which
   maps the file and looks at none, and to `load_file` with a sum of every tensor, which does. Goal: at most 1.2.
3. Peak memory of measuring a large adapter module by module, in modules' worth of factors above the interpreter with
   one small adapter measured. Goal: at most 2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asym_analysis import load_adapter

WIDTH, RANK = 8192, 256  # of the large adapter


def write_adapter(folder: Path, *, modules: int, width: int, rank: int, dtype: torch.dtype = torch.float32) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for number in range(modules):
        prefix = f"base_model.model.model.layers.{number // 4}.self_attn.{'qkvo'[number % 4]}_proj"
        state[f"{prefix}.lora_A.weight"] = torch.randn(rank, width, generator=generator).to(dtype)
        state[f"{prefix}.lora_B.weight"] = torch.randn(width, rank, generator=generator).to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": "benchmark"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter_model.safetensors"


def best_seconds(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor time of each action, taken in turn; the fastest of all repeats. A busy machine spoils these least."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.process_time()
            action()
            times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


def open_keys(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def read_all(path: Path) -> list[object]:
    return list(load_adapter(path).values())


def memory(field: str) -> int:
    """VmHWM, the peak since it was last reset, or VmRSS, what is held now (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def measure_memory(small: str, large: str) -> None:
    """In a process of its own: how far the peak rises when a large adapter is measured after a small one."""
    torch.set_num_threads(1)

    def measure(path: str) -> int:
        adapter = load_adapter(path)
        for module in adapter:
            adapter[module].frobenius_norm()
        source = adapter.source(next(iter(adapter)))
        return 4 * source.rank * (source.d_in + source.d_out)

    measure(small)
    torch.linalg.qr(torch.randn(WIDTH, RANK), mode="r")  # LAPACK's own code and buffers, loaded at the first large call
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    worth = measure(large)
    print(json.dumps({"grown": memory("VmHWM") - before, "module": worth}))


def peak_of(program: list[str], environment: dict[str, str]) -> list[float]:
    """Peaks of five fresh processes, in modules' worth of factors."""
    variables = {**os.environ, **environment}
    runs = [
        json.loads(subprocess.run(program, capture_output=True, text=True, check=True, env=variables).stdout)
        for _ in range(5)
    ]
    return [run["grown"] / run["module"] for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        measure_memory(*arguments.measure_memory)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = write_adapter(folder / "hundred", modules=100, width=1024, rank=8)
        opened = best_seconds(
            {"ours": lambda: load_adapter(path), "safe_open": lambda: open_keys(path)}, arguments.repeats
        )
        read = {}
        for width, rank in ((1024, 8), (4096, 16), (4096, 64)):
            kind = f"width {width}, rank {rank}"
            file = write_adapter(folder / kind, modules=100, width=width, rank=rank)
            actions = {
                "ours": lambda file=file: read_all(file),
                "load_file": lambda file=file: load_file(file),
                "load_file and sum": lambda file=file: [tensor.sum() for tensor in load_file(file).values()],
            }
            read[kind] = best_seconds(actions, arguments.repeats)
        large = write_adapter(folder / "large", modules=8, width=WIDTH, rank=RANK)
        program = [sys.executable, __file__, "--measure-memory", str(path), str(large)]
        # glibc keeps freed blocks once its threshold for mapping has grown: what the process holds then depends on
        # where they lie. With the threshold fixed, freed memory goes back, and the peak is what was in use.
        grown = {
            "glibc's own threshold": peak_of(program, {}),
            "threshold fixed": peak_of(program, {"MALLOC_MMAP_THRESHOLD_": "131072"}),
        }
        size = large.stat().st_size
    print(
        f"open 100 modules: {1e3 * opened['ours']:.2f} ms, safe_open + keys {1e3 * opened['safe_open']:.2f} ms",
        end=", ",
    )
    print(f"ratio {opened['ours'] / opened['safe_open']:.1f}")
    for kind, seconds in read.items():
        print(f"read all factors, {kind}: {1e3 * seconds['ours']:.1f} ms", end=", ")
        for other in ("load_file", "load_file and sum"):
            print(f"{other} {1e3 * seconds[other]:.1f} ms, ratio {seconds['ours'] / seconds[other]:.2f}", end="; ")
        print("goal: at most 1.2")
    print(f"measure a file of {size / 1e6:.0f} MB module by module, peak above the interpreter (goal: at most 2):")
    for allocator, peaks in grown.items():
        five = ", ".join(f"{value:.2f}" for value in sorted(peaks))
        print(f"  {allocator}: {statistics.median(peaks):.2f} modules' worth (five runs: {five})")


if __name__ == "__main__":
    main()
