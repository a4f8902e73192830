"""Certificates on SST-2: MiniLM with B only, A only, or both trained, on all 67,349 sentences.

    python benchmarks/sst2/run.py --data glue/SST-2 --out results/sst2

One resumable command: each finished run is one JSON file under --out; what is there already is not run again.
`certificates.csv` is the table.

The adapter sits on encoder.layer.5.output.dense, with a linear classifier on the mean of the token outputs; all else is
frozen. Seeds draw the frozen (or first) factor. The learning rate and the prior's scale are tuned for each way of
training on seed 0. For the rate the bounds pay nothing, because they hold for every posterior at once; the scale's
price is in the certificate. A data-dependent prior is charged for the nine settings it could have had.

What the certificates assume and SST-2 does not quite give: its training "sentences" are phrases, many of them cut from
one review, so that they are not independent; the development set holds whole sentences, whose law is another one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from features import MODULE, base_model, load_features
from model import Classifier, Setting, start, tensors_of, train
from torch import Tensor

from asym_analysis import Adapter, certify
from asym_analysis.atomic import replacing
from asym_analysis.bounds import fitted_posterior
from asym_analysis.bounds.risk import kl_inverse_risk
from asym_analysis.results import plain

RATES = (1e-3, 3e-3, 1e-2)


class Study:
    """Features, split and results folder."""

    def __init__(self, data: Path, out: Path) -> None:
        self.out = out
        model, _ = base_model()
        norm = model.get_submodule(MODULE.replace("dense", "LayerNorm"))
        weights = norm.weight.detach(), norm.bias.detach()
        self.train = Classifier(load_features(data, out, "train"), weights)
        self.dev = Classifier(load_features(data, out, "dev"), weights)
        self.order = torch.randperm(len(self.train.features), generator=torch.Generator().manual_seed(7))
        self._projected: tuple[tuple[int, int], Tensor] | None = None

    def projected(self, setting: Setting, begun: Adapter) -> Tensor | None:
        """inputs @ A^T of all tokens where A is frozen, kept for the next run of the same seed and rank."""
        if setting.tuned != "B":
            return None
        key = (setting.rank, setting.seed)
        if self._projected is None or self._projected[0] != key:
            self._projected = key, self.train.project(tensors_of(begun)[MODULE, "A"])
        return self._projected[1]

    def tuned(self, tuned: str, rank: int, epochs: float) -> Setting:
        """The setting with the lowest certificate on seed 0: first the learning rate, then the prior's scale.

        Half an epoch each; the error is estimated on 8,000 sentences.
        """
        file = self.out / f"setting-{tuned}-rank{rank}.json"
        if not file.exists():
            tried: list[dict[str, float]] = []

            def best(field: str, values: tuple[float, ...], base: Setting) -> Setting:
                options = [replace(base, **{field: value}) for value in values]
                scores = [self._estimate(option) for option in options]
                tried.extend({field: value, "certificate": score} for value, score in zip(values, scores, strict=True))
                return options[int(np.argmin(scores))]

            setting = best("rate", RATES, Setting(tuned, rank, 0, RATES[0], 0.5))
            scales = {"B": ("b_std", (2.0**-5, 2.0**-4, 2.0**-3)), "A": ("a_std", (2.0**-7, 2.0**-6, 2.0**-5))}
            for factor in "AB" if tuned == "both" else tuned:
                setting = best(*scales[factor], setting)
            _write(file, {"setting": asdict(setting), "tried": tried})
        return replace(Setting(**json.loads(file.read_text())["setting"]), epochs=epochs)

    def _estimate(self, setting: Setting) -> float:
        begun = start(setting.rank, 0, setting.tuned)
        projected = self.projected(setting, begun)
        centre, stds = train(self.train, begun, setting, self.order, projected)
        posterior = fitted_posterior(centre.replaced(initial=begun), stds, setting.tuned)
        generator = torch.Generator().manual_seed(1)
        blocks = np.array_split(self.order[:8000].numpy(), 25)
        error = np.mean([self.train.losses(posterior.draw(generator), part, projected).mean() for part in blocks])
        return kl_inverse_risk(float(error), posterior.kl, len(self.order))

    def certificate(self, setting: Setting) -> list[dict[str, object]]:
        """Train on all sentences for the bound; certify the posterior, and the coded centre."""
        begun = start(setting.rank, setting.seed, setting.tuned)
        projected = self.projected(setting, begun)
        centre, stds = train(self.train, begun, setting, self.order, projected)
        posterior = fitted_posterior(centre.replaced(initial=begun), stds, setting.tuned)
        centre = posterior.adapter
        some = {"prior": None, "levels": (3,) if setting.seed == 0 else ()}
        return self._certify(setting, centre, begun, posterior, self.order.numpy(), projected, **some)

    def with_prior(self, setting: Setting) -> list[dict[str, object]]:
        """Train a prior on one half of the sentences, a posterior near it on the other half, and certify on that."""
        half = len(self.order) // 2
        begun = start(setting.rank, setting.seed, setting.tuned)
        projected = self.projected(setting, begun)
        prior, _ = train(self.train, begun, replace(setting, weight=0.5), self.order[:half], projected)
        near = replace(
            setting, b_std=2.0**-9, a_std=2.0**-9, head_std=2.0**-9, rate=setting.rate / 10, epochs=setting.epochs / 4
        )
        centre, stds = train(self.train, prior, near, self.order[half:], projected)
        posterior = fitted_posterior(centre, stds, setting.tuned, prior=prior)
        return self._certify(setting, centre, begun, posterior, self.order[half:].numpy(), projected, prior=prior)

    def _certify(
        self, setting, centre, begun, posterior, sentences, projected, *, prior=None, levels=()
    ) -> list[dict[str, object]]:  # fmt: skip
        rows = []
        known = Adapter(
            {name: centre.source(name) for name in centre}, name=centre.name, extras=centre.extras, initial=begun
        )

        def evaluate(adapter: Adapter) -> np.ndarray:
            return self.train.losses(adapter, sentences, projected)

        def evaluate_some(adapter: Adapter, which: np.ndarray) -> np.ndarray:
            return self.train.losses(adapter, sentences[which], projected)

        methods = ("coded", "gaussian") if levels else ("gaussian",)
        report = certify(
            known, evaluate, len(sentences), methods=methods, tuned=setting.tuned, levels=levels, posterior=posterior,
            prior=prior, evaluate_some=evaluate_some, draws=2000, seed=setting.seed, tried=1 if prior is None else 9,
        )  # fmt: skip
        dev = np.arange(len(self.dev.features))
        generator = torch.Generator().manual_seed(99)
        test = {
            "training_error": float(evaluate_some(centre, np.arange(20_000)).mean()),
            "test_error": float(self.dev.losses(centre, dev).mean()),
            "test_error_posterior": float(
                np.mean([self.dev.losses(posterior.draw(generator), dev).mean() for _ in range(20)])
            ),
        }
        for row in report.frame.to_dict(orient="records"):
            rows.append({**asdict(setting), **row, **test, "n": len(sentences)})
        return rows


def runs(ranks: list[int], seeds: list[int]) -> Iterator[tuple[str, int, int]]:
    for rank in ranks:
        for seed in seeds:
            for tuned in ("B", "A", "both"):
                yield tuned, rank, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv of SST-2")
    parser.add_argument("--out", type=Path, required=True, help="folder for features and results")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="may be split among processes")
    parser.add_argument("--epochs", type=float, default=1.0)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    study = Study(chosen.data, chosen.out)
    for tuned, rank, seed in runs(chosen.ranks, chosen.seeds):
        for name, run in (("plain", study.certificate), ("prior", study.with_prior)):
            file = chosen.out / f"run-{name}-{tuned}-rank{rank}-seed{seed}.json"
            if not file.exists():
                began = time.time()
                rows = run(replace(study.tuned(tuned, rank, chosen.epochs), seed=seed))
                _write(file, rows)
                best = min((r for r in rows if r["form"] == "kl-inverse"), key=lambda r: r["risk"])
                print(
                    f"{file.stem}: certified {best['risk']:.4f} ({best['rung']}, {best['nats']:.0f} nats), training "
                    f"{best['training_error']:.4f}, test {best['test_error']:.4f}; {time.time() - began:.0f} s",
                    flush=True,
                )
                table(chosen.out)


def table(out: Path) -> None:
    """All finished runs as one table."""
    rows = [row for file in sorted(out.glob("run-*.json")) for row in json.loads(file.read_text())]
    with replacing(out / "certificates.csv") as part:
        pd.DataFrame(rows).to_csv(part, index=False)


def _write(file: Path, value: object) -> None:
    with replacing(file) as part:
        part.write_text(json.dumps(plain(value), indent=1))


if __name__ == "__main__":
    main()
