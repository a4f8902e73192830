"""certify: from losses that are really measured, on the coded adapter and under the Gaussian posterior, to a risk."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds import risk
from asym_analysis.bounds.description import PLACEMENTS, encode_adapter, relative_error
from asym_analysis.bounds.posterior import GaussianPosterior, gaussian_posterior, with_start
from asym_analysis.bounds.report import BoundReport, BoundRow
from asym_analysis.bounds.trained import Tuned, as_tuned, regime_of, trained_tensors
from asym_analysis.results import versions

if TYPE_CHECKING:
    import os

__all__ = ["METHODS", "certify"]

METHODS = ("coded", "gaussian")
HEADLINE = "kl-inverse"

Evaluate = Callable[[Adapter], ArrayLike]
EvaluateSome = Callable[[Adapter, Int[np.ndarray, "some"]], ArrayLike]


def certify(
    checkpoint: Adapter | str | os.PathLike[str],
    evaluate: Evaluate,
    n_samples: int,
    *,
    methods: Collection[str] = METHODS,
    confidence: float = 0.95,
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    levels: Sequence[int] = (2, 3, 5, 9, 17),
    relative_noise: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    draws: int = 200,
    posterior: GaussianPosterior | None = None,
    prior: Adapter | None = None,
    evaluate_some: EvaluateSome | None = None,
    tried: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> BoundReport:
    """Certified risk of a checkpoint, quantized and perturbed, from its losses on the n training samples.

    The rows of form "kl-inverse" all hold together with probability 1 - delta, so that the best of them may be taken:
    delta is shared among the methods, one code covers every choice of levels, and one prior with its grid of scales
    every posterior. The other forms hold each alone, for comparison.

    Parameters
    ----------
    checkpoint
        An `Adapter`, or anything that `load_adapter` reads.
    evaluate
        Gives the losses of an adapter on the n samples: shape (n_samples,), each in [0, 1].
    n_samples
        Number of samples; with `prior`, of those that the prior has not seen.
    methods
        "coded": quantize, code, decode, evaluate. "gaussian": evaluate adapters drawn from a posterior.
    confidence
        1 - delta.
    tuned, include_head
        As in `compute_bound`. Leaving the head out certifies only for a head that was fixed beforehand.
    levels
        Numbers of levels to try; the message says which, so that the search is paid for.
    relative_noise
        Sizes of the noise to try, as shares of the update's norm; paid for by the price of the scales.
    draws
        Adapters drawn from each posterior.
    posterior
        A posterior trained for the bound, in place of `relative_noise`.
    prior
        An adapter trained on other samples than these n: the "data-dependent prior" rung. Messages then carry the
        difference from it, and the Gaussian prior is centred on it.
    evaluate_some
        Gives the losses on the samples with the given indices. With it, each of the `draws` adapters is evaluated on
        its own block of samples: one pass over the data in place of `draws` passes, at equal validity.
    tried
        How many codes or priors the data chose from: sets of modules, ranks, seeds of a frozen factor. Learning rates
        and checkpoints need no charge: the bounds hold for all adapters at once.
    seed
        Of the draws.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or `evaluate` gives other than n losses in [0, 1].

    Examples
    --------
    >>> A, B = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), torch.ones(4, 1)
    >>> adapter = Adapter.from_factors({"q": (A, B)})
    >>> report = certify(adapter, lambda adapter: np.zeros(5000), 5000, tuned="B", draws=10)
    >>> best = report.best()
    >>> best.rung, best.kind, best.risk < 0.02
    ('coded', 'certificate', True)
    """
    if not set(methods) <= set(METHODS) or not methods:
        raise ValueError(f"methods must be among {METHODS}, not {tuple(methods)}")
    if tried < 1 or draws < 1:
        raise ValueError("tried and draws must be at least 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if isinstance(checkpoint, Adapter):
        adapter = checkpoint
    else:
        from asym_analysis.adapters.load import load_adapter

        adapter = load_adapter(checkpoint)
    regime, evidence = regime_of(adapter) if tuned == "auto" else (as_tuned(tuned), "as given")
    work = _Certification(
        with_start(adapter, prior) if prior is not None else adapter,
        prior, evaluate, evaluate_some, n_samples, regime, include_head,
        (1.0 - confidence) / len(methods), confidence, math.log(tried), progress,
    )  # fmt: skip
    rows: list[BoundRow] = []
    if "coded" in methods:
        rows += work.coded(levels)
    if "gaussian" in methods:
        candidates = [("as given", posterior)] if posterior is not None else work.posteriors(relative_noise)
        rows += work.gaussian(candidates, draws, seed)
    settings = {
        "checkpoint": adapter.name,
        "n_samples": n_samples,
        "tuned": regime,
        "tuned_known_from": evidence,
        "methods": tuple(methods),
        "confidence": confidence,
        "headline": HEADLINE,
        "draws": draws,
        "tried": tried,
        "prior": None if prior is None else prior.name,
        "seed": seed,
        "versions": versions(),
    }
    return BoundReport(rows, settings)


@dataclass(frozen=True)
class _Certification:
    adapter: Adapter
    prior: Adapter | None
    evaluate: Evaluate
    evaluate_some: EvaluateSome | None
    n: int
    regime: Tuned
    include_head: bool
    delta: float
    confidence: float
    extra_nats: float
    progress: bool

    def coded(self, levels: Sequence[int]) -> list[BoundRow]:
        rows: list[BoundRow] = []
        candidates = [(count, placement) for count in levels for placement in PLACEMENTS]
        for count, placement in tqdm(candidates, desc="coded", disable=not self.progress):
            coded = encode_adapter(
                self.adapter, tuned=self.regime, include_head=self.include_head, levels=count, placement=placement
            )
            empirical = float(self._losses(self.evaluate(coded.adapter), self.n).mean())
            error = relative_error(coded.adapter, self.adapter)
            note = f"{count} levels, {placement}; ||dW' - dW||/||dW|| = {error:.3f}"
            forms = {**risk.RISK_FORMS, "Chernoff": risk.chernoff_risk}
            rows += self._rows("coded", coded.nats, empirical, 1.0 - self.delta, forms, "the whole message", note)
        return rows

    def posteriors(self, sizes: Sequence[float]) -> list[tuple[str, GaussianPosterior]]:
        return [
            (
                f"noise {size:g} times the update",
                gaussian_posterior(
                    self.adapter, self.regime, include_head=self.include_head, relative_noise=size, prior=self.prior
                ),
            )
            for size in sizes
        ]

    def gaussian(self, candidates: Sequence[tuple[str, GaussianPosterior]], draws: int, seed: int) -> list[BoundRow]:
        rows: list[BoundRow] = []
        sampling = 0.1 * self.delta / len(candidates)
        for index, (note, posterior) in enumerate(candidates):
            generator = torch.Generator().manual_seed(seed + 1000 * index)
            values, unit = self._sampled(posterior, draws, generator)
            mean = float(values.mean()) * unit
            upper = min(1.0, risk.sampled_mean_upper_bound(values, 1.0 - sampling) * unit)
            rows += self._rows(
                "gaussian", posterior.kl, upper, 1.0 - 0.9 * self.delta, dict(risk.RISK_FORMS),
                "KL, scales of the prior, the confidence of the sampling",
                f"{note}; loss over {len(values)} draws {mean:.4f}, at most {upper:.4f}",
            )  # fmt: skip
        return rows

    def _sampled(
        self, posterior: GaussianPosterior, draws: int, generator: torch.Generator
    ) -> tuple[Float[np.ndarray, "draws"], float]:
        """Values in [0, 1] whose expected mean, times the factor given with them, is the posterior's training loss."""
        shown = tqdm(total=draws, desc="draws", disable=not self.progress)
        values = []
        if self.evaluate_some is None:
            for _ in range(draws):
                values.append(self._losses(self.evaluate(posterior.draw(generator)), self.n).mean())
                shown.update()
            shown.close()
            return np.array(values), 1.0
        # Blocks differ by at most one sample: sums over the largest size lie in [0, 1] and have known expectation.
        blocks = list(_blocks(self.n, min(draws, self.n)))
        largest = max(len(block) for block in blocks)
        for block in blocks:
            losses = self._losses(self.evaluate_some(posterior.draw(generator), block), len(block))
            values.append(losses.sum() / largest)
            shown.update()
        shown.close()
        return np.array(values), len(blocks) * largest / self.n

    def _rows(
        self, rung: str, nats: float, empirical: float, confidence: float,
        forms: dict[str, Callable[[float, float, int, float], float]], charged: str, note: str,
    ) -> Iterator[BoundRow]:  # fmt: skip
        tensors = trained_tensors(self.adapter, self.regime, include_head=self.include_head)
        size = sum(tensor.size for tensor in tensors)
        facts = ["i.i.d. samples", "loss in [0, 1]"]
        diagnostic = bool(self.adapter.extras) and not self.include_head
        if self.prior is not None:
            facts.append(f"prior {self.prior.name} trained on none of the {self.n:,} samples")
            rung += ", data-dependent prior"
        else:
            centre = "the recorded initialization" if self.adapter.initial is not None else "zero"
            facts.append(f"prior, centred at {centre}, code and modules fixed before the data")
        if self.regime != "both":
            facts.append(f"{'A' if self.regime == 'B' else 'B'} drawn without the data")
        if diagnostic:
            facts.append("the head was fixed beforehand")
        nats += self.extra_nats
        base = BoundRow(
            rung=rung, tuned=self.regime, regime=True, head=self.include_head and bool(self.adapter.extras),
            parameters=size, nats=nats, gap=None, risk=None, statement=f"with probability {self.confidence:g}",
            vacuous=False, kind="diagnostic" if diagnostic else "certificate", assumptions="; ".join(facts),
            charged=charged + (", the number tried" if self.extra_nats else ""), note=note, empirical_risk=empirical,
        )  # fmt: skip
        for form, bound in forms.items():
            value = min(1.0, bound(empirical, nats, self.n, confidence))
            yield replace(base, form=form, risk=value, gap=value - empirical, vacuous=value >= 1.0)

    def _losses(self, given: ArrayLike, expected: int) -> Float[np.ndarray, "n"]:
        losses = np.asarray(given, dtype=np.float64)
        if losses.shape != (expected,):
            raise ValueError(f"evaluate gave losses of shape {losses.shape}; it must give one for each of {expected}")
        if not ((losses >= 0) & (losses <= 1)).all():
            raise ValueError("evaluate gave losses outside [0, 1]: divide a bounded loss by its range")
        return losses


def _blocks(n: int, count: int) -> Iterator[Int[np.ndarray, "some"]]:
    yield from np.array_split(np.arange(n), count)
