"""What the questions about one adapter say of the shipped ones, beside measured losses: forgetting, first step, repair.

python benchmarks/minilm/repair.py --glue GLUE --general TEXTS.txt --out benchmarks/results/repair.csv

`kept` is the share of the adapter's gain on its task that is left when its intruder directions are scaled, or when the
whole update is scaled until as much of it is kept; `moved` is the mean relative change of the sentence vectors of
general texts, what the adapter does to inputs that it was not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from tasks import TASKS, batches_of, loss_of, network, rows_of

from asym_analysis import (
    gradient_alignment,
    input_covariances,
    intruder_scaling,
    merge_adapters,
    null_space_energy,
    sample_adapters,
    scale_intruders,
    weight_gradients,
)
from asym_analysis.adapters.applied import apply_to
from asym_analysis.finetuning.tasks.pooling import mean_pooled

ROWS = {"CoLA": 256, "MRPC": 96, "SST-2": 192, "STS-B": 160}
NAMES = {"CoLA": "cola", "MRPC": "mrpc", "SST-2": "sst2", "STS-B": "stsb"}


def vectors(model: object, batches: list) -> torch.Tensor:
    """Sentence vectors of texts."""
    with torch.inference_mode():
        found = [
            mean_pooled(model.bert(b["input_ids"], attention_mask=b["attention_mask"])[0], b["attention_mask"])
            for b in batches
        ]
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--general", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    lines = [line for line in chosen.general.read_text(encoding="utf-8").splitlines() if len(line) > 20]
    general = batches_of([{"text": line, "text_pair": None, "label": 0} for line in lines[:96]], max_length=64)
    samples = {adapter.name: adapter for adapter in sample_adapters()}
    rows: list[dict[str, object]] = []
    for task in TASKS[1:]:
        run, model = samples[f"independent-{NAMES[task]}"], network(task)
        plain, modules = run.without_extras(), list(run)
        base = {f"{m}.weight": dict(model.named_parameters())[f"{m}.weight"].detach().clone() for m in modules}
        dev = batches_of(rows_of(task, chosen.glue, "dev", ROWS[task]))
        train = batches_of(rows_of(task, chosen.glue, "train", 64), size=16)
        with apply_to(run, model):
            own = loss_of(model, dev)
            head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("classifier")}
        model.load_state_dict(head, strict=False)
        none, before = loss_of(model, dev), vectors(model, general)
        moments = input_covariances(model, general, modules)
        energy = null_space_energy(plain, moments, task_moments=input_covariances(model, train, modules))
        print(task, "null space\n", energy.summary().round(3).to_string(), flush=True)
        first = gradient_alignment(plain, weight_gradients(model, train, modules))
        print(task, "first gradient\n", first.summary().round(4).to_string(), flush=True)
        scaling = intruder_scaling(plain, base, (0.0, 0.5, 1.0), moments=moments)
        print(task, "intruders\n", scaling.summary().round(3).to_string(), flush=True)
        said = scaling.frame.groupby("scale")[["task_kept", "general_change"]].mean()
        ways = {"whole": plain}
        for scale in (0.0, 0.5):
            ways[f"intruders x {scale:g}"] = scale_intruders(plain, base, scale)
            ways[f"all scaled as much ({scale:g})"] = merge_adapters([plain], [float(said.task_kept[scale])])
        for way, adapter in ways.items():
            with apply_to(adapter, model, head=False):
                loss, after = loss_of(model, dev), vectors(model, general)
            moved = ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()
            rows.append({"task": task, "way": way, "loss": loss, "own": own, "none": none,
                         "kept": (none - loss) / (none - own), "moved": moved})  # fmt: skip
        table = pd.DataFrame(rows)
        table.round(5).to_csv(chosen.out, index=False)
        print(table[table.task == task].round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
