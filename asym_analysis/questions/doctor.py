"""The few findings that matter for one adapter, worst first, each with its number and the next command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.base_weights import Base
from asym_analysis.adapters.load import as_adapter, as_adapters
from asym_analysis.adapters.shared_initialization import shared_initialization
from asym_analysis.alignment.drift import initialization_drift
from asym_analysis.alignment.intruders import intruder_dimensions
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import Moments, spectrum_of
from asym_analysis.questions.general_effect import GeneralEffect
from asym_analysis.questions.null_space import null_space_energy
from asym_analysis.results import TableResult, settings_of

__all__ = ["Examination", "examine"]

UNSPENT = 0.5  # of the rank: half of the modules hold 99 percent of their energy in so few directions
HARDLY_MOVED = 0.1  # relative movement of A below which freezing it costs little
INTRUDING = 0.05  # share of the energy of the leading directions that intruders hold
# Relative change of what a module computes on general inputs, where the model itself is not at hand. In a trained
# encoder the sentence vectors move by about three times as much (benchmarks/minilm/doctor.py).
LOUD = 0.1
MOVED = 0.25  # relative change of the last hidden states of general inputs


class Examination(TableResult):
    """Findings about one adapter; no row where there is nothing to say.

    Attributes
    ----------
    frame
        One row a finding, worst first:

        - severity: "wrong" (numbers may be wrong), "risk" (the model may behave worse), "saving" (something is unused)
        - finding: a sentence
        - value: the number it rests on; chance: what chance or a healthy adapter gives; threshold: where the finding
          begins
        - next: a command that shows more
    settings
        adapter, what was looked at, versions.
    """

    def __repr__(self) -> str:
        worst = "nothing to say" if self.frame.empty else f"{len(self.frame)} findings"
        return f"Examination({self.settings['adapter']}: {worst})"


class Finding(NamedTuple):
    """One finding."""

    severity: str
    finding: str
    value: float
    chance: float
    threshold: float
    next: str


SEVERITIES = ("wrong", "risk", "saving")


def examine(
    adapter: Any,
    *,
    base: Base | None = None,
    moments: Moments | None = None,
    effect: GeneralEffect | None = None,
    siblings: Any | None = None,
) -> Examination:
    """Look an adapter over: what was assumed, what is unused, what may harm.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    base : path, mapping, Module or BaseWeights, optional
        Its base model, for intruder dimensions.
    moments : mapping, optional
        Module -> second moment of its inputs on general text, for what the adapter does to general inputs; needs the
        base, without which the size of an update says nothing.
    effect : GeneralEffect, optional
        What `general_effect` measured on general inputs: it takes the place of `moments`, and where they hardly move,
        intruder dimensions are not named.
    siblings : object, optional
        Other adapters, for a shared initialization.

    Returns
    -------
    Examination
        Thresholds are calibrated on random, shipped and public adapters (benchmarks/doctor_false_alarms.py,
        benchmarks/minilm/doctor.py); docs/guide/questions.md has the rates.

    Raises
    ------
    AdapterError
        If the adapter cannot be read.

    Examples
    --------
    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> healthy = {"q": (torch.randn(4, 64, generator=draw), torch.randn(48, 4, generator=draw))}
    >>> examine(Adapter.from_factors(healthy)).frame.empty
    True
    """
    read = as_adapter(adapter)
    found = [*_assumed(read), *_dead(read), *_unspent(read), *_movement(read)]
    if base is not None:
        found += _intruders(read, base) if effect is None or effect.moved > MOVED else []
    if effect is not None:
        found += _moved(read, effect)
    elif moments is not None and base is not None:
        found += _general_inputs(read, moments, base)
    if siblings is not None:
        found += _siblings(read, as_adapters(siblings))
    found.sort(key=lambda one: SEVERITIES.index(one.severity))
    frame = pd.DataFrame(found, columns=list(Finding._fields))
    settings = settings_of(
        adapter=read.name, source=_source(read), modules=len(read), with_base=base is not None,
        with_inputs=moments is not None or effect is not None, with_siblings=siblings is not None,
    )  # fmt: skip
    return Examination(frame, settings)


def _source(adapter: Adapter) -> str:
    """What a command line would call it."""
    return str(adapter.metadata.get("source", adapter.name))


def _assumed(adapter: Adapter) -> Iterator[Finding]:
    source = _source(adapter)
    for assumption in dict.fromkeys(adapter.assumptions):
        yield Finding("wrong", str(assumption), math.nan, math.nan, math.nan, f"asym inspect {source}")
    refused = len(adapter.coverage.refused)
    if refused:
        tensor, reason = next(iter(adapter.coverage.refused.items()))
        text = f"{refused} tensors of the file could not be used ({tensor}: {reason})"
        yield Finding("wrong", text, refused, 0, 0, f"asym inspect {source}")
    changed = adapter.base_changed
    if changed:
        text = f"{changed}; the initial factors beside the file would make it exact"
        yield Finding("wrong", text, math.nan, math.nan, math.nan, f"asym inspect {source}")


def _dead(adapter: Adapter) -> Iterator[Finding]:
    # PEFT keeps a copy of a head that it trains, with an adapter that is not in use.
    own = [module for module in adapter if not module.endswith(".original_module")]
    zero = [module for module in own if adapter[module].frobenius_norm() == 0]
    if zero:
        text = f"{len(zero)} of {len(own)} modules have a zero update ({zero[0]}): they were not trained, or not saved"
        yield Finding("risk", text, len(zero), 0, 0, f"asym inspect {_source(adapter)}")


def _unspent(adapter: Adapter) -> Iterator[Finding]:
    shares = []
    for module in adapter:
        try:
            strengths = spectrum_of(adapter[module])[1].square().numpy()
        except AdapterError:
            continue
        rank = adapter.source(module).rank
        needed = int(np.searchsorted(np.cumsum(strengths) / strengths.sum(), 0.99 - 1e-12) + 1)
        if rank > 1:
            shares.append(needed / rank)
    if shares and np.median(shares) <= UNSPENT:
        text = (
            f"half of the modules hold 99 % of their energy in {np.median(shares):.0%} of their rank or less: "
            "a smaller rank would hold nearly the same update"
        )
        # A product of Gaussian factors needs nearly all of its directions for 99 percent.
        yield Finding("saving", text, float(np.median(shares)), 1.0, UNSPENT, f"asym ask ranks {_source(adapter)}")


def _movement(adapter: Adapter) -> Iterator[Finding]:
    frame = initialization_drift(adapter).frame
    known = frame[(frame["factor"] == "A") & frame["verdict"].isin(["measured", "inferred"])].dropna(subset=["value"])
    if len(known) < max(1, len(adapter) / 2):
        return
    moved = float(known["value"].median())
    error = float(known["std_error"].median())
    if moved + 2 * (error if math.isfinite(error) else 0.0) < HARDLY_MOVED:
        text = f"A moved by {moved:.1%} of its length: training it changed this update by little"
        yield Finding("saving", text, moved, 0.0, HARDLY_MOVED, f"asym drift {_source(adapter)}")


def _intruders(adapter: Adapter, base: Base) -> Iterator[Finding]:
    try:
        modules = intruder_dimensions(adapter, base).modules
    except AdapterError as error:
        yield Finding(
            "wrong", str(error), math.nan, math.nan, math.nan, f"asym intruders {_source(adapter)} --base BASE"
        )
        return
    loud = modules[modules["energy_share"] > INTRUDING]
    # A spike in random directions appears above the threshold of its module only.
    if len(loud) > len(modules) / 10:
        share = float(loud["energy_share"].median())
        text = (
            f"intruder dimensions hold {share:.0%} of the leading directions' energy in {len(loud)} of {len(modules)} "
            "modules: directions that the base model does not have; test for forgetting"
        )
        command = f"asym intruders {_source(adapter)} --base BASE"
        yield Finding("risk", text, share, 0.0, INTRUDING, command)


def _general_inputs(adapter: Adapter, moments: Moments, base: Base) -> Iterator[Finding]:
    try:
        frame = null_space_energy(adapter, moments, base=base).frame
    except AdapterError as error:
        yield Finding("wrong", str(error), math.nan, math.nan, math.nan, f"asym inspect {_source(adapter)}")
        return
    changed, chance = float(frame["response"].median()), float(frame["response_null"].median())
    if changed > LOUD:
        text = (
            f"half of the modules compute something else on general inputs, by {changed:.0%} or more (an update of "
            f"that size in random directions: {chance:.0%}): test the model on them"
        )
        command = f"asym ask null-space {_source(adapter)} --model MODEL --data TEXTS"
        yield Finding("risk", text, changed, chance, LOUD, command)


def _moved(adapter: Adapter, effect: GeneralEffect) -> Iterator[Finding]:
    if effect.moved > MOVED:
        text = (
            f"the last hidden states of general inputs move by {effect.moved:.0%} of their length (an update of that "
            f"size in random directions: {effect.chance:.0%}): the model forgets, or answers them as its task"
        )
        command = f"asym ask null-space {_source(adapter)} --model MODEL --data TEXTS"
        yield Finding("risk", text, effect.moved, effect.chance, MOVED, command)


def _siblings(adapter: Adapter, others: AdapterSet) -> Iterator[Finding]:
    own = [adapter, *(other for other in others if other is not adapter)]
    if len(own) < 2:
        return
    family = AdapterSet([run.replaced(name=f"{i}: {run.name}") for i, run in enumerate(own)])
    shared = shared_initialization(family)
    copies = [other.name for other in own[1:] if _same_factors(adapter, other)]
    if copies:
        text = f"it is a copy of {', '.join(copies[:3])}: every factor is the same"
        yield Finding("risk", text, len(copies), 0, 0, f"asym compare {_source(adapter)} {copies[0]}")
    same = [own[i].name for i in range(1, len(own)) if shared.agreement[0, i] >= 0.5 and own[i].name not in copies]
    if same:
        text = f"it shares its initialization with {', '.join(same[:3])}: a similar A says nothing of what was learned"
        command = f"asym compare {_source(adapter)} {same[0]}"
        yield Finding("risk", text, len(same), 0, 0, command)


def _same_factors(first: Adapter, second: Adapter) -> bool:
    """Whether two adapters have the same modules with equal factors, number by number."""
    return [*first] == [*second] and all(
        torch.equal(first[module].A, second[module].A) and torch.equal(first[module].B, second[module].B)
        for module in first
    )
