"""Fifteen minutes on one GPU: does it say what the CPU says, and what do the paper's own lengths say?

    python benchmarks/gpu.py GLUE OUT [--config CONFIG] [--model MODEL] [--rate 4e-4] [--seconds 900] [--workers 8]
        [--device cuda] [--most RUNS]

First the checks, each a row of OUT/checks.csv with its largest difference and the error allowed: comparisons of
subspaces, intruder dimensions and input covariances on the device against the CPU; the losses of a short training on
both in float32; and in bfloat16 against float32 on the device. A check that cannot be made says why, and the others go
on. Then RTE, MRPC and CoLA by a shipped config (roberta-large-glue, or minilm-all-layers) at the paper's 20 epochs and
one rate, several runs side by side: LoRA and B alone first. What is not finished in time goes on where it stopped when
the command is given again; --most 0 makes the checks alone. Those passed on an H100
(benchmarks/results/gpu_checks.csv); the trainings of this script have not been run on one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, compare_subspaces, input_covariances, intruder_dimensions
from asym_analysis.finetuning import read_sweep
from asym_analysis.finetuning.config import model_source
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.models import adapted_model, task_batches
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.storage import is_finished
from asym_analysis.finetuning.train import finetune
from asym_analysis.subspaces.measures import MEASURES

PAPER_RATE = 4e-4
TASKS = ("RTE", "MRPC", "CoLA")
ARMS = ("lora-r8", "b-only-r8", "b-only-r16", "a-only-r16", "frozen")
STEPS = 20  # of the trainings that are compared
# Sums of float32 in another order; products of bfloat16 have eight bits.
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2}


def planned(options: argparse.Namespace) -> list[PlannedRun]:
    """The runs at the paper's length and one rate: every arm of one seed before the next."""
    found = read_sweep(options.config, data=options.glue, model=options.model)
    runs = [run for run in found if run.stage == "final"]
    wanted = [
        run.at(options.rate)
        for run in runs
        if run.labels["run"] in ARMS and run.config.task.name in TASKS and run.labels["length"] == "20 epochs"
    ]
    return sorted(wanted, key=lambda run: (run.config.seed, ARMS.index(run.labels["run"])))


def analyses(device: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """Name, error allowed and largest difference of the same analyses on both devices."""
    draw = torch.Generator().manual_seed(0)
    adapters = [
        Adapter.from_factors(
            {f"layer.{i}.query": (torch.randn(rank, 256, generator=draw), torch.randn(192, rank, generator=draw))
             for i in range(4)},
            name=f"run {number}",
        )
        for number, rank in enumerate((8, 8, 8, 4, 4, 1))
    ]  # fmt: skip
    weights = {f"layer.{i}.query": torch.randn(192, 256, generator=draw) for i in range(4)}

    def subspaces(measure: str) -> float:
        found = [compare_subspaces(adapters, measure=measure, device=place) for place in ("cpu", device)]
        if (found[0].initialization_marks != found[1].initialization_marks).any():
            return float("inf")
        return float(np.abs(np.subtract(*(one.values for one in found))).max())  # noqa: PD011 - an array of its own

    def intruders() -> float:
        places = [{name: weight.to(place) for name, weight in weights.items()} for place in ("cpu", device)]
        first, second = (intruder_dimensions(adapters[0], base).frame for base in places)
        values = first["singular_value"] / second["singular_value"] - 1
        return float(max(values.abs().max(), (first["largest_cosine"] - second["largest_cosine"]).abs().max()))

    for measure in MEASURES:
        yield f"compare_subspaces, {measure}", 1e-5, partial(subspaces, measure)
    yield "intruder_dimensions", 1e-3, intruders


def trainings(config: Any, device: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """The same of the moments of the inputs, and of the losses of a short training."""
    source, options = model_source(config.model)
    data = config.task.data(config.task.processor(source, **options))
    batches = list(task_batches(config, rows=STEPS * config.batch_size, data=data, training=True))
    module = "encoder.layer.0.attention.self.query"

    def fresh(place: str) -> Any:
        return adapted_model(replace(config, dropout=0.0), data)[0].to(place)

    def moments() -> float:
        found = [
            input_covariances(fresh(place), batches[:2], [module]).moments[module].second_moment
            for place in ("cpu", device)
        ]
        return float((found[0] - found[1]).abs().max() / found[0].abs().max())

    def losses(place: str, dtype: torch.dtype) -> np.ndarray:
        return _losses(fresh(place), batches, place, dtype, config.learning_rate)

    def devices() -> float:
        return float(np.abs(losses("cpu", torch.float32) - losses(device, torch.float32)).max())

    def precisions() -> float:
        return float(np.abs(losses(device, torch.float32) - losses(device, torch.bfloat16)).max())

    yield "input_covariances", 1e-4, moments
    yield f"training, cpu and {device}", ALLOWED["float32"], devices
    yield f"training, {device} and {device} bfloat16", ALLOWED["bfloat16"], precisions


def check(name: str, allowed: float, measure: Callable[[], float]) -> dict[str, Any]:
    """One row of checks.csv; a check that cannot be made has no difference and does not pass."""
    start, problem, difference = time.perf_counter(), "", float("nan")
    try:
        difference = measure()
    except Exception as error:  # the others are still worth making
        problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    row = {"check": name, "difference": difference, "allowed": allowed, "passed": difference <= allowed}
    return row | {"seconds": round(time.perf_counter() - start, 1), "problem": problem}


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
    waiting = [run.name for run in planned(options) if not is_finished(options.out / run.name)]
    waiting = waiting[: options.most]
    command = [sys.executable, __file__, str(options.glue), str(options.out), "--device", options.device]
    command += ["--config", options.config, "--rate", str(options.rate)]
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
    parser.add_argument("--config", default="roberta-large-glue")
    parser.add_argument("--model")
    parser.add_argument("--rate", type=float, default=PAPER_RATE)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--most", type=int, help="train at most so many runs; all if absent")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    prepare_training()
    runs = planned(options)
    if options.run:
        run = next(run for run in runs if run.name == options.run)
        finetune(replace(run.config, bf16=options.device != "cpu"), options.out / run.name)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    config = next(run.config for run in runs if run.config.parsed_variant is not None)
    rows = []
    for name, allowed, measure in (*analyses(options.device), *trainings(config, options.device)):
        rows.append(check(name, allowed, measure))
        pd.DataFrame(rows).to_csv(options.out / "checks.csv", index=False)  # after each: time may end
    print(pd.DataFrame(rows).to_string(index=False), flush=True)
    train_until(deadline, options)
    finished = [run.name for run in runs if is_finished(options.out / run.name)]
    print(f"{len(finished)} of {len(runs)} runs finished: {', '.join(finished)}")


if __name__ == "__main__":
    main()
