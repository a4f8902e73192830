"""Does training only B tighten the bound? A site where samples are independent and the true risk is known.

    python benchmarks/sst2/decide.py --data glue/SST-2 --out results/decide

The finite pool of SST-2's 67,349 training phrases is the population: samples are drawn from it with replacement, so
that they are independent, and the true risk is the error over the whole pool. Adapters sit on all six maps of MiniLM's
last layer, or with `--layers 2` on the twelve of its last two, read at the first token; what the layers below give is
computed once. The classifier's head is fixed beforehand: trained once on 100 other
draws, the same for all arms. With so weak a head an adapter has something to gain: at 2,000 draws no arm's certificate
was below that without an adapter. Samples and seeds are paired across the arms.

Arms: no adapter; B at rank 4; A at rank 4; both at rank 4; both at rank 2 and B at rank 8 (about equal numbers); both
at rank 4 begun from B's posterior. A run leaves its posterior and its row in files of their own, so that the command
can be resumed, and a row can be measured anew without training (delete the .json); decide.csv holds all rows and
decision.csv the paired differences.

Many processes can share the work, with one --out:

    python benchmarks/sst2/decide.py ... --step prepare                            # the caches, once
    python benchmarks/sst2/decide.py ... --step tune --sizes 2000 --arms "B r4"    # nine of these: sizes by three arms
    python benchmarks/sst2/decide.py ... --sizes 2000 --seeds 0                    # fifteen of these: sizes by seeds
    python benchmarks/sst2/decide.py ... --step tables                             # once more at the end

`tune` trains an arm on draws of its own (seed 1000, which no sample of the experiment shares by more than chance) at
each factor of --rates, --priors and --lengths, and keeps a row for each in OUT/tuning. Where there are such rows, every
arm takes the factors of the lowest certificate among those of its trained factors and its size; else all are 1.

What to expect: a posterior for both may leave A at its prior, so that no form of the bound can favour B by more than
the price of one scale, about 6 nats. B is favoured only if the paired interval of (B - both) lies below zero after this
price was added, at equal rank and at equal numbers, for two of the three sample sizes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from decision import tables
from measured import DRAWS, Population, held_out, measured
from phrases import BATCH, Draws, Pool, Top, first_factors, fixed_head

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
TUNING_SEED, TUNING_DRAWS = 1_000, 400


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


@dataclass(frozen=True)
class Setting:
    """What tuning chooses, as factors of the values above."""

    rate: float = 1.0
    prior: float = 1.0
    length: float = 1.0


def settings(out: Path) -> dict[tuple[int, str], Setting]:
    """(Draws, trained factors) -> the setting of the lowest certificate among the rows of tuning."""
    rows = [json.loads(file.read_text()) for file in sorted((out / "tuning").glob("*.json"))]
    rows.sort(key=lambda row: -row["risk_at_mean"])
    return {(row["n"], row["tuned"]): Setting(row["rate"], row["prior"], row["length"]) for row in rows}


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
    chosen: Mapping[tuple[int, str], Setting]

    @property
    def sample(self) -> np.ndarray:
        """Phrases, drawn from the pool with replacement."""
        generator = generator_for(self.seed, "sample", self.n)
        return torch.randint(0, len(self.population), (self.n,), generator=generator).numpy()

    def run(self, length: float, arms: Sequence[Arm]) -> None:
        """Train and measure arms; finished ones are left alone."""
        if length == 1:
            self._once("none", self._without_adapter)
        for arm in arms:
            name = arm.name if length == 1 else f"{arm.name}, {length:g} times as long"
            self._once(name, partial(self._row, arm, name, length))

    def tune(self, arm: Arm, setting: Setting) -> None:
        """Measure an arm at one setting, and leave a row for `settings`."""
        cell = replace(self, chosen={(self.n, arm.tuned): setting})
        name = f"{arm.name} {setting.rate:g} {setting.prior:g} {setting.length:g}"
        self._once(name, lambda: {"tuned": arm.tuned, **vars(setting), **cell._row(arm, name, 1.0)})

    def hold_out(self, arms: Sequence[Arm]) -> None:
        """The plain alternative of every arm: train on one half of the sample, certify on the other."""
        for arm in arms:
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
        """One posterior. Rate and scales were tuned on draws of their own."""
        setting = self._setting(arm)
        prior = {factor: std * setting.prior for factor, std in PRIOR[arm.tuned].items()}
        return fit_posterior(
            adapter, self.population.top, Draws(self.population.pool, chosen), tuned=arm.tuned, epochs=epochs,
            batch_size=STEP.get(self.n, BATCH), weights=(weight,), rate=RATE.get(self.n, 4.0) * setting.rate,
            seed=self.seed, select=weight == WEIGHT, prior_std=None if begin else prior, begin=begin,
        )  # fmt: skip

    def _setting(self, arm: Arm) -> Setting:
        return self.chosen.get((self.n, arm.tuned), Setting())

    def _epochs(self, arm: Arm, length: float) -> float:
        return self.epochs * self._setting(arm).length * length * (0.5 if arm.from_b else 1.0)

    def _file(self, name: str, ending: str) -> Path:
        words = name.replace(",", "").replace(" ", "-")
        return self.out / f"{words}-n{self.n}-seed{self.seed}{ending}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv of SST-2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None, help="folder of the layers below, by default --out")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=1, help="last layers with adapters")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; random numbers are the host's on both")
    parser.add_argument("--step", choices=("all", "prepare", "tune", "tables"), default="all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*SIZES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, help="by default all, or three to tune and to check")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="tune: factors of the rate")
    parser.add_argument("--priors", type=float, nargs="+", default=[1.0], help="tune: factors of the prior's scales")
    parser.add_argument("--lengths", type=float, nargs="+", default=[1.0], help="tune: factors of the epochs")
    parser.add_argument("--epochs", type=float, default=None, help="by default those of the size")
    parser.add_argument("--length", type=float, default=1.0, help="a check: trained so many times as long")
    parser.add_argument("--draws", type=int, default=None, help="of the Gibbs posterior: 2,500, and 400 to tune")
    parser.add_argument("--head-draws", type=int, default=HEAD_DRAWS)
    parser.add_argument("--pool", type=int, default=None, help="only so many phrases, for a trial")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.step != "tables":
        compute(options)
    if options.step in ("all", "tables"):
        print(tables(options.out).to_string(index=False))


def compute(options: argparse.Namespace) -> None:
    """The caches, and what the step asks for."""
    torch.set_num_threads(1)
    pool = Pool(options.data, options.cache or options.out, options.pool, options.layers, options.device)
    torch.manual_seed(0)
    top = Top(pool.base, options.layers).to(pool.device).eval()
    fixed_head(top, pool, options.head_draws, options.out)
    population = Population(pool, top, options.out)
    whole = options.length == 1 and options.step == "all"
    arms = [arm for arm in ARMS if arm.name in options.arms] if options.arms else list(ARMS if whole else ARMS[:3])
    draws = options.draws or (TUNING_DRAWS if options.step == "tune" else DRAWS)

    def cell(n: int, seed: int, out: Path, chosen: Mapping[tuple[int, str], Setting]) -> Cell:
        return Cell(population, out, n, seed, options.epochs or EPOCHS.get(n, 4.0), draws, chosen)

    if options.step == "tune":
        grid = itertools.starmap(Setting, itertools.product(options.rates, options.priors, options.lengths))
        for setting, n, arm in itertools.product(grid, options.sizes, arms):
            cell(n, TUNING_SEED, options.out / "tuning", {}).tune(arm, setting)
    if options.step != "all":
        return
    chosen = settings(options.out)
    cells = [cell(n, seed, options.out, chosen) for n in options.sizes for seed in options.seeds]
    for one in cells:
        one.run(options.length, arms)
        tables(options.out)
    for one in cells if options.length == 1 else ():
        one.hold_out(arms)
        tables(options.out)


if __name__ == "__main__":
    main()
