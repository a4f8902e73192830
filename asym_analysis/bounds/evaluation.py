"""What can be seen of an evaluation before its losses are believed: that it uses the candidate, and repeats itself.

A certificate rests on losses that a caller's function gives. The commonest mistakes show in a few calls: a function
that reads the trained model in place of the candidate, remembers an earlier answer, leaves an earlier candidate in the
model, runs in training mode, lets samples of a batch influence each other, or divides by the largest loss it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.losses import Losses, generator_for
from asym_analysis.bounds.parts_used import Measured, ignored_parts
from asym_analysis.bounds.trained import trained_tensors, with_tensors
from asym_analysis.vocabulary import Tuned

__all__ = ["Examination", "examine", "neighbours_alike", "repeated_after"]

PROBED = 2000  # samples of a probe
SAME = 0.01  # losses closer than this are equal up to the arithmetic of another batch
MOST_DIFFERENT = 0.01  # share of samples whose loss may differ between two calls, by that arithmetic
NOISE = (1.0, 64.0)  # size of random factors, over that of the trained ones, in turn
# Random factors to try before an evaluation is said to ignore them: few numbers may order the classes alike.
PROBES = 16
LEAST_EXCESS, LEAST_DEVIATIONS = 10.0, 5.0  # of neighbours that are both wrong, before the order is said to matter
LEAST_REPEATED, REPEATED_DEVIATIONS = 20.0, 8.0  # the same of samples at any other distance, of which there are many

SAME_SUM = 1e-6  # relative: sums of losses that are closer were made so


@dataclass(frozen=True)
class Examination:
    """An evaluation after it was examined.

    Attributes
    ----------
    measured
        For each function of the caller that is used: its name, how to call it on the probed samples, and the losses
        that it gave for the adapter.
    adapter
        The adapter.
    doubts
        Reasons why no row can be a certificate.
    """

    measured: tuple[tuple[str, Measured, Float[np.ndarray, "some"]], ...]
    adapter: Adapter
    doubts: tuple[str, ...]

    def refuse_changes(self) -> None:
        """Refuse an evaluation that has come to give other losses for the same adapter.

        Raises
        ------
        ValueError
            If the losses differ from those of the first call.
        """
        for name, losses, before in self.measured:
            _refuse_other(name, before, losses(self.adapter), "at the end of the work, after other candidates")


def examine(losses: Losses, adapter: Adapter, tuned: Tuned, *, head: bool, whole: bool, seed: int) -> Examination:
    """Call an evaluation a few times and refuse it where its losses cannot be those of the candidate.

    Parameters
    ----------
    losses
        The caller's functions and the samples.
    adapter
        The checkpoint.
    tuned
        Its trained factors, which the probes replace by noise.
    head
        Whether the trained tensors outside the modules are charged, and must be used.
    whole
        Whether the losses on all samples will be asked for, and not only those on some.
    seed
        Of the noise and of the order of samples.

    Returns
    -------
    Examination
        With the reasons that make every row a diagnostic: losses that do not change when the trained factors become
        noise, losses divided by the largest of them, neighbouring samples with like losses.

    Raises
    ------
    ValueError
        If the losses of the same adapter differ from call to call, do not change when the trained head is zeroed and
        negated, or depend on the other samples of a call.
    """
    some = np.arange(min(losses.n_samples, PROBED))
    functions: list[tuple[str, Measured]] = []
    if losses.evaluate_some is not None:
        functions.append(("evaluate_some", lambda one: losses.on_samples(one, some)))
    if losses.evaluate_some is None or (whole and not losses.by_model):
        functions.append(("evaluate", losses.on_all))
    measured, found = [], []
    for name, function in functions:
        before = function(adapter)
        probes = len(NOISE) if losses.by_model else PROBES
        noisy = _with_noise_losses(function, adapter, tuned, before, probes, seed)
        if (noisy == before).all() and not losses.by_model:
            found.append(
                f"{name} gives the same losses when the trained factors of the adapter it gets are noise: it may not "
                "evaluate the adapter that it gets, but another or an earlier one"
            )
        _refuse_other(name, before, function(adapter), "called again, after another candidate")
        if head:
            _refuse_ignored_head(name, function, adapter, before)
        measured.append((name, function, before))
        if _divided_by_largest(before) and _divided_by_largest(noisy):
            found.append(
                f"{name} gives exactly one loss of 1 for each adapter: losses divided by the largest of these samples "
                "have no range fixed before the data"
            )
        elif _scaled_within_sample(before, noisy):
            found.append(
                f"{name} gives losses of the same sum, squared sum or number of ones for different adapters: they are "
                "scaled within these samples, and have no range fixed before the data"
            )
        if not losses.by_model:
            found += ignored_parts(name, function, adapter, tuned, before, head=head, seed=seed)
    if losses.evaluate_some is not None:
        _refuse_dependence(losses, adapter, some, measured, seed)
    grouped = losses.grouped(measured[0][2])
    correlation, period = neighbours_alike(grouped), repeated_after(grouped)
    if correlation is None and period is not None:
        found.append(
            f"losses repeat after {period} samples: the same samples stand in the data several times, or in a periodic "
            "order; give each once, or groups="
        )
    if correlation is not None:
        found.append(
            f"neighbouring samples have like losses (correlation {correlation:.2f}): they share sources (give groups=) "
            "or are sorted; samples that were sorted only after they were drawn may be shuffled"
        )
    return Examination(tuple(measured), adapter, tuple(dict.fromkeys(found)))


def neighbours_alike(losses: Float[np.ndarray, "n"]) -> float | None:
    """Correlation of each loss with the next, where it is beyond what independent samples give.

    Parameters
    ----------
    losses
        In the order of the samples.

    Returns
    -------
    float or None
        None where the order does not show: fewer than five standard deviations, or an excess of fewer than ten
        neighbours that are both wrong.

    Examples
    --------
    >>> neighbours_alike(np.repeat(np.random.default_rng(0).integers(0, 2, 100), 20).astype(float)) > 0.9
    True
    >>> neighbours_alike(np.random.default_rng(0).integers(0, 2, 2000).astype(float)) is None
    True
    """
    for centred, variance in _centred(losses, least=3):
        excess = float(centred[1:] @ centred[:-1])
        if excess >= max(LEAST_EXCESS, LEAST_DEVIATIONS * variance * math.sqrt(len(losses))):
            return excess / (variance * (len(losses) - 1))
    return None


def _centred(losses: Float[np.ndarray, "n"], least: int) -> Iterator[tuple[Float[np.ndarray, "n"], float]]:
    """Centred losses and their variance, then those of "above the median", for losses that are all near each other."""
    for values in (losses, losses > np.median(losses)) if len(losses) >= least else ():
        centred = values - values.mean()
        variance = float(np.mean(centred**2))
        if variance > 0.0:
            yield centred, variance


def repeated_after(losses: Float[np.ndarray, "n"]) -> int | None:
    """The number of samples after which losses repeat, where this is beyond what independent samples give.

    Parameters
    ----------
    losses
        In the order of the samples.

    Returns
    -------
    int or None
        The lag of largest correlation, from 2 to half of the samples; None where it is below eight standard
        deviations, or an excess of twenty samples that are wrong at both places.

    Examples
    --------
    >>> repeated_after(np.tile(np.random.default_rng(0).integers(0, 2, 300), 4).astype(float))
    300
    >>> repeated_after(np.random.default_rng(0).integers(0, 2, 2000).astype(float)) is None
    True
    """
    count = len(losses)
    for centred, variance in _centred(losses, least=4):
        transformed = np.fft.rfft(centred, 2 * count)
        excess = np.fft.irfft(np.abs(transformed) ** 2, 2 * count)[2 : count // 2 + 1]
        deviation = variance * np.sqrt(count - np.arange(2, count // 2 + 1))
        seen = excess >= np.maximum(LEAST_REPEATED, REPEATED_DEVIATIONS * deviation)
        if seen.any():
            return 2 + int(np.argmax(np.where(seen, excess, -np.inf)))
    return None


def _with_noise_losses(
    function: Measured, adapter: Adapter, tuned: Tuned, before: Float[np.ndarray, "some"], probes: int, seed: int
) -> Float[np.ndarray, "some"]:
    """Losses with noise in place of the trained factors, drawn anew while they stay the same; NaN beyond [0, 1]."""
    for number in range(probes):
        try:
            after = function(_with_noise(adapter, tuned, number, seed))
        except ValueError:
            return np.full_like(before, np.nan)
        if (after != before).any():
            break
    return after


def _with_noise(adapter: Adapter, tuned: Tuned, number: int, seed: int) -> Adapter:
    """The adapter, under its own name, with Gaussian entries as large as the trained ones, or much larger."""
    generator, size, values = generator_for(seed, "probe", number), NOISE[number % len(NOISE)], {}
    for tensor in trained_tensors(adapter, tuned, include_head=False):
        value = tensor.read()
        scale = float(value.double().square().mean().sqrt()) if value.numel() else 0.0
        values[tensor.key] = size * (scale or 1 / 16) * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return with_tensors(adapter, values)


def _refuse_other(name: str, before: Float[np.ndarray, "some"], after: Float[np.ndarray, "some"], when: str) -> None:
    differ = float((np.abs(after - before) > SAME).mean())
    if differ > MOST_DIFFERENT:
        raise ValueError(
            f"{name} gives other losses for the same adapter {when} ({differ:.0%} of the samples differ): put the "
            "model in evaluation mode, fix its random numbers, take each candidate out of the model again, and "
            "keep the base model as it is"
        )


def _refuse_dependence(
    losses: Losses,
    adapter: Adapter,
    some: Int[np.ndarray, "some"],
    measured: Sequence[tuple[str, Measured, Float[np.ndarray, "some"]]],
    seed: int,
) -> None:
    """Refuse losses of a sample that depend on which others are asked for with it, or on their order."""
    order = torch.randperm(len(some), generator=generator_for(seed, "order")).numpy()
    apart = np.empty(len(some))
    for half in np.array_split(order, 2):
        if len(half):
            apart[half] = losses.on_samples(adapter, some[half])
    for name, _, before in measured:
        differ = float((np.abs(before[: len(some)] - apart) > SAME).mean())
        if differ > MOST_DIFFERENT:
            raise ValueError(
                f"evaluate_some gives other losses for {differ:.0%} of the samples when they are asked for in another "
                f"order or number than {name} was: each must be the loss of the sample with that index, whatever "
                "stands beside it (batch normalization in training mode, padding without a mask, losses divided within "
                "a batch)"
            )


def _refuse_ignored_head(name: str, function: Measured, adapter: Adapter, before: Float[np.ndarray, "some"]) -> None:
    """Refuse a function that does not use the head of the adapter it is given."""
    # Zeroed alone may leave every prediction as it is, where the adapter predicts one class.
    for factor in (0.0, -1.0):
        try:
            if (function(_head_times(adapter, factor)) != before).any():
                return
        except ValueError:
            return
    names = ", ".join(list(adapter.extras)[:3])
    raise ValueError(
        f"{name} gives the same losses when the trained head ({names}) of the adapter it gets is zeroed or negated: it "
        "must use adapter.extras; if the head was fixed before the data, pass include_head=False"
    )


def _divided_by_largest(losses: Float[np.ndarray, "some"]) -> bool:
    """Whether one loss is exactly 1 and most others lie strictly between 0 and 1."""
    return bool((losses == 1.0).sum() == 1 and ((losses > 0) & (losses < 1)).mean() > 0.5 and len(losses) > 2)


def _scaled_within_sample(before: Float[np.ndarray, "some"], noisy: Float[np.ndarray, "some"]) -> bool:
    """Whether losses of two adapters agree in what a scaling by the sample itself would fix."""
    if len(before) < 3 or np.isnan(noisy).any() or (before == noisy).all():
        return False
    if any(((one > 0) & (one < 1)).mean() <= 0.5 for one in (before, noisy)):
        return False
    ones = before == 1.0, noisy == 1.0
    return bool(
        math.isclose(before.sum(), noisy.sum(), rel_tol=SAME_SUM)
        or math.isclose((before**2).sum(), (noisy**2).sum(), rel_tol=SAME_SUM)
        or (ones[0].sum() == ones[1].sum() > 0 and (ones[0] != ones[1]).any())
    )


def _head_times(adapter: Adapter, factor: float) -> Adapter:
    extras = {name: replace(extra, read=partial(_times, factor, extra.read)) for name, extra in adapter.extras.items()}
    return adapter.replaced(extras=extras)


def _times(factor: float, read: Callable[[], Tensor]) -> Tensor:
    """A stored tensor times a factor, in its own dtype; torch cannot multiply fp8, nor keep booleans as they are."""
    stored = read()
    if stored.dtype.is_floating_point or stored.dtype.is_complex:
        wide = stored.float() if stored.dtype.itemsize == 1 else stored
    else:
        wide = stored.double()
    return (factor * wide).to(stored.dtype)
