"""Does training only B tighten the bound? A site where samples are independent and the true risk is known.

    python benchmarks/sst2/decide.py --data glue/SST-2 --out results/decide

The finite pool of SST-2's 67,349 training phrases is the population: samples are drawn from it with replacement, so
that they are independent, and the true risk is the error over the whole pool. Adapters sit on all six maps of MiniLM's
last layer, read at the first token; what the layers below give is computed once. (`--layers 2`: on the twelve maps of
the last two layers, at four times the cost.) The classifier's head is fixed beforehand: trained once on 100 other
draws, the same for all arms. With so weak a head an adapter has something to gain: at 2,000 draws no arm's certificate
was below that without an adapter. Samples and seeds are paired across the arms.

Arms: no adapter; B at rank 4; A at rank 4; both at rank 4; both at rank 2 and B at rank 8 (about equal numbers); both
at rank 4 begun from B's posterior. A run leaves its posterior and its row in files of their own, so that the command
can be resumed, and a row can be measured anew without training (delete the .json); decide.csv holds all rows and
decision.csv the paired differences.

What to expect: a posterior for both may leave A at its prior, so that no form of the bound can favour B by more than
the price of one scale, about 6 nats. B is favoured only if the paired interval of (B - both) lies below zero after this
price was added, at equal rank and at equal numbers, for two of the three sample sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from decision import tables
from measured import DRAWS, Population, held_out, measured
from phrases import BATCH, Pool, Top, first_factors, fixed_head

from asym_analysis import Adapter, fit_posterior
from asym_analysis.atomic import replacing
from asym_analysis.bounds import GaussianPosterior, fitted_posterior
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.risk import chernoff_risk
from asym_analysis.bounds.trained import with_tensors
from asym_analysis.results import plain

SIZES = (2_000, 16_000, 67_000)
EPOCHS, RATE = {2_000: 10.0, 16_000: 3.0, 67_000: 0.75}, {2_000: 2.0, 16_000: 4.0, 67_000: 6.0}
STEP, WEIGHT, HOLD_OUT_WEIGHT = {2_000: 128}, 2.0, 0.1  # phrases of a step; weights of KL/n
PRIOR = {"B": {"B": 2**-3.5}, "A": {"A": 2**-2.5}, "both": {"B": 2**-3.5, "A": 2**-5}}  # standard deviations
HEAD_DRAWS = 100


@dataclass(frozen=True)
class Arm:
    """Trained factors, rank, and whether training begins at B's posterior."""

    name: str
    tuned: str
    rank: int
    from_b: bool = False


ARMS = (
    Arm("B r4", "B", 4), Arm("A r4", "A", 4), Arm("both r4", "both", 4), Arm("both r2", "both", 2),
    Arm("B r8", "B", 8), Arm("both r4 from B", "both", 4, from_b=True),
)  # fmt: skip


def start(top: Top, arm: Arm, seed: int) -> Adapter:
    """An adapter before training, which records itself as its initialization."""
    factors = first_factors(top, arm.rank, arm.tuned, seed)
    return Adapter.from_factors(factors, name=arm.name, initial=Adapter.from_factors(factors, name="start"))


