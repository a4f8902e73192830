"""What `asym doctor` rests on when it has a base and texts: response and intruders beside the change of general texts.

python benchmarks/minilm/doctor.py --general TEXTS.txt --out benchmarks/results/minilm_doctor.csv

The shipped adapters and random ones, each at three sizes. `moved`: mean relative change of the sentence vectors of
general texts, measured with the adapter in the encoder. `response`: median over the modules of the relative change of
their outputs, from moments; `intruders`: share of the modules whose leading directions hold more than 5 % of their
energy in intruders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from repair import vectors
from tasks import batches_of, network

from asym_analysis import (
    Adapter,
    examine,
    input_covariances,
    intruder_dimensions,
    merge_adapters,
    null_space_energy,
    sample_adapters,
)
from asym_analysis.adapters.applied import apply_to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--general", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.2, 0.05])
    chosen = parser.parse_args()
    lines = [line for line in chosen.general.read_text(encoding="utf-8").splitlines() if len(line) > 20]
    rows = [{"text": line, "text_pair": None, "label": 0} for line in lines[:96]]
    model, measured = network("SST-2"), batches_of(rows[:24], max_length=40)
    runs = [run.without_extras() for run in sample_adapters()]
    modules, draw = list(runs[0]), torch.Generator().manual_seed(0)
    for number in range(3):
        pairs = {
            m: (torch.randn(8, 384, generator=draw) / 384**0.5, 0.1 * torch.randn(384, 8, generator=draw))
            for m in modules
        }
        runs.append(Adapter.from_factors(pairs, name=f"random {number}"))
    moments = input_covariances(model, batches_of(rows, max_length=64), modules)
    base = {f"{m}.weight": dict(model.named_parameters())[f"{m}.weight"].detach().clone() for m in modules}
    before, found = vectors(model, measured), []
    for run in runs:
        for scale in chosen.scales:
            part = merge_adapters([run], [scale], name=run.name)
            with apply_to(part, model, head=False):
                after = vectors(model, measured)
            energy = null_space_energy(part, moments, base=base).frame
            intruders = intruder_dimensions(part, base).modules
            findings = examine(part, base=base, moments=moments).frame
            found.append(
                {
                    "adapter": run.name, "scale": scale,
                    "moved": ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item(),
                    "response": energy["response"].median(), "energy": energy["update_energy"].median(),
                    "intruders": (intruders["energy_share"] > 0.05).mean(),
                    "risks": int((findings["severity"] == "risk").sum()),
                }
            )  # fmt: skip
            print(found[-1], flush=True)
    pd.DataFrame(found).round(4).to_csv(chosen.out, index=False)


if __name__ == "__main__":
    main()
