"""How often `examine` finds something in adapters that have nothing wrong: random factors of many shapes.

python benchmarks/doctor_false_alarms.py --repeats 40
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

from asym_analysis import Adapter, examine, sample_adapters

SHAPES = [(1, 64, 64), (2, 256, 128), (4, 48, 32), (8, 96, 64), (16, 64, 64), (8, 384, 384), (32, 512, 256)]


def healthy(seed: int, rank: int, d_in: int, d_out: int, modules: int = 6) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        f"layers.{i}.q_proj": (torch.randn(rank, d_in, generator=draw), 0.01 * torch.randn(d_out, rank, generator=draw))
        for i in range(modules)
    }
    return Adapter.from_factors(pairs, name=f"random {seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    chosen = parser.parse_args()
    rows = []
    for rank, d_in, d_out in SHAPES:
        for seed in range(chosen.repeats):
            run, other = healthy(2 * seed, rank, d_in, d_out), healthy(2 * seed + 1, rank, d_in, d_out)
            draw = torch.Generator().manual_seed(10_000 + seed)
            base = {f"{m}.weight": 3 * torch.randn(d_out, d_in, generator=draw) for m in run}
            turn = torch.linalg.qr(torch.randn(d_in, d_in, generator=draw))[0]
            moment = (turn * torch.arange(1, d_in + 1) ** -1.0) @ turn.mT
            found = examine(run, base=base, moments=dict.fromkeys(run, moment), siblings=[other]).frame
            rows.append({"rank": rank, "d_in": d_in, "d_out": d_out, "alarms": len(found)})
    table = pd.DataFrame(rows)
    summary = table.assign(any=table["alarms"] > 0).groupby(["rank", "d_in", "d_out"])["any"].agg(["mean", "size"])
    print(summary.to_string())
    print(f"random adapters with any finding: {(table['alarms'] > 0).mean():.1%} of {len(table)}")
    for adapter in sample_adapters():
        frame = examine(adapter).frame
        print(f"{adapter.name}: {'; '.join(frame['finding']) if len(frame) else 'nothing to say'}")


if __name__ == "__main__":
    main()