@dataclass(frozen=True)
class Cell:
    """One sample: its phrases in the pool, and all arms on it."""

    population: Population
    out: Path
    n: int
    seed: int
    epochs: float
    draws: int

    @property
    def sample(self) -> np.ndarray:
        """Phrases, drawn from the pool with replacement."""
        generator = generator_for(self.seed, "sample", self.n)
        return torch.randint(0, len(self.population), (self.n,), generator=generator).numpy()

    def run(self, length: float) -> None:
        """Train and measure all arms, or three of them for a check of the length; finished ones are left alone."""
        if length == 1:
            self._once("none", self._without_adapter)
        for arm in ARMS if length == 1 else ARMS[:3]:
            name = arm.name if length == 1 else f"{arm.name}, {length:g} times as long"
            self._once(name, partial(self._row, arm, name, length))

    def hold_out(self) -> None:
        """The plain alternative of every arm: train on one half of the sample, certify on the other."""
        for arm in ARMS:
            if not arm.from_b:
                self._once(arm.name, partial(self._hold_out_row, arm), "hold-out")

    def _once(self, name: str, row: Callable[[], dict[str, object]], kind: str = "") -> None:
        file = self._file(f"{name} {kind}".strip(), ".json")
        if file.exists():
            return
        cpu = time.process_time()
        found = {"arm": name, "n": self.n, "seed": self.seed, **row(), "cpu_seconds": time.process_time() - cpu}
        with replacing(file) as part:
            part.write_text(json.dumps(plain(found), indent=1))
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}, flush=True)

    def _without_adapter(self) -> dict[str, object]:
        wrong = self.population.margins <= 0
        error = float(wrong[self.sample].mean())
        risk = chernoff_risk(error, 0.0, self.n)
        return {"kl": 0.0, "risk": risk, "centre_error": error, "centre_true": float(wrong.mean())}

    def _row(self, arm: Arm, name: str, length: float) -> dict[str, object]:
        posterior = self._posterior(arm, name, length)
        return {
            "epochs": self._epochs(arm, length), "kl": posterior.kl,
            "entries": sum(centre.numel() for centre in posterior.centre.values()),
            **measured(self.population, posterior, self.sample, self.seed, self.draws),
        }  # fmt: skip

    def _hold_out_row(self, arm: Arm) -> dict[str, object]:
        """As many steps as the arm's posterior has, on the first half of the sample."""
        adapter, half = start(self.population.top, arm, self.seed), self.n // 2
        epochs = self._epochs(arm, 1.0) * self.n / half
        found = self._fit(adapter, arm, self.sample[:half], epochs, HOLD_OUT_WEIGHT, None)
        return dict(held_out(self.population, found.adapter, self.sample[half:]))

    def _posterior(self, arm: Arm, name: str, length: float) -> GaussianPosterior:
        """The trained posterior, or the one that is stored."""
        adapter, file = start(self.population.top, arm, self.seed), self._file(name, ".pt")
        if not file.exists():
            begin = self._posterior(ARMS[0], ARMS[0].name, 1.0) if arm.from_b else None
            found = self._fit(adapter, arm, self.sample, self._epochs(arm, length), WEIGHT, begin)
            with replacing(file) as part:
                torch.save({"centre": dict(found.centre), "stds": dict(found.stds)}, part)
        held = torch.load(file, weights_only=True)
        return fitted_posterior(with_tensors(adapter, held["centre"]), held["stds"], arm.tuned, scales="group")

    def _fit(
        self, adapter: Adapter, arm: Arm, chosen: np.ndarray, epochs: float, weight: float,
        begin: GaussianPosterior | None,
    ) -> GaussianPosterior:  # fmt: skip
        """One posterior. Rate and scales were tuned on draws of their own, seed "tuning"."""
        rows = [self.population.rows[i] for i in chosen]
        return fit_posterior(
            adapter, self.population.top, rows, tuned=arm.tuned, epochs=epochs, batch_size=STEP.get(self.n, BATCH),
            weights=(weight,), rate=RATE.get(self.n, 4.0), seed=self.seed, select=weight == WEIGHT,
            prior_std=None if begin else PRIOR[arm.tuned], begin=begin,
        )  # fmt: skip

    def _epochs(self, arm: Arm, length: float) -> float:
        return self.epochs * length * (0.5 if arm.from_b else 1.0)

    def _file(self, name: str, ending: str) -> Path:
        words = name.replace(",", "").replace(" ", "-")
        return self.out / f"{words}-n{self.n}-seed{self.seed}{ending}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv of SST-2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None, help="folder of the layers below, by default --out")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=1, help="last layers with adapters")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*SIZES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--epochs", type=float, default=None, help="by default those of the size")
    parser.add_argument("--length", type=float, default=1.0, help="a check: three arms, trained so many times as long")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of the Gibbs posterior, for a certificate")
    parser.add_argument("--head-draws", type=int, default=HEAD_DRAWS)
    parser.add_argument("--pool", type=int, default=None, help="only so many phrases, for a trial")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pool = Pool(options.data, options.cache or options.out, options.pool, options.layers)
    torch.manual_seed(0)
    top = Top(pool.base, options.layers).eval()
    fixed_head(top, pool, options.head_draws)
    population = Population(pool, top, options.out)
    cells = [
        Cell(population, options.out, n, seed, options.epochs or EPOCHS.get(n, 4.0), options.draws)
        for n in options.sizes
        for seed in options.seeds
    ]
    for cell in cells:
        cell.run(options.length)
        tables(options.out)
    for cell in cells if options.length == 1 else ():
        cell.hold_out()
        tables(options.out)
    print(tables(options.out).to_string(index=False))


if __name__ == "__main__":
    main()
