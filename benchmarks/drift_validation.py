"""Hold inferred movements against true ones, with the initialization and the scheme hidden.

    python benchmarks/drift_validation.py simulated
    python benchmarks/drift_validation.py trained FOLDER     # FOLDER of drift_trainings.py

`simulated`: 15 laws of the initial factor x 6 kinds of movement (even; of low rank; of equal steps; on a twentieth of
the inputs; shrinking; growing) x 11 shapes (ranks 1 to 64, widths 64 to 4096), each with a movement of .01 to 1.5, one
of three dtypes, and 6 modules (2 of the largest); PEFT's own law four times as often. Each adapter is given without any
record, and again with the record where PEFT has one. benchmarks/results/drift_simulated.csv has one row an adapter.

`trained`: the 60 runs of drift_trainings.py and the 13 samples, without any record and with PEFT's.
benchmarks/results/drift_trained.csv has one row a module.

Both print, by what is known: the modules, the share that is told, the share of the told within one and two stated
standard errors, the median error relative to the truth, the share of limits that hold, and the share of the modules of
*another* law that are named as PEFT's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, initialization_drift, sample_adapters

RESULTS = Path(__file__).parent / "results"
Draw = Callable[[int, int, np.random.Generator], np.ndarray]


def uniform(bound: Callable[[int, int], float]) -> Draw:
    return lambda rank, size, draw: draw.uniform(-1, 1, (rank, size)) * bound(rank, size)


def normal(scale: Callable[[int, int], float]) -> Draw:
    return lambda rank, size, draw: draw.standard_normal((rank, size)) * scale(rank, size)


def orthonormal(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(draw.standard_normal((size, rank)))[0].T


def peft_orthogonal(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    half = max(rank // 2, 1)
    rows = np.linalg.qr(draw.standard_normal((rank, rank)))[0][:half]
    return (draw.standard_normal((size, half)) @ rows).T / 10


def truncated(rank: int, size: int, draw: np.random.Generator) -> np.ndarray:
    values = draw.standard_normal((rank, size))
    while (abs(values) > 2).any():
        values = np.where(abs(values) > 2, draw.standard_normal((rank, size)), values)
    return 0.02 * values


STARTS: dict[str, Draw] = {
    "kaiming_uniform": uniform(lambda r, d: d**-0.5),
    "kaiming_uniform a=1": uniform(lambda r, d: (3 / d) ** 0.5),
    "kaiming_uniform a=0": uniform(lambda r, d: (6 / d) ** 0.5),
    "kaiming_uniform times sqrt(2)": uniform(lambda r, d: (2 / d) ** 0.5),
    "kaiming_uniform times 0.9": uniform(lambda r, d: 0.9 * d**-0.5),
    "xavier_uniform": uniform(lambda r, d: (6 / (r + d)) ** 0.5),
    "xavier_normal": normal(lambda r, d: (2 / (r + d)) ** 0.5),
    "kaiming_normal": normal(lambda r, d: (2 / d) ** 0.5),
    "normal 1/rank": normal(lambda r, d: 1 / r),
    "normal 1/sqrt(d)": normal(lambda r, d: d**-0.5),
    "normal 1/sqrt(3d)": normal(lambda r, d: (3 * d) ** -0.5),
    "normal 0.02": normal(lambda r, d: 0.02),
    "truncated_normal 0.02": truncated,
    "orthonormal": orthonormal,
    "peft_orthogonal": peft_orthogonal,
}
RECORDS = {"kaiming_uniform": True, "normal 1/rank": "gaussian", "peft_orthogonal": "orthogonal"}
KINDS = ("even", "low rank", "equal steps", "sparse", "shrinking", "growing")
SHAPES = (
    *((1, 256), (1, 4096), (2, 768), (4, 64), (4, 768), (8, 256)),
    *((8, 768), (16, 1024), (16, 4096), (64, 768), (64, 4096)),
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def moved(start: np.ndarray, share: float, kind: str, draw: np.random.Generator) -> np.ndarray:
    """The factor after a movement of exactly `share` of its length."""
    rank, size = start.shape
    noise, along = draw.standard_normal(start.shape), draw.uniform(-0.2, 0.2)
    if kind == "low rank":
        noise = draw.standard_normal((rank, 1)) * draw.standard_normal(size) + 0.1 * noise
    elif kind == "equal steps":
        noise = np.sign(noise) * (1 + 0.1 * draw.standard_normal(start.shape))
    elif kind == "sparse":
        noise = noise * np.where(draw.random(size) < 0.05, 1, 0.02)
    elif kind in ("shrinking", "growing"):
        along = -0.98 if kind == "shrinking" else 0.98
    noise -= (noise * start).sum() / (start**2).sum() * start
    noise *= np.linalg.norm(start) / np.linalg.norm(noise)
    return start + share * (along * start + math.sqrt(1 - along**2) * noise)


def designs(draw: np.random.Generator) -> Iterator[tuple[str, str, int, int, float, torch.dtype]]:
    for name in STARTS:
        for kind in KINDS:
            for rank, size in SHAPES:
                for _ in range(4 if name == "kaiming_uniform" else 1):
                    share = math.exp(draw.uniform(math.log(0.01), math.log(1.5)))
                    if kind == "equal steps":  # nobody trains by steps as long as the factor itself
                        share = min(share, 0.6)
                    if kind == "shrinking":
                        share = min(share, 0.7)
                    yield name, kind, rank, size, share, DTYPES[draw.integers(3)]


def simulated(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    rows = []
    for name, kind, rank, size, share, dtype in designs(draw):
        factors = {}
        for module in range(6 if rank * size < 60_000 else 2):
            A = torch.tensor(moved(STARTS[name](rank, size, draw), share, kind, draw)).to(dtype)
            B = torch.tensor(draw.standard_normal((48, 1)) * draw.standard_normal(rank)).to(dtype)
            factors[f"layers.{module}.q_proj"] = (A, B)
        for record in (None, RECORDS[name]) if name in RECORDS else (None,):
            metadata = {} if record is None else {"init_lora_weights": record}
            frame = initialization_drift(Adapter.from_factors(factors, metadata=metadata)).frame
            of_A = frame[frame.factor == "A"]
            scores = ((of_A.value - share) / of_A.std_error).dropna().abs()
            rows.append(
                {
                    "initialization": name,
                    "own": name == "kaiming_uniform",
                    "movement": kind,
                    "rank": rank,
                    "width": size,
                    "dtype": str(dtype).removeprefix("torch."),
                    "true": share,
                    "recorded": record is not None,
                    "modules": len(of_A),
                    "told": len(scores),
                    "within_1": int((scores < 1).sum()),
                    "within_2": int((scores < 2).sum()),
                    "median": of_A.value.median(),
                    "named": int((of_A.scheme == "kaiming_uniform").sum()),
                    "limits": int((of_A.value.isna() & of_A.upper.notna()).sum()),
                    "limits_hold": int((share <= of_A.upper)[of_A.value.isna() & of_A.upper.notna()].sum()),
                    "reason": of_A.reason.mode()[0],
                }
            )
    return pd.DataFrame(rows)


def trained(folder: Path) -> pd.DataFrame:
    """One row a module of every run, first with nothing recorded, then with PEFT's record."""
    runs: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = {}
    for file in sorted(folder.glob("*-*[!0-9]-[0-9].npz")):  # without those of benchmarks/lora_plus.py
        with np.load(file) as held:
            names = [key.removesuffix("/initial") for key in held if key.endswith("/initial")]
            runs[file.stem] = ({n: held[f"{n}/initial"] for n in names}, {n: held[f"{n}/trained"] for n in names})
    for run in sample_adapters():
        assert run.initial is not None
        runs[f"sample-{run.name}"] = ({n: run.initial[n].A.numpy() for n in run}, {n: run[n].A.numpy() for n in run})
    parts = []
    for name, (initial, final) in runs.items():
        for record in (False, True):
            B = torch.randn(48, 1) @ torch.ones(1, next(iter(final.values())).shape[0])
            hidden = Adapter.from_factors(
                {module: (torch.tensor(A), B) for module, A in final.items()},
                name=name,
                metadata={"init_lora_weights": True} if record else {},
            )
            frame = initialization_drift(hidden).frame.query("factor == 'A'")
            found = frame[
                ["adapter", "module", "value", "std_error", "upper", "correlation", "verdict", "reason"]
            ].copy()
            pairs = [(initial[module].astype(float), final[module].astype(float)) for module in found.module]
            found["recorded"] = record
            found["rank"], found["width"] = ([A.shape[axis] for A, _ in pairs] for axis in (0, 1))
            found["true"] = [np.linalg.norm(F - A) / np.linalg.norm(A) for A, F in pairs]
            found["true_edge"] = [(F * A).sum() / (A * A).sum() for A, F in pairs]
            parts.append(found)
    return pd.concat(parts, ignore_index=True)


