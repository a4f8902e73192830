"""How often a shared initialization is found, and how often one is claimed that is none.

    python benchmarks/shared_initialization.py [--ranks 1 2]      # all ranks by default; the other rows stay

LoRA is fitted by Adam to a low-rank change of a linear map, with inputs of a power-law covariance: six runs of one task
from initializations of their own, and four pairs of runs that share theirs, each on a task of its own. Ranks 1 to 16 x
widths 64 to 768 x five learning rates, 24 modules a run; judged from all modules and from one alone. The six runs are
also given as an SVD of their update splits them. benchmarks/results/shared_initialization.csv has one row a setting:

drift (median over modules), found, untold_shared and denied (share of pair x module that share and are marked, of which
nothing is told, and that are told "no"), false and untold (marked and not told among those that do not share),
false_pairs (share of independent pairs in one group), false_svd (marks among the files that an SVD split).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis import Adapter, shared_initialization

RANKS, WIDTHS, RATES = (1, 2, 4, 8, 16), (64, 256, 768), (0.008, 0.04, 0.08, 0.12, 0.2)
MODULES, OUTPUTS, STEPS = 24, 16, 100


def trained(start: Tensor, change: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Factors (runs, modules, rank, d) and (runs, modules, outputs, rank) after Adam."""
    runs, modules, rank, size = start.shape
    spread = torch.arange(1, size + 1) ** -0.5
    A = start.clone().requires_grad_()
    B = torch.zeros(runs, modules, OUTPUTS, rank, requires_grad=True)
    step = torch.optim.Adam([{"params": [A], "lr": rate / size**0.5 / 10}, {"params": [B], "lr": rate / 10}])
    for _ in range(STEPS):
        left = (B @ A - change) * spread
        step.zero_grad()
        left.square().sum().backward()
        step.step()
    return A.detach(), B.detach()


def tasks(count: int, size: int, generator: torch.Generator) -> Tensor:
    outputs = torch.randn(count, MODULES, OUTPUTS, 4, generator=generator)
    return outputs @ torch.randn(count, MODULES, 4, size, generator=generator) / size**0.5


def adapters(A: Tensor, B: Tensor, modules: int, *, split: bool = False) -> list[Adapter]:
    found = []
    for run in range(len(A)):
        factors = {}
        for module in range(modules):
            pair = A[run, module], B[run, module]
            if split:
                U, S, Vh = torch.linalg.svd(pair[1] @ pair[0], full_matrices=False)
                rank = len(pair[0])
                pair = (Vh[:rank] * S[:rank, None].sqrt(), U[:, :rank] * S[:rank].sqrt())
            factors[f"layers.{module}.q_proj"] = pair
        found.append(Adapter.from_factors(factors, name=str(run), metadata={"init_lora_weights": True}))
    return found


def shares(runs: list[Adapter], together: np.ndarray) -> dict[str, float]:
    result = shared_initialization(runs)
    first, second = np.triu_indices(len(runs), 1)
    marks = np.stack([mark[first, second] for mark in result.marks.values()]) if result.marks else np.full((1, 1), -1)
    marks = np.broadcast_to(marks, (len(marks), len(first)))
    related = together[first, second]
    linked = np.zeros(len(first), dtype=bool)
    for group in result.groups:
        members = [int(name) for name in group]
        linked |= np.isin(first, members) & np.isin(second, members)
    return {
        "found": float((marks[:, related] == 1).mean()) if related.any() else np.nan,
        "untold_shared": float((marks[:, related] == -1).mean()) if related.any() else np.nan,
        "denied": float((marks[:, related] == 0).mean()) if related.any() else np.nan,
        "false": float((marks[:, ~related] == 1).mean()),
        "untold": float((marks[:, ~related] == -1).mean()),
        "false_pairs": float(linked[~related].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    ranks = parser.parse_args().ranks
    torch.set_num_threads(1)
    rows = []
    together = np.eye(14, dtype=bool)
    for at in range(6, 14, 2):
        together[at, at + 1] = together[at + 1, at] = True
    for rank in ranks:
        for size in WIDTHS:
            for rate in RATES:
                generator = torch.Generator().manual_seed(rank * 10_000 + size)
                start = (2 * torch.rand(14, MODULES, rank, size, generator=generator) - 1) / size**0.5
                start[7::2] = start[6::2]
                start[:6] = (2 * torch.rand(6, MODULES, rank, size, generator=generator) - 1) / size**0.5
                change = torch.cat([tasks(1, size, generator).expand(6, -1, -1, -1), tasks(8, size, generator)])
                A, B = trained(start, change, rate)
                drift = ((A - start).norm(dim=(2, 3)) / start.norm(dim=(2, 3))).median().item()
                for modules in (MODULES, 1):
                    split = shares(adapters(A[:6], B[:6], modules, split=True), np.eye(6, dtype=bool))
                    facts = {"rank": rank, "width": size, "drift": drift, "modules": modules}
                    found = shares(adapters(A, B, modules), together)
                    rows.append(facts | found | {"false_svd": split["false"]})
                    print(*(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
    file = Path(__file__).parent / "results" / "shared_initialization.csv"
    kept = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=list(rows[0]))
    table = pd.concat([kept[~kept["rank"].isin(ranks)], pd.DataFrame(rows)])[list(rows[0])]
    table.sort_values(["rank", "width"], kind="stable").to_csv(file, index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
