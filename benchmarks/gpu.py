"""Fifteen minutes on one GPU: does it say what the CPU says, and what do the paper's own lengths say? Never run on one.

    python benchmarks/gpu.py GLUE OUT [--model MODEL] [--seconds 900] [--workers 8] [--device cuda]

First the checks, each a row of OUT/checks.csv with its largest difference and the error allowed: comparisons of
subspaces, intruder dimensions and input covariances on the device against the CPU; the losses of a short training on
both in float32; and in bfloat16 against float32 on the device. Then RTE, MRPC and CoLA by the shipped config
roberta-large-glue at the paper's 20 epochs and rate, several runs side by side: LoRA and B alone first. What is not
finished in time goes on where it stopped when the command is given again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, compare_subspaces, input_covariances, intruder_dimensions
from asym_analysis.finetuning import read_sweep
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import adapted_model, task_batches
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.storage import is_finished
from asym_analysis.finetuning.train import finetune

CONFIG, PAPER_RATE = "roberta-large-glue", 4e-4
TASKS = ("RTE", "MRPC", "CoLA")
ARMS = ("lora-r8", "b-only-r8", "b-only-r16", "a-only-r16", "frozen")
STEPS = 20  # of the trainings that are compared
# Sums of float32 in another order; products of bfloat16 have eight bits.
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2}


def planned(glue: Path, model: str | None) -> list[PlannedRun]:
    """The runs at the paper's length and rate: every arm of one seed before the next."""
    runs = [run for run in read_sweep(CONFIG, data=glue, model=model) if run.stage == "final"]
    wanted = [
        run.at(PAPER_RATE)
        for run in runs
        if run.labels["run"] in ARMS and run.config.task.name in TASKS and run.labels["length"] == "20 epochs"
    ]
    return sorted(wanted, key=lambda run: (run.config.seed, ARMS.index(run.labels["run"])))


def analyses(device: str) -> Iterator[dict[str, Any]]:
    """The same analyses on both devices."""
    draw = torch.Generator().manual_seed(0)
    adapters = [
        Adapter.from_factors(
            {f"layer.{i}.query": (torch.randn(8, 256, generator=draw), torch.randn(192, 8, generator=draw))
             for i in range(4)},
            name=f"run {number}",
        )
        for number in range(6)
    ]  # fmt: skip
    tables = [compare_subspaces(adapters, device=place).frame["value"].to_numpy() for place in ("cpu", device)]
    yield {"check": "compare_subspaces", "difference": np.abs(tables[0] - tables[1]).max(), "allowed": 1e-5}
    weights = {f"layer.{i}.query": torch.randn(192, 256, generator=draw) for i in range(4)}
    tables = [
        intruder_dimensions(adapters[0], {name: weight.to(place) for name, weight in weights.items()}).frame
        for place in ("cpu", device)
    ]
    numbers = [table.select_dtypes("number").to_numpy(dtype=float) for table in tables]
    yield {"check": "intruder_dimensions", "difference": np.nanmax(np.abs(numbers[0] - numbers[1])), "allowed": 1e-4}


def trainings(config: Any, device: str) -> Iterator[dict[str, Any]]:
    """Moments of the inputs, and the losses of a short training, on both devices."""
    data = config.task.data(config.task.processor(config.model))
    batches = list(task_batches(config, rows=STEPS * config.batch_size, data=data, training=True))
    places = {"cpu": torch.float32, device: torch.float32, f"{device} bfloat16": torch.bfloat16}
    losses, moments = {}, []
    for name, dtype in places.items():
        place = name.split()[0]
        model, _ = adapted_model(replace(config, dropout=0.0), data)
        model.to(place)
        if dtype == torch.float32:
            modules = [path for path, _ in model.named_modules() if path.endswith("query.base_layer")]
            found = input_covariances(model, batches[:2], [modules[0].removesuffix(".base_layer")])
            moments.append(next(iter(found.moments.values())).second_moment)
        losses[name] = _losses(model, batches, place, dtype, config.learning_rate)
    scale = moments[0].abs().max()
    difference = float((moments[0] - moments[-1]).abs().max() / scale)
    yield {"check": "input_covariances", "difference": difference, "allowed": 1e-4}
    for name, (first, second) in {"float32": ("cpu", device), "bfloat16": (device, f"{device} bfloat16")}.items():
        difference = float(np.abs(losses[first] - losses[second]).max())
        yield {"check": f"training, {first} and {second}", "difference": difference, "allowed": ALLOWED[name]}


def _losses(
    model: Any, batches: list[dict[str, torch.Tensor]], place: str, dtype: torch.dtype, rate: float
) -> np.ndarray:
    """The loss of each step; without dropout, so that devices can be compared."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    found = []
    for batch in batches[:STEPS]:
        with torch.autocast(torch.device(place).type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model.eval()(**{name: value.to(place) for name, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return np.array(found)


def train_until(deadline: float, options: argparse.Namespace) -> None:
    """Start one process a run, several side by side, until the time is over."""
    waiting = [run.name for run in planned(options.glue, options.model) if not is_finished(options.out / run.name)]
    waiting = waiting[: options.most]
    command = [sys.executable, __file__, str(options.glue), str(options.out), "--device", options.device]
    command += [] if options.model is None else ["--model", options.model]
    running: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    while (waiting or running) and time.monotonic() < deadline:
        running = [process for process in running if process.poll() is None]
        while waiting and len(running) < options.workers:
            running.append(subprocess.Popen([*command, "--run", waiting.pop(0)], env=environment))
        time.sleep(0.5)
    for process in running:
        process.terminate()  # its last checkpoint stays
        process.wait()


def main() -> None:
    """Check, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--most", type=int, help="train at most so many runs; all if absent")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    prepare_training()
    runs = planned(options.glue, options.model)
    if options.run:
        run = next(run for run in runs if run.name == options.run)
        finetune(replace(run.config, bf16=options.device != "cpu"), options.out / run.name)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    config = next(run.config for run in runs if run.config.parsed_variant is not None)
    rows = [*analyses(options.device), *trainings(config, options.device)]
    table = pd.DataFrame(rows)
    table["passed"] = table["difference"] <= table["allowed"]
    table.to_csv(options.out / "checks.csv", index=False)
    print(table.to_string(index=False))
    train_until(deadline, options)
    finished = [run.name for run in runs if is_finished(options.out / run.name)]
    print(f"{len(finished)} of {len(runs)} runs finished: {', '.join(finished)}")


if __name__ == "__main__":
    main()
