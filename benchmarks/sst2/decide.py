"""Does training only B tighten the bound? A site where samples are independent and the true risk is known.

    python benchmarks/sst2/decide.py --data glue/SST-2 --out results/decide

The finite pool of SST-2's 67,349 training phrases is the population: samples are drawn from it with replacement, so
that they are independent, and the true risk is the error over the pool. The classifier's head is fixed beforehand:
trained once on 2,000 other draws, the same for all arms. Adapters sit on all twelve maps of MiniLM's last two layers;
what the layers below give is computed once. Samples and seeds are paired across the arms.

Arms: no adapter; B at rank 4; A at rank 4; both at rank 4; both at rank 2 and B at rank 8 (about equal numbers); both
at rank 4 begun from B's posterior. One JSON file a run, so that the command can be resumed or shared among processes;
decide.csv holds all rows and decision.csv the paired differences. About 6 core-hours as planned; only a trial on 60
phrases has been run so far (--pool 60 --sizes 32 --seeds 2 --epochs 1 --draws 4 --head-draws 48).

What to expect: a posterior for both may leave A at its prior, so that no form of the bound can favour B by more than
the price of one scale, about 6 nats. B is favoured only if the paired interval of (B - both) lies below zero after this
price was added, at equal rank and at equal numbers, for two of the three sample sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from features import base_model
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis import Adapter, certify, fit_posterior
from asym_analysis.atomic import replacing
from asym_analysis.bounds import GaussianPosterior, ModelLosses
from asym_analysis.bounds.energies import scale_price
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.risk import chernoff_risk, kl_inverse_risk
from asym_analysis.results import plain

MAPS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
BELOW = 4  # layers whose outputs are computed once
SEEDS = {2_000: 3, 16_000: 3, 67_000: 2}


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


class Top(torch.nn.Module):
    """MiniLM's last two layers, the mean over tokens, and the fixed head."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.layers = base.encoder.layer[BELOW:]
        self.head = torch.nn.Linear(base.config.hidden_size, 2)

    def pooled(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the token outputs."""
        hidden, mask = hidden.float(), attention_mask.bool()
        for layer in self.layers:
            out = layer(hidden, attention_mask=mask[:, None, None, :])
            hidden = out if isinstance(out, Tensor) else out[0]
        weights = mask[..., None].float()
        return (hidden * weights).sum(1) / weights.sum(1)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits of a batch."""
        return SimpleNamespace(logits=self.head(self.pooled(hidden, attention_mask)))


class Pool:
    """Every phrase as the fixed layers leave it, with its label."""

    def __init__(self, data: Path, cache: Path, most: int | None) -> None:
        self.base, tokenizer = base_model()
        stored = cache / f"decide-hidden-{most or 'all'}.pt"
        if not stored.exists():
            frame = pd.read_csv(data / "train.tsv", sep="\t", quoting=3)[:most]
            with replacing(stored) as part:
                torch.save(self._compute(frame, tokenizer), part)
        held = torch.load(stored, weights_only=True, mmap=True)
        self.hidden, self.starts, self.labels = held["hidden"], held["starts"], held["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, chosen: np.ndarray) -> list[dict[str, Tensor]]:
        """One batch a phrase, as `fit_posterior` and `certify` take them."""
        found = []
        for index in chosen.tolist():
            hidden = self.hidden[self.starts[index] : self.starts[index + 1]][None]
            mask = torch.ones(hidden.shape[:2], dtype=torch.long)
            found.append({"hidden": hidden, "attention_mask": mask, "labels": self.labels[index : index + 1]})
        return found

    @torch.no_grad()
    def _compute(self, frame: pd.DataFrame, tokenizer: object) -> dict[str, Tensor]:
        texts = frame["sentence"].astype(str).tolist()
        parts: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in tqdm(range(0, len(texts), 128), desc="layers below"):
            batch = order[start : start + 128]
            inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
            hidden = self.base(**inputs, output_hidden_states=True).hidden_states[BELOW].half()
            for row, i in enumerate(batch):
                parts[i] = hidden[row, : int(inputs["attention_mask"][row].sum())].clone()
        lengths = torch.tensor([0, *(len(parts[i]) for i in range(len(texts)))])
        return {
            "hidden": torch.cat([parts[i] for i in range(len(texts))]),
            "starts": lengths.cumsum(0),
            "labels": torch.tensor(frame["label"].to_numpy()),
        }


def fixed_head(top: Top, pool: Pool, draws: int) -> None:
    """Logistic regression on draws of their own, which no arm's sample shares by more than chance."""
    chosen = torch.randint(0, len(pool), (draws,), generator=generator_for(0, "head")).numpy()
    losses = ModelLosses(Adapter.from_factors(_factors(top, 1, "B", 0)), top, pool.batches(chosen))
    with torch.no_grad():
        parts = [losses.batch(part) for part in np.array_split(np.arange(draws), max(1, draws // 128))]
        x = torch.cat([top.pooled(**inputs) for inputs, _ in parts])
        y = torch.cat([labels for _, labels in parts])
    optimizer = torch.optim.LBFGS(top.head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(top.head(x), y) + 1e-3 * top.head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    top.requires_grad_(False)


def _factors(top: Top, rank: int, tuned: str, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors before training: rows or columns orthonormal from the seed, the other factor zero."""
    generator, found = generator_for(seed, "initialization"), {}
    for layer in range(len(top.layers)):
        for name in MAPS:
            d_out, d_in = top.get_submodule(f"layers.{layer}.{name}").weight.shape
            A = torch.linalg.qr(torch.randn(d_in, rank, generator=generator))[0].mT.contiguous()
            B = torch.linalg.qr(torch.randn(d_out, rank, generator=generator))[0].contiguous()
            pair = (torch.zeros_like(A), B) if tuned == "A" else (A, torch.zeros_like(B))
            found[f"layers.{layer}.{name}"] = pair
    return found


def start(top: Top, arm: Arm, seed: int) -> Adapter:
    """An adapter before training, which records itself as its initialization."""
    factors = _factors(top, arm.rank, arm.tuned, seed)
    return Adapter.from_factors(factors, name=arm.name, initial=Adapter.from_factors(factors, name="start"))


def kl_parts(posterior: GaussianPosterior) -> dict[str, float]:
    """KL by factor: what the means cost, what the noise costs, and the price of the scales."""
    found: dict[str, float] = {}
    for factor in "AB":
        keys = [key for key in posterior.centre if key[1] == factor]
        means = scales = 0.0
        for key in keys:
            prior = posterior.prior_stds[key]
            ratio = (torch.as_tensor(posterior.stds[key]).double() / prior).square().expand(posterior.centre[key].shape)
            means += ((posterior.centre[key] - posterior.prior_centre[key]).double() / prior).square().sum().item() / 2
            scales += (0.5 * (ratio - 1 - ratio.log())).sum().item()
        prices = sum(scale_price(s) for s in {posterior.prior_stds[key] for key in keys})
        found |= {f"{factor}_means": means, f"{factor}_scales": scales, f"{factor}_price": prices}
    return found


def true_risks(losses: ModelLosses, posterior: GaussianPosterior, draws: int) -> dict[str, float]:
    """Errors over the whole pool: of the centre, and of the Gibbs posterior by a draw for each block."""
    generator = generator_for(0, "true risk")
    blocks = np.array_split(np.random.default_rng(0).permutation(len(losses)), min(draws, len(losses)))
    total = sum(losses.evaluate_some(posterior.draw(generator), block).sum() for block in blocks)
    return {"centre_true": float(losses.evaluate(posterior.adapter).mean()), "gibbs_true": float(total / len(losses))}


def run(pool: Pool, top: Top, n: int, seed: int, epochs: float, draws: int | None, out: Path) -> None:
    """All arms on one sample; each finished arm is one file."""
    chosen = torch.randint(0, len(pool), (n,), generator=generator_for(seed, "sample", n)).numpy()
    sample, everything = pool.batches(chosen), pool.batches(np.arange(len(pool)))
    file = out / f"none-n{n}-seed{seed}.json"
    if not file.exists():
        zero = Adapter.from_factors(_factors(top, 1, "B", seed))
        error = float(ModelLosses(zero, top, sample, batch_size=256).evaluate(zero).mean())
        true = float(ModelLosses(zero, top, everything, batch_size=256).evaluate(zero).mean())
        row = {"centre_error": error, "risk": chernoff_risk(error, 0.0, n), "centre_true": true, "kl": 0.0}
        _write(file, {"arm": "none", "n": n, "seed": seed, **row})
    solved: dict[str, GaussianPosterior] = {}
    for arm in ARMS:
        file, before = out / f"{arm.name.replace(' ', '-')}-n{n}-seed{seed}.json", time.time()
        needed = arm.name == "B r4" and not (out / f"both-r4-from-B-n{n}-seed{seed}.json").exists()
        if file.exists() and not needed:
            continue
        adapter = start(top, arm, seed)
        if arm.from_b:
            adapter = Adapter(
                {m: solved["B r4"].adapter.source(m) for m in adapter}, name=arm.name, initial=adapter.initial
            )
        posterior = fit_posterior(
            adapter, top, sample, tuned=arm.tuned, epochs=epochs, batch_size=128, weights=(1.0,), rate=0.05, seed=seed
        )
        solved[arm.name] = posterior
        report = certify(
            adapter,
            model=top,
            data=sample,
            tuned=arm.tuned,
            posterior=posterior,
            methods=("gaussian",),
            draws=draws,
            seed=seed,
        )
        best = report.best()
        losses = ModelLosses(adapter, top, everything, batch_size=256)
        half = ModelLosses(adapter, top, sample[n // 2 :], batch_size=256)
        first = fit_posterior(
            adapter, top, sample[: n // 2], tuned=arm.tuned, epochs=epochs, batch_size=128, weights=(0.1,), rate=0.05,
            seed=seed, select=False,
        )  # fmt: skip
        held = float(half.evaluate(first.adapter).mean())
        row = {
            "arm": arm.name, "n": n, "seed": seed, "kl": posterior.kl, "risk": None if best is None else best.risk,
            "gibbs_error_at_most": None if best is None else best.empirical_risk,
            "centre_error": float(ModelLosses(adapter, top, sample, batch_size=256).evaluate(posterior.adapter).mean()),
            **true_risks(losses, posterior, draws or 200), **kl_parts(posterior),
            "hold_out": chernoff_risk(held, 0.0, n - n // 2), "hold_out_error": held, "seconds": time.time() - before,
        }  # fmt: skip
        _write(file, row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the certificates, B - both, with 95 % intervals, before and after one scale's price."""
    rows = []
    pairs = (
        ("equal rank", "B r4", "both r4"),
        ("equal numbers", "B r4", "both r2"),
        ("equal numbers, r8", "B r8", "both r4"),
    )
    for (n,), part in table.groupby(["n"]):
        risks = part.pivot_table(index="seed", columns="arm", values=["risk", "gibbs_error_at_most", "kl"])
        for name, first, second in pairs:
            if first not in risks["risk"] or second not in risks["risk"]:
                continue
            both = risks["risk"][second].to_numpy()
            # What one price of 6 nats less would give the larger posterior.
            cheaper = np.array(
                [
                    kl_inverse_risk(e, max(k - 6.0, 0.0), int(n), 0.95)
                    for e, k in zip(risks["gibbs_error_at_most"][second], risks["kl"][second], strict=True)
                ]
            )
            price = np.maximum(both - cheaper, 0.0)
            apart = risks["risk"][first].to_numpy() - both
            for charged, values in (("as certified", apart), ("after one scale's price", apart + price)):
                count = len(values)
                width = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
                mean = float(values.mean())
                rows.append(
                    {
                        "n": n, "compared": name, "first": first, "second": second, "price": charged, "seeds": count,
                        "difference": mean, "low": mean - width, "high": mean + width, "favours_B": mean + width < 0,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _write(file: Path, row: dict[str, object]) -> None:
    with replacing(file) as part:
        part.write_text(json.dumps(plain(row), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv of SST-2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[*SEEDS])
    parser.add_argument("--seeds", type=int, default=None, help="of each size; by default 3, 3 and 2")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument(
        "--draws", type=int, default=None, help="of the Gibbs posterior; by default to a margin of .005"
    )
    parser.add_argument("--head-draws", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=None, help="only so many phrases, for a trial")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pool = Pool(chosen.data, chosen.out, chosen.pool)
    torch.manual_seed(0)
    top = Top(pool.base).eval()
    fixed_head(top, pool, chosen.head_draws)
    for n in chosen.sizes:
        for seed in range(chosen.seeds or SEEDS.get(n, 3)):
            run(pool, top, n, seed, chosen.epochs, chosen.draws, chosen.out)
            table = pd.DataFrame([json.loads(f.read_text()) for f in sorted(chosen.out.glob("*-n*-seed*.json"))])
            for name, frame in (("decide", table), ("decision", decide(table))):
                with replacing(chosen.out / f"{name}.csv") as part:
                    frame.to_csv(part, index=False)
    print(decide(table).to_string(index=False))


if __name__ == "__main__":
    main()
