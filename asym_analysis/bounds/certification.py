"""The rows of `certify`: each method measures losses of its predictor and turns them into a risk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds import risk
from asym_analysis.bounds.description import PLACEMENTS, encode_adapter, relative_error
from asym_analysis.bounds.losses import Losses, generator_for
from asym_analysis.bounds.posterior import GaussianPosterior, gaussian_posterior
from asym_analysis.bounds.report import BoundRow, Predictor, Prior
from asym_analysis.bounds.subspace import SubspaceCode, decode_subspace, subspace_bits
from asym_analysis.bounds.trained import trained_tensors
from asym_analysis.vocabulary import Tuned

__all__ = ["HEADLINE", "Certification", "Margin"]

HEADLINE = "kl-inverse"
SAMPLING_SHARE = 0.1  # of a method's delta, for the draws of the Gibbs posterior
LEAST_GAIN = 0.002  # of the certified risk: where no number of draws can give more, the sampling stops
MOST_COPIES = 0.01  # share of samples that repeat others, above which every row says so
BLOCK = 32  # samples for one drawn adapter, at least, where there are many: smaller blocks need far more draws
PILOT_DRAWS = 4  # of each noise size, to choose one before the draws that count

Form = Callable[[float, float, int, float], float]


@dataclass(frozen=True)
class Margin:
    """How the Gibbs posterior's training loss is sampled.

    Attributes
    ----------
    draws
        Number of adapters drawn; None to draw until the margin is at most `largest`.
    largest
        Largest margin between the sampled mean and its upper confidence bound.
    most_draws
        Where to stop though the margin is larger.
    """

    draws: int | None = None
    largest: float = 0.005
    most_draws: int = 20_000


@dataclass(frozen=True)
class Certification:
    """One checkpoint, its losses, and what every row shares.

    Attributes
    ----------
    adapter
        The checkpoint.
    prior
        An adapter trained on other samples, or None.
    losses
        Losses of candidates on the samples.
    tuned, include_head
        What is charged.
    delta
        Probability that a method may fail with.
    confidence
        1 - delta of all methods together.
    tried
        Number of codes, priors or seeds that the data chose among.
    doubts
        Reasons why no row can be a certificate.
    copies
        Share of the samples whose inputs are those of another, which every row says; None where it is not known.
    seed
        Of the draws.
    progress
        Show bars.
    """

    adapter: Adapter
    prior: Adapter | None
    losses: Losses
    tuned: Tuned
    include_head: bool
    delta: float
    confidence: float
    tried: int
    doubts: tuple[str, ...]
    copies: float | None
    seed: int
    progress: bool

    def coded(self, levels: Sequence[int]) -> list[BoundRow]:
        """The quantized adapter, from the length of its message."""
        centred = self.adapter.replaced(initial=self.prior) if self.prior is not None else self.adapter
        rows: list[BoundRow] = []
        candidates = [(count, placement) for count in levels for placement in PLACEMENTS]
        for count, placement in tqdm(candidates, desc="coded", disable=not self.progress, leave=False):
            coded = encode_adapter(
                centred, tuned=self.tuned, include_head=self.include_head, levels=count, placement=placement
            )
            empirical = float(self.losses.of(coded.adapter).mean())
            error = relative_error(coded.adapter, self.adapter)
            note = f"{count} levels, {placement}; ||dW' - dW||/||dW|| = {error:.3f}"
            forms = {**risk.RISK_FORMS, "Chernoff": risk.chernoff_risk}
            rows += self._rows(
                "coded", "coded adapter", coded.nats, empirical, 1.0 - self.delta, forms, "the whole message", note
            )
        return rows

    def subspace(self, codes: Sequence[SubspaceCode]) -> list[BoundRow]:
        """Adapters in few coordinates, each from its own message, decoded here from what the receiver knows."""
        known = self.adapter.replaced(initial=self.prior) if self.prior is not None else self.adapter
        rows: list[BoundRow] = []
        for code in codes:
            decoded = decode_subspace(code.message, known, seed=code.seed)
            empirical = float(self.losses.of(decoded).mean())
            note = f"{code.dimension} coordinates of a random subspace (seed {code.seed}), {code.levels} levels"
            forms = {**risk.RISK_FORMS, "Chernoff": risk.chernoff_risk}
            nats = subspace_bits(code.message) * math.log(2.0)
            rows += self._rows(
                "subspace", "coded adapter", nats, empirical, 1.0 - self.delta, forms,
                "the whole message: coordinates, levels, numbers of both", note,
            )  # fmt: skip
        return rows

    def candidates(self, sizes: Sequence[float]) -> list[tuple[str, GaussianPosterior]]:
        """A Gaussian posterior for each size of the noise."""
        return [
            (
                f"noise {size:g} times the update",
                gaussian_posterior(
                    self.adapter, self.tuned, include_head=self.include_head, relative_noise=size, prior=self.prior
                ),
            )
            for size in sizes
        ]

    def gaussian(self, candidates: Sequence[tuple[str, GaussianPosterior]], margin: Margin) -> list[BoundRow]:
        """The Gibbs posterior: the candidate that a pilot finds best, sampled until its training loss is known.

        The PAC-Bayes bound holds for all candidates at once, and the draws that count are fresh, so that the choice
        costs nothing.
        """
        index = self._best_candidate(candidates)
        note, posterior = candidates[index]
        sampling = SAMPLING_SHARE * self.delta / self.tried  # each of the calls that were tried has draws of its own
        confidence = 1.0 - (1.0 - SAMPLING_SHARE) * self.delta
        nats = posterior.kl + math.log(self.tried)

        def certified(loss: float) -> float:
            return risk.kl_inverse_risk(min(loss, 1.0), nats, self.losses.count, confidence)

        values, unit, upper = self._sampled(posterior, index, margin, 1.0 - sampling, certified)
        mean = float(values.mean()) * unit
        text = f"{note}; loss over {len(values)} draws {mean:.4f}, at most {upper:.4f}"
        gain = certified(upper) - certified(mean)
        if gain <= LEAST_GAIN and upper - mean > margin.largest:
            text += f"; more draws would lower the certified risk by at most {gain:.1g}"
        elif margin.draws is None and upper - mean > margin.largest:
            text += f"; stopped there, before this margin was {margin.largest:g}: draws= asks for more"
        return list(
            self._rows(
                "gaussian", "Gibbs posterior", posterior.kl, upper, confidence,
                dict(risk.RISK_FORMS), "KL, scales of the prior, the confidence of the sampling", text,
            )
        )  # fmt: skip

    def one_draw(self, candidates: Sequence[tuple[str, GaussianPosterior]]) -> list[BoundRow]:
        """One adapter drawn from each candidate posterior: disintegrated PAC-Bayes, which has no sampling margin."""
        rows: list[BoundRow] = []
        share = self.delta / len(candidates)
        for index, (note, posterior) in enumerate(candidates):
            drawn, nats = posterior.draw_with_density(generator_for(self.seed, "one draw", index))
            empirical = float(self.losses.of(drawn).mean())
            text = f"{note}; draw {index} of seed {self.seed}"
            charged = "log density ratio at the draw, scales of the prior"
            rows += self._rows(
                "one draw", "one draw", max(nats, 0.0), empirical, 1.0 - share, {HEADLINE: risk.kl_inverse_risk},
                charged, text,
            )  # fmt: skip
        return rows

    def hold_out(self) -> list[BoundRow]:
        """The prior's own adapter, for which the samples are a test set: a Chernoff bound without any complexity."""
        assert self.prior is not None
        empirical = float(self.losses.of(self.prior).mean())
        note = "the prior's adapter as it is: what the samples certify without training on them"
        return list(
            self._rows(
                "hold-out", "prior", 0.0, empirical, 1.0 - self.delta, {HEADLINE: risk.chernoff_risk},
                "nothing but the number tried", note,
            )
        )  # fmt: skip

    def _best_candidate(self, candidates: Sequence[tuple[str, GaussianPosterior]]) -> int:
        if len(candidates) == 1:
            return 0
        bounds = []
        blocks = list(self.losses.blocks(PILOT_DRAWS))
        for index, (_, posterior) in enumerate(candidates):
            generator = generator_for(self.seed, "pilot", index)
            found = [self.losses.of_some(posterior.draw(generator), block).mean() for block in blocks]
            bounds.append(risk.kl_inverse_risk(float(np.mean(found)), posterior.kl, self.losses.count, self.confidence))
        return int(np.argmin(bounds))

    def _sampled(
        self, posterior: GaussianPosterior, index: int, margin: Margin, confidence: float,
        certified: Callable[[float], float],
    ) -> tuple[Float[np.ndarray, "draws"], float, float]:  # fmt: skip
        """Values in [0, 1] whose expected mean, times `unit`, is the posterior's training loss; and its upper bound.

        The confidence bound is a betting one, which holds at every number of draws at once, so that the sampling may
        stop where its margin is small enough, or where a margin of zero would not lower the certified risk.
        """
        generator = generator_for(self.seed, "draws", index)
        streamed = self.losses.evaluate_some is not None
        planned = margin.draws or min(1000, max(100, self.losses.count // BLOCK))
        # Blocks differ by at most one unit: sums over the largest size lie in [0, 1] and have known expectation.
        blocks = list(self.losses.blocks(planned)) if streamed else [np.arange(self.losses.count)]
        largest = max(len(block) for block in blocks)
        unit = len(blocks) * largest / self.losses.count if streamed else 1.0
        values: list[float] = []
        shown = tqdm(total=margin.draws, desc="draws", disable=not self.progress, leave=False)
        while True:
            for block in blocks:
                drawn = posterior.draw(generator)
                losses = self.losses.of_some(drawn, block) if streamed else self.losses.of(drawn)
                values.append(float(losses.sum()) / largest)
                shown.update()
            enough = len(values) >= (margin.draws or margin.most_draws)
            if enough or (margin.draws is None and len(values) % 100 == 0) or (streamed and margin.draws is None):
                found = np.array(values)
                upper = min(1.0, risk.sampled_mean_upper_bound(found, confidence) * unit)
                mean = float(found.mean()) * unit
                if enough or upper - mean <= margin.largest or certified(upper) - certified(mean) <= LEAST_GAIN:
                    shown.close()
                    return found, unit, upper

    def _rows(
        self, rung: str, predictor: Predictor, nats: float, empirical: float, confidence: float,
        forms: dict[str, Form], charged: str, note: str,
    ) -> Iterator[BoundRow]:  # fmt: skip
        tensors = trained_tensors(self.adapter, self.tuned, include_head=self.include_head)
        size = sum(tensor.size for tensor in tensors) if predictor != "prior" else 0
        size = int(note.split()[0]) if rung == "subspace" else size
        n = self.losses.count
        unit = "samples" if self.losses.members is None else "groups of samples"
        facts = [f"i.i.d. {unit}", "loss in [0, 1]"]
        if self.copies and self.copies > MOST_COPIES:
            other = "another" if self.losses.members is None else "one of another group"
            facts.append(f"{self.copies:.0%} of the samples repeat {other}: drawn with replacement, or not independent")
        facts.append("nothing else tried on these samples" if self.tried == 1 else f"{self.tried:,} tried on them")
        headless = bool(self.adapter.extras) and not self.include_head and predictor != "prior"
        prior: Prior = "zero" if self.adapter.initial is None else "initialization"
        if self.prior is not None:
            prior = "data"
            facts.append(f"prior {self.prior.name} trained on none of the {n:,} {unit}, nor the base model")
        else:
            centre = "the recorded initialization" if prior == "initialization" else "zero"
            facts.append(f"prior, centred at {centre}, base model, code and modules fixed before the data")
        if self.tuned != "both" and predictor != "prior":
            facts.append(f"{'A' if self.tuned == 'B' else 'B'} drawn without the data")
        if headless:
            facts.append("the head was fixed beforehand")
        facts += self.doubts
        nats += math.log(self.tried)
        base = BoundRow(
            rung=rung, predictor=predictor, prior=prior, tuned=self.tuned, applies=True,
            head=self.include_head and bool(self.adapter.extras), parameters=size, nats=nats, gap=None, risk=None,
            statement=f"with probability {self.confidence:g}", vacuous=False,
            kind="diagnostic" if headless or self.doubts else "certificate", assumptions="; ".join(facts),
            charged=charged + (", the number tried" if self.tried > 1 else ""), note=note, empirical_risk=empirical,
        )  # fmt: skip
        for form, bound in forms.items():
            value = min(1.0, bound(empirical, nats, n, confidence))
            yield replace(base, form=form, risk=value, gap=value - empirical, vacuous=value >= 1.0)
