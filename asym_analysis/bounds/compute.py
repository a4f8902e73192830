"""compute_bound: the ladder of generalization bounds on one checkpoint, from its file alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds import information
from asym_analysis.bounds.description import Placement, encode_adapter, relative_error
from asym_analysis.bounds.posterior import factor_energies, with_head
from asym_analysis.bounds.report import BoundReport, BoundRow
from asym_analysis.bounds.trained import TUNED, Tuned, as_tuned, regime_of, trained_tensors
from asym_analysis.results import versions

if TYPE_CHECKING:
    import os

__all__ = ["RUNGS", "bits_of_dtype", "compute_bound"]

RUNGS = ("parameter count", "degrees of freedom", "mutual information", "description length", "Gaussian posterior")

_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}
_FROZEN = {
    "B": "A was fixed before the data, or drawn without them",
    "A": "B was fixed before the data, or drawn without them",
    "both": "",
}
_SUB_GAUSSIAN = "i.i.d. samples; loss sub-Gaussian for every hypothesis"


def compute_bound(
    checkpoint: Adapter | str | os.PathLike[str],
    n_samples: int,
    *,
    tuned: Tuned | str = "auto",
    bits: float | None = None,
    sub_gaussian: float = 0.5,
    include_head: bool = True,
    mutual_information: float | Sequence[float] | Mapping[str, float] | None = None,
    empirical_risk: float | None = None,
    confidence: float = 0.95,
    rungs: Collection[str] = RUNGS,
    levels: int = 16,
    placement: Placement = "k-means",
    relative_noise: float = 1.0,
    progress: bool = False,
) -> BoundReport:
    """Generalization bounds on a checkpoint: a row for each rung, each set of tuned factors, with and without the head.

    1. "parameter count": q bits for each trained entry, the paper's Lemma 4.5; "degrees of freedom" beside it, where
       the r^2 entries that (GA, BG^-1) leaves open are not counted.
    2. "mutual information": the same with I(adapter; data) as given, in nats.
    3. "description length": the adapter quantized and coded into a message that decodes.
    4. "Gaussian posterior": PAC-Bayes with Gaussians around the trained factors.

    Rungs 3 and 4 bound the quantized and the perturbed adapter: whether these still solve the task is what `certify`
    measures.

    Parameters
    ----------
    checkpoint
        An `Adapter`, or anything that `load_adapter` reads.
    n_samples
        Number of training samples.
    tuned
        Factors that training changed: "B", "A", "both", or "auto" to read it from the config or the recorded
        initialization. Rows for the other sets are there for comparison, as diagnostics.
    bits
        Bits of one entry; by default those of the file's dtype.
    sub_gaussian
        Sub-Gaussian parameter of the loss: half its range for a bounded loss, so 0.5 for the 0-1 loss.
    include_head
        Also give each bound with the trained tensors outside the modules charged. Without them a bound holds only for
        a head that was fixed beforehand.
    mutual_information
        I(trained factors; training data) in nats: a number for this checkpoint's regime, a mapping from "B", "A",
        "both" to numbers, or a sequence with I(trained factors; Z_i) for each training sample.
    empirical_risk
        Training loss in [0, 2 sub_gaussian], to bound the risk as well as the gap.
    confidence
        1 - delta of the bounds that hold with probability.
    rungs
        Which of `RUNGS` to compute; "description length" takes minutes on a billion-parameter model's adapter.
    levels, placement
        Quantizer of rung 3, as in `encode_adapter`.
    relative_noise
        Size of the noise of rung 4, as a share of the update's norm.
    progress
        Show progress bars.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    AdapterError
        If the checkpoint cannot be read.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 64), torch.randn(64, 2))})
    >>> report = compute_bound(adapter, n_samples=1_000_000)
    >>> report
    BoundReport(10 bounds; of 4 for this checkpoint 3 certify something)
    """
    unknown = set(rungs) - set(RUNGS)
    if unknown:
        raise ValueError(f"unknown rungs {sorted(unknown)}: choose from {', '.join(RUNGS)}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if empirical_risk is not None and not 0.0 <= empirical_risk <= 2 * sub_gaussian:
        raise ValueError(
            f"the empirical risk {empirical_risk} is outside [0, {2 * sub_gaussian:g}], the range that "
            f"sub_gaussian={sub_gaussian:g} stands for"
        )
    if isinstance(checkpoint, Adapter):
        adapter = checkpoint
    else:
        from asym_analysis.adapters.load import load_adapter

        adapter = load_adapter(checkpoint)
    regime, evidence = regime_of(adapter) if tuned == "auto" else (as_tuned(tuned), "as given")
    ladder = _Ladder(adapter, n_samples, regime, sub_gaussian, empirical_risk, confidence, include_head)
    rows: list[BoundRow] = []
    if "parameter count" in rungs or "degrees of freedom" in rungs:
        rows += ladder.by_count(bits, rungs)
    if "mutual information" in rungs and mutual_information is not None:
        rows += ladder.by_information(mutual_information)
    if "description length" in rungs:
        rows += ladder.by_description(levels, placement, progress)
    if "Gaussian posterior" in rungs:
        rows += ladder.by_posterior(relative_noise)
    settings = {
        "checkpoint": adapter.name,
        "modules": len(adapter),
        "n_samples": n_samples,
        "tuned": regime,
        "tuned_known_from": evidence,
        "bits": bits if bits is not None else "of the file's dtype",
        "sub_gaussian": sub_gaussian,
        "empirical_risk": empirical_risk,
        "confidence": confidence,
        "levels": levels,
        "placement": placement,
        "relative_noise": relative_noise,
        "versions": versions(),
    }
    return BoundReport(rows, settings)


def bits_of_dtype(dtype: str) -> int:
    """Bits of one entry of that dtype.

    Examples
    --------
    >>> bits_of_dtype("bfloat16"), bits_of_dtype("float8_e4m3fn")
    (16, 8)
    """
    if dtype in _BITS:
        return _BITS[dtype]
    if dtype.startswith(("float8", "int8", "uint8")):
        return 8
    raise ValueError(f"no number of bits is known for dtype {dtype!r}: give it with bits=")


class _Ladder:
    """The rungs, with what they share."""

    def __init__(
        self,
        adapter: Adapter,
        n_samples: int,
        regime: Tuned,
        sub_gaussian: float,
        empirical: float | None,
        confidence: float,
        include_head: bool,
    ) -> None:
        self.adapter, self.n, self.regime, self.sigma = adapter, n_samples, regime, sub_gaussian
        self.empirical, self.confidence = empirical, confidence
        # A factor that never moved says nothing of what training it would cost.
        self.moved: tuple[Tuned, ...] = TUNED if regime == "both" else (regime, "both")
        self.heads = (False, True) if include_head and adapter.extras else (False,)

    def by_count(self, bits: float | None, rungs: Collection[str]) -> list[BoundRow]:
        rows = []
        gauge = sum(self.adapter.source(module).rank ** 2 for module in self.adapter)
        for head in self.heads:
            for tuned in TUNED:
                tensors = list(trained_tensors(self.adapter, tuned, include_head=head))
                sizes = [tensor.size for tensor in tensors]
                widths = [bits if bits is not None else bits_of_dtype(tensor.dtype) for tensor in tensors]
                total = float(np.dot(sizes, widths))
                charged = f"{sum(sizes):,} entries, {total / max(sum(sizes), 1):g} bits each"
                rule = "every trained entry rounded to these bits by a rule fixed beforehand"
                if "parameter count" in rungs:
                    rows.append(self._expected("parameter count", tuned, head, sum(sizes), total, rule, charged))
                if "degrees of freedom" in rungs and tuned == "both":
                    free = sum(sizes) - gauge
                    scaled = total * free / max(sum(sizes), 1)
                    row = self._expected(
                        "degrees of freedom", tuned, head, free, scaled, f"{rule}, after the r^2 entries were fixed",
                        f"{free:,} free entries: r^2 fewer a module", diagnostic=True,
                    )  # fmt: skip
                    rows.append(row)
        return rows

    def by_information(self, given: float | Sequence[float] | Mapping[str, float]) -> list[BoundRow]:
        rule = "the number given is at least the true mutual information: an estimate does not ensure it"
        by_factor: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {self.regime: given}
        rows = []
        for name, value in by_factor.items():
            tuned = as_tuned(name)
            each = np.atleast_1d(np.asarray(value, dtype=np.float64))
            size = sum(t.size for t in trained_tensors(self.adapter, tuned, include_head=False))
            if np.ndim(value) == 0:
                nats = float(each[0])
                gap = information.mutual_information_gap(nats, self.n, self.sigma)
                rung, charged = "mutual information", "I(trained factors; data), as given"
            else:
                if each.size != self.n:
                    raise ValueError(f"{each.size} individual informations for {self.n} samples: give one for each")
                nats = float(each.sum())
                gap = information.individual_sample_gap(each, self.sigma)
                rung, charged = "individual-sample information", "I(trained factors; Z_i) for each sample, as given"
            rows.append(
                self._row(
                    rung,
                    tuned,
                    False,
                    size,
                    nats,
                    gap,
                    "in expectation",
                    f"{_SUB_GAUSSIAN}; {rule}",
                    charged,
                    diagnostic=True,
                )
            )
        return rows

    def by_description(self, levels: int, placement: Placement, progress: bool) -> list[BoundRow]:
        rows = []
        for head in self.heads:
            for tuned in self.moved:
                coded = encode_adapter(
                    self.adapter, tuned=tuned, include_head=head, levels=levels, placement=placement, progress=progress
                )
                size = sum(t.size for t in trained_tensors(self.adapter, tuned, include_head=head))
                gap = information.occam_gap(coded.nats, self.n, self.sigma, self.confidence)
                parts = ", ".join(f"{name} {bits:,}" for name, bits in coded.parts.items() if bits)
                error = relative_error(coded.adapter, self.adapter)
                rows.append(
                    self._row(
                        "description length",
                        tuned,
                        head,
                        size,
                        coded.nats,
                        gap,
                        self._probably,
                        f"{_SUB_GAUSSIAN}; code and modules fixed beforehand; it is the quantized adapter's gap",
                        f"bits: {parts}",
                        note=f"{levels} levels; ||dW' - dW||/||dW|| = {error:.3f}",
                    )
                )
        return rows

    def by_posterior(self, relative_noise: float) -> list[BoundRow]:
        rows = []
        centre = "its recorded initialization, drawn without the data" if self.adapter.initial is not None else "zero"
        energies = factor_energies(self.adapter)
        for head in self.heads:
            if head:
                energies = {tuned: with_head(energy, self.adapter) for tuned, energy in energies.items()}
            for tuned in self.moved:
                scales = energies[tuned].scales(tuned, relative_noise)
                if not scales:
                    continue
                nats = energies[tuned].kl(scales)
                gap = information.pac_bayes_gap(nats, self.n, self.sigma, self.confidence)
                size = sum(t.size for t in trained_tensors(self.adapter, tuned, include_head=head))
                shown = ", ".join(f"s_{group} = {scale:.3g}" for group, scale in scales.items())
                rows.append(
                    self._row(
                        "Gaussian posterior",
                        tuned,
                        head,
                        size,
                        nats,
                        gap,
                        self._probably,
                        f"{_SUB_GAUSSIAN}; prior centred at {centre}; it is the perturbed adapter's gap",
                        "KL, choice of the scales from the grid 2^(-k/2)",
                        note=f"noise {relative_noise:g} times the update; {shown}",
                    )
                )
        return rows

    @property
    def _probably(self) -> str:
        return f"with probability {self.confidence:g}"

    def _expected(
        self,
        rung: str,
        tuned: str,
        head: bool,
        size: int,
        bits: float,
        rule: str,
        charged: str,
        *,
        diagnostic: bool = False,
    ) -> BoundRow:
        nats = bits * math.log(2)
        gap = information.mutual_information_gap(nats, self.n, self.sigma)
        assumptions = f"{_SUB_GAUSSIAN}; {rule}"
        return self._row(
            rung, tuned, head, size, nats, gap, "in expectation", assumptions, charged, diagnostic=diagnostic
        )

    def _row(
        self, rung: str, tuned: str, head: bool, size: int, nats: float, gap: float, statement: str,
        assumptions: str, charged: str, *, diagnostic: bool = False, note: str = "",
    ) -> BoundRow:  # fmt: skip
        facts = [assumptions, _FROZEN[tuned]]
        if self.adapter.extras and not head:
            facts.append("the head was fixed beforehand")
            diagnostic = True
        if tuned != self.regime:
            facts.append(f"had only {tuned} been trained" if tuned != "both" else "had both factors been trained")
            # Charging both factors where one was trained is loose, not wrong.
            diagnostic = diagnostic or tuned != "both"
        bound = None
        if self.empirical is not None:
            bound = self.empirical + gap
            if statement == "in expectation":
                facts.append("the training loss given is the expected one")
                diagnostic = True
            elif rung != "parameter count":
                facts.append("the training loss given is that of the quantized or perturbed adapter")
                diagnostic = True
        vacuous = (bound if bound is not None else gap) >= 2 * self.sigma
        return BoundRow(
            rung=rung, tuned=tuned, regime=tuned == self.regime, head=head, parameters=size, nats=nats, gap=gap,
            risk=bound, statement=statement, vacuous=vacuous, kind="diagnostic" if diagnostic else "certificate",
            assumptions="; ".join(fact for fact in facts if fact), charged=charged, note=note,
            empirical_risk=self.empirical, form="square root",
        )  # fmt: skip
