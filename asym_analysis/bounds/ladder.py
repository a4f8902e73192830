"""The rungs of `compute_bound`, from counting parameters to Gaussian posteriors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds import information
from asym_analysis.bounds.admissibility import doubts
from asym_analysis.bounds.description import Placement, encode_adapter, relative_error
from asym_analysis.bounds.energies import factor_energies, with_head
from asym_analysis.bounds.exact_values import values_length
from asym_analysis.bounds.report import BoundRow, Predictor, Prior
from asym_analysis.bounds.trained import TensorKey, TrainedTensor, has_factors, is_plain, trained_tensors
from asym_analysis.vocabulary import TUNED, Tuned, choose

__all__ = ["Ladder", "bits_of_dtype"]

_FROZEN = {
    "B": "A was fixed before the data, or drawn without them",
    "A": "B was fixed before the data, or drawn without them",
    "both": "",
}
_SUB_GAUSSIAN = "i.i.d. samples; loss sub-Gaussian for every hypothesis"


def bits_of_dtype(dtype: str) -> int:
    """Bits of one entry of that dtype.

    Examples
    --------
    >>> bits_of_dtype("bfloat16"), bits_of_dtype("float8_e4m3fn"), bits_of_dtype("int64")
    (16, 8, 64)
    """
    known = getattr(torch, dtype, None)
    if isinstance(known, torch.dtype):
        return 8 * known.itemsize
    raise ValueError(f"no number of bits is known for dtype {dtype!r}: give it with bits=")


@dataclass(frozen=True)
class Ladder:
    """The rungs on one checkpoint, with what they share; each method gives the rows of one.

    Attributes
    ----------
    adapter, n, own
        The checkpoint, its number of training samples, and the factors that it trained.
    sigma
        Sub-Gaussian parameter of the loss.
    empirical
        Training loss, or None.
    confidence
        1 - delta.
    include_head
        Also give each bound with the head charged.
    """

    adapter: Adapter
    n: int
    own: Tuned
    sigma: float
    empirical: float | None
    confidence: float
    include_head: bool
    _sizes: dict[tuple[Tuned, bool], int] = field(default_factory=dict)
    _tables: dict[tuple[TensorKey, float], int] = field(default_factory=dict)

    @property
    def counted(self) -> tuple[Tuned, ...]:
        """The choices of trained factors that a count can compare."""
        return TUNED if has_factors(self.adapter) else ("both",)

    @property
    def moved(self) -> tuple[Tuned, ...]:
        """The choices that values can compare: a factor that never moved says nothing of what training it costs."""
        return self.counted if self.own == "both" else (self.own, "both")

    @property
    def heads(self) -> tuple[bool, ...]:
        """Without and with the head, where there is one to charge."""
        return (False, True) if self.include_head and self.adapter.extras else (False,)

    def size(self, tuned: Tuned, head: bool) -> int:
        """Number of entries that are charged."""
        if (tuned, head) not in self._sizes:
            tensors = trained_tensors(self.adapter, tuned, include_head=head)
            self._sizes[tuned, head] = sum(tensor.size for tensor in tensors)
        return self._sizes[tuned, head]

    def by_count(self, bits: float | int | None, rungs: Collection[str]) -> list[BoundRow]:
        """Lemma 4.5, and the degrees of freedom beside it."""
        rows = []
        sources = [self.adapter.source(module) for module in self.adapter]
        gauge = sum(source.rank**2 for source in sources if is_plain(source))
        for head in self.heads:
            for tuned in self.counted:
                tensors = list(trained_tensors(self.adapter, tuned, include_head=head))
                sizes = [tensor.size for tensor in tensors]
                own_bits = [float(tensor.size * bits_of_dtype(tensor.dtype)) for tensor in tensors]
                pairs = zip(tensors, own_bits, strict=True)
                charges = [(own, False) if bits is None else self._charged(one, float(bits), own) for one, own in pairs]
                total = sum(charge for charge, _ in charges)
                self._sizes[tuned, head] = sum(sizes)
                charged = f"{sum(sizes):,} entries, {total / max(sum(sizes), 1):g} bits each"
                rule = "every trained entry rounded to these bits by a rule fixed beforehand"
                rounded = any(other for _, other in charges)
                if rounded:
                    rule += ", which gives another adapter than this one"
                if "parameter count" in rungs:
                    rows.append(
                        self._expected(
                            "parameter count", tuned, head, sum(sizes), total, rule, charged, diagnostic=rounded
                        )
                    )
                if "degrees of freedom" in rungs and tuned == "both":
                    free = sum(sizes) - gauge
                    scaled = total * free / max(sum(sizes), 1)
                    row = self._expected(
                        "degrees of freedom", tuned, head, free, scaled, f"{rule}, after the r^2 entries were fixed",
                        f"{free:,} free entries: r^2 fewer a module", diagnostic=True,
                    )  # fmt: skip
                    rows.append(row)
        return rows

    def _charged(self, tensor: TrainedTensor, bits: float, own: float) -> tuple[float, bool]:
        """Bits of a tensor at `bits` an entry, and whether its entries, as they are, take more values than that."""
        given = tensor.size * bits
        if given >= own:
            return given, False
        if (tensor.key, bits) not in self._tables:
            values = int(tensor.read().unique().numel())
            # Its table of values is charged with the entries.
            table = values * bits_of_dtype(tensor.dtype) if values <= 2**bits else -1
            self._tables[tensor.key, bits] = table
        table = self._tables[tensor.key, bits]
        return (given, True) if table < 0 else (given + table, False)

    def by_values(self) -> list[BoundRow]:
        """The exact values as a message, where it is shorter than the entries as they are stored."""
        rows = []
        for head in self.heads:
            for tuned in self.moved:
                bits, kinds = values_length(self.adapter, tuned, include_head=head)
                if set(kinds) <= {"raw", "raw, in double precision"}:
                    continue
                nats = bits * math.log(2)
                gap = information.occam_gap(nats, self.n, self.sigma, self.confidence)
                ways = ", ".join(f"{count} tensors {kind}" for kind, count in kinds.items())
                rows.append(
                    self._row(
                        "few values", tuned, head, self.size(tuned, head), nats, gap, self._probably,
                        f"{_SUB_GAUSSIAN}; code and modules fixed beforehand",
                        f"tables of values, symbols, the way of sending each tensor: {ways}", exact=True,
                    )
                )  # fmt: skip
        return rows

    def by_information(self, given: float | Sequence[float] | Mapping[str, float]) -> list[BoundRow]:
        """The gap from mutual information as given."""
        rule = "the number given is at least the true mutual information: an estimate does not ensure it"
        by_factor: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {self.own: given}
        rows = []
        for name, value in by_factor.items():
            choose(name, TUNED, "the factors of mutual_information")
            tuned: Tuned = next(one for one in TUNED if one == name)
            each = np.atleast_1d(np.asarray(value, dtype=np.float64))
            size = self.size(tuned, head=False)
            if np.ndim(value) == 0:
                nats = float(each[0])
                gap = information.mutual_information_gap(nats, self.n, self.sigma)
                rung, charged = "mutual information", "I(trained factors; data), as given"
            else:
                if each.size != self.n:
                    raise ValueError(f"{each.size} values of I(W; Z_i) for {self.n} samples: give one for each")
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
        """The gap of the quantized adapter from its message's length."""
        rows = []
        for head in self.heads:
            for tuned in self.moved:
                coded = encode_adapter(
                    self.adapter, tuned=tuned, include_head=head, levels=levels, placement=placement, progress=progress
                )
                size = self.size(tuned, head)
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
                        predictor="coded adapter",
                        prior=self._prior,
                        note=f"{levels} levels; ||dW' - dW||/||dW|| = {error:.3f}",
                    )
                )
        return rows

    def by_posterior(self, relative_noise: float) -> list[BoundRow]:
        """The gap of the perturbed adapter from its divergence to the prior."""
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
                size = self.size(tuned, head)
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
                        predictor="Gibbs posterior",
                        prior=self._prior,
                        note=f"noise {relative_noise:g} times the update; {shown}",
                    )
                )
        return rows

    @property
    def _prior(self) -> Prior:
        return "zero" if self.adapter.initial is None else "initialization"

    @property
    def _probably(self) -> str:
        return f"with probability {self.confidence:g}"

    def _expected(
        self,
        rung: str,
        tuned: Tuned,
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
        self, rung: str, tuned: Tuned, head: bool, size: int, nats: float, gap: float, statement: str,
        assumptions: str, charged: str, *, diagnostic: bool = False, note: str = "",
        predictor: Predictor = "adapter", prior: Prior = "none", exact: bool = False,
    ) -> BoundRow:  # fmt: skip
        known = doubts(self.adapter, tuned)
        diagnostic = diagnostic or bool(known)
        facts = [assumptions, _FROZEN[tuned], *known]
        if self.adapter.extras and not head:
            facts.append("the head was fixed beforehand")
            diagnostic = True
        if tuned != self.own:
            facts.append(f"had only {tuned} been trained" if tuned != "both" else "had both factors been trained")
            # Charging both factors where one was trained is loose, not wrong.
            diagnostic = diagnostic or tuned != "both"
        bound = None
        if self.empirical is not None:
            bound = self.empirical + gap
            if statement == "in expectation":
                facts.append("the training loss given is the expected one")
                diagnostic = True
            elif rung != "parameter count" and not exact:
                facts.append("the training loss given is that of the quantized or perturbed adapter")
                diagnostic = True
        vacuous = (bound if bound is not None else gap) >= 2 * self.sigma
        return BoundRow(
            rung=rung, predictor=predictor, prior=prior, tuned=tuned, applies=tuned == self.own, head=head,
            parameters=size, nats=nats, gap=gap,
            risk=bound, statement=statement, vacuous=vacuous, kind="diagnostic" if diagnostic else "certificate",
            assumptions="; ".join(fact for fact in facts if fact), charged=charged, note=note,
            empirical_risk=self.empirical, form="square root",
        )  # fmt: skip