def summed(table: pd.DataFrame) -> pd.Series:
    """Of the simulated table: one row an adapter."""
    others = table[~table.own]
    error = ((table["median"] - table.true).abs() / table.true)[table.told > 0]
    return pd.Series(
        {
            "modules": table.modules.sum(),
            "told": table.told.sum() / table.modules.sum(),
            "within_1": table.within_1.sum() / max(table.told.sum(), 1),
            "within_2": table.within_2.sum() / max(table.told.sum(), 1),
            "median_error": error.median(),
            "limits_hold": table.limits_hold.sum() / max(table.limits.sum(), 1),
            "wrongly_named": others.named.sum() / max(others.modules.sum(), 1) if len(others) else math.nan,
        }
    )


def summed_modules(table: pd.DataFrame) -> pd.Series:
    """Of the table of trained runs: one row a module."""
    known = table.dropna(subset=["value"])
    scores = ((known.value - known.true) / known.std_error).abs()
    limits = table[table.value.isna() & table.upper.notna()]
    return pd.Series(
        {
            "modules": len(table),
            "true_median": table.true.median(),
            "told": len(known) / len(table),
            "told_below_1.2": len(known[known.true < 1.2]) / max((table.true < 1.2).sum(), 1),
            "within_1": (scores < 1).mean(),
            "within_2": (scores < 2).mean(),
            "median_error": ((known.value - known.true).abs() / known.true).median(),
            "limits_hold": (limits.true <= limits.upper).mean(),
        }
    )


def say(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n{table.to_string(float_format='{:.3f}'.format)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("simulated", "trained"))
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.part == "simulated":
        table = simulated()
        table.to_csv(RESULTS / "drift_simulated.csv", index=False, float_format="%.4g")
        law = table.recorded.map({True: "recorded", False: "hidden"})
        say("by record", table.groupby(law).apply(summed, include_groups=False))
        own = table[table.initialization == "kaiming_uniform"]
        for column in ("movement", "rank", "width", "dtype"):
            say(f"PEFT's law, by {column}", own.groupby(column).apply(summed, include_groups=False))
        say(
            "nothing recorded, by law",
            table[~table.recorded].groupby("initialization").apply(summed, include_groups=False),
        )
        return
    table = trained(options.folder)
    table.to_csv(RESULTS / "drift_trained.csv", index=False, float_format="%.4g")
    kind = table.adapter.str.split("-").str[1].where(~table.adapter.str.startswith("sample"), "samples")
    say("by optimizer", table.groupby([table.recorded, kind]).apply(summed_modules, include_groups=False))
    runs = table[kind != "samples"]
    say("all trainings", runs.groupby("recorded").apply(summed_modules, include_groups=False))


if __name__ == "__main__":
    main()
