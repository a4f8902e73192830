"""All pairs of 100 adapters, 48 modules, A and B: ratios to the bare matrix products, and to a loop over scipy.

Everything is timed in one run, the parts taking turns, and each part's best time counts: in seconds on the clock, and
in seconds of the processor. "from files" opens the files too (float32, as PEFT writes them), and is held against the
bare products and against `load_file` of the same files with the bare products. The scipy loop is timed on a random
sample of the pairs and multiplied up.

    python benchmarks/all_pairs.py                       # 100 adapters in float32 and float64, torch's own threads
    python benchmarks/all_pairs.py --threads 1           # the bare products on one thread too
    python benchmarks/all_pairs.py --busy 2              # beside two processes that never rest
    python benchmarks/all_pairs.py --device cuda         # the products on a GPU, too
    python benchmarks/all_pairs.py --few                 # 2 to 10 adapters of a 7B model, against read + QR + products
    python benchmarks/all_pairs.py --adapters 1000 --modules 24 --folder thousand   # streamed from disk
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import subspace_angles

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.adapters.load import load_adapters
from asym_analysis.alignment.module_pairs import all_pairs, factor_frames
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.subspaces.measures import measure_named

RANK, SIZE = 8, 1024


def adapters(count: int, modules: int, dtype: torch.dtype) -> AdapterSet:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return AdapterSet(
        Adapter.from_factors(
            {f"encoder.layer.{m}.query": (draw(RANK, SIZE), draw(SIZE, RANK)) for m in range(modules)}, name=f"run {i}"
        )
        for i in range(count)
    )


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor."""
    start, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - spent


def best(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, work in parts.items():
            times[name].append(seconds(work))
    return {name: (min(clock for clock, _ in taken), min(spent for _, spent in taken)) for name, taken in times.items()}


def scipy_loop(runs: AdapterSet, pairs: int) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    modules = list(runs.modules)
    chosen = [
        (*generator.choice(len(runs), 2, replace=False), modules[generator.integers(len(modules))])
        for _ in range(pairs)
    ]
    read = {(i, m): runs[int(i)][m] for a, b, m in chosen for i in (a, b)}
    factors = {key: (update.A.numpy().T, update.B.numpy()) for key, update in read.items()}

    def loop() -> None:
        for i, j, m in chosen:
            for x, y in zip(factors[i, m], factors[j, m], strict=True):
                (np.cos(subspace_angles(x, y)) ** 2).mean()

    return loop


def hundred(count: int, modules: int, dtype: torch.dtype, rounds: int, sample: int, device: str | None) -> None:
    runs = adapters(count, modules, dtype)
    stack = torch.randn(count * RANK, SIZE, dtype=dtype)
    held = {m: [run[m] for run in runs] for m in runs.modules}
    pairs = count * (count - 1) // 2

    overlap = measure_named("overlap")

    def bare() -> None:
        for _ in range(2 * modules):
            stack @ stack.mT

    def compute() -> None:
        for updates in held.values():
            for factor in ("A", "B"):
                all_pairs(overlap, factor_frames(overlap, factor, updates, "cpu").by_module(1))

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count, modules, dtype)
        files = sorted(Path(folder).glob("*/adapter_model.safetensors"))

        def read() -> None:
            tensors = [load_file(file) for file in files]
            for name in tensors[0]:
                rows = torch.stack([held[name] for held in tensors])
                rows = (rows if "lora_A" in name else rows.mT).reshape(-1, SIZE)
                rows @ rows.mT

        parts = {
            "bare": bare,
            "read": read,
            "compute": compute,
            "with reading from memory": lambda: compare_subspaces(runs),
            "from files": lambda: compare_subspaces(load_adapters(folder)),
            "with the frame": lambda: compare_subspaces(runs).frame,
        }
        if device is not None:
            parts[f"from memory on {device}"] = lambda: compare_subspaces(runs, device=device)
            parts[f"from files on {device}"] = lambda: compare_subspaces(load_adapters(folder), device=device)
        times = best(parts, rounds)
    one = best({"scipy": scipy_loop(runs, sample)}, rounds)["scipy"][0] / sample * pairs * modules
    clock, spent = times["bare"]
    print(f"\n{count} adapters, {modules} modules, rank {RANK}, d = {SIZE}, {dtype}: {2 * modules * pairs:,} values")
    threads = torch.get_num_threads()
    print(f"  bare matrix products       {clock:7.2f} s, {spent:6.2f} of the processor; {threads} thread(s)")
    for name in list(parts)[1:]:
        mine, my = times[name]
        print(f"  {name:25s}  {mine:7.2f} s, {my:6.2f} of the processor: {mine / clock:.2f} and {my / spent:.2f} times")
    mine, my = (files / read for files, read in zip(times["from files"], times["read"], strict=True))
    print(f"  from files against reading them with load_file and the bare products: {mine:.2f} and {my:.2f} times")
    reading = times["with reading from memory"][0]
    print(f"  scipy loop (from {sample} pairs) {one:.1f} s: {one / times['compute'][0]:.0f} times compute, ", end="")
    print(f"{one / reading:.0f} times compute with reading")
    print(f"  per pair and module, with reading {reading / pairs / modules * 1e6:.2f} microseconds")


def few(rounds: int, modules: int = 64, rank: int = 16, size: int = 4096) -> None:
    """Two to ten adapters of a 7B model's query and value maps, as float16 files."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 10, modules, torch.float16, rank, size)
        for count in (2, 4, 10):
            paths = sorted(Path(folder).glob("run-*"))[:count]

            def parts(paths: list[Path] = paths) -> None:
                held = [load_file(path / "adapter_model.safetensors") for path in paths]
                for name in held[0]:
                    rows = torch.stack([tensors[name].float() for tensors in held])
                    basis = torch.linalg.qr(rows.mT if "lora_A" in name else rows).Q.mT.reshape(-1, size)
                    basis @ basis.mT

            times = best({"parts": parts, "whole": lambda paths=paths: compare_subspaces(load_adapters(paths))}, rounds)
            (clock, spent), (mine, my) = times["parts"], times["whole"]
            print(
                f"{count} adapters, {modules} modules, rank {rank}, d = {size}: read + QR + products {clock:.2f} s, "
                f"{spent:.2f} of the processor; compare_subspaces {mine / clock:.2f} and {my / spent:.2f} times"
            )


def write(folder: Path, count: int, modules: int, dtype: torch.dtype, rank: int = RANK, size: int = SIZE) -> None:
    """Adapters as PEFT writes them."""
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        target = folder / f"run-{i:04d}"
        if (target / "adapter_model.safetensors").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for m in range(modules):
            stem = f"base_model.model.encoder.layer.{m}.query"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, size, generator=generator).to(dtype)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(size, rank, generator=generator).to(dtype)
        save_file(tensors, target / "adapter_model.safetensors")
        (target / "adapter_config.json").write_text(
            f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}, "target_modules": ["query"]}}'
        )


def streamed(folder: Path, count: int, modules: int) -> None:
    write(folder, count, modules, torch.float16)
    few, many = (load_adapters(sorted(folder.glob("run-*"))[:n]) for n in (100, count))
    costs = {}
    for runs in (few, many):
        store = folder / f"store-{len(runs)}"
        shutil.rmtree(store, ignore_errors=True)
        taken, _ = seconds(lambda runs=runs, store=store: compare_subspaces(runs, store=store, progress=True))
        pairs = len(runs) * (len(runs) - 1) // 2
        costs[len(runs)] = taken / pairs / modules * 1e6
        print(f"{len(runs)} adapters from disk: {taken:.1f} s, {costs[len(runs)]:.2f} microseconds a pair and module")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"cost of a pair at {count} adapters: {costs[count] / costs[100]:.2f} times that at 100; peak {peak:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--modules", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=200, help="pairs of the scipy loop")
    parser.add_argument("--threads", type=int, help="threads of torch; its own number by default")
    parser.add_argument("--busy", type=int, default=0, help="processes that never rest, beside the benchmark")
    parser.add_argument("--device", help="compared there as well")
    parser.add_argument("--single", action="store_true", help="float32 alone")
    parser.add_argument("--few", action="store_true", help="2, 4 and 10 adapters of a 7B model instead")
    parser.add_argument("--folder", type=Path, help="stream adapters from files written here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    try:
        if options.folder:
            streamed(options.folder, options.adapters, options.modules)
            return
        if options.few:
            few(options.rounds)
            return
        for dtype in (torch.float32,) if options.single else (torch.float32, torch.float64):
            hundred(options.adapters, options.modules, dtype, options.rounds, options.sample, options.device)
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
