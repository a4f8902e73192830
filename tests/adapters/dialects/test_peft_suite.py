"""All that the installed PEFT can adapt: read to its merged weight minus the base's, or refused for the true reason.

The list of methods comes from PEFT's registry, so that a new one fails here until it is read or its reason is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from asym_analysis import AdapterError, load_adapter
from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.dialects.peft.refusals import REFUSED
from asym_analysis.adapters.dialects.peft.tuners import KNOWN
from asym_analysis.errors import NotAnAdapterError

from .peft_zoo import OPTIONS, Case, cases, layer_methods, several_layers

#: Sentences that say truly why a file of a method that is read holds an update that is not.
TRUE_REASONS = (
    "Lily mixes 2 matrices B by a router that reads each input",
    "Super-Tuning without its pair (r=None) changes single entries of a weight",
)
#: Sentences that say truly what is missing where no base model is given.
NEEDS_BASE = ("give base=", "give it with base=")
SEVERAL = [
    (kind, label)
    for kind in ("LORA", "VERA", "PVERA", "VBLORA", "RANDLORA", "TINYLORA", "UNILORA", "MISS", "GLORA", "HIRA")
    for label in OPTIONS.get(kind, {"": {}})
    if label not in ("mini", "DoRA")
]


def test_every_method_of_the_installed_peft_is_read_or_refused_by_name() -> None:
    methods = {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert methods - KNOWN - REFUSED.keys() == set(), "read them in tuners.py, or say in refusals.py why not"
    assert KNOWN & REFUSED.keys() == set()


@pytest.mark.parametrize("kind", layer_methods())
def test_update_is_the_merged_weight_minus_the_base(kind: str, tmp_path: Path) -> None:
    counts = {"right": 0, "refused": 0}
    for number, case in enumerate(cases(kind)):
        folder = tmp_path / str(number)
        case.model.save_pretrained(folder)
        counts[_outcome(case, folder)] += 1
    assert sum(counts.values()) > 0, "PEFT adapts no layer with these options: give others in peft_zoo.OPTIONS"
    assert (counts["right"] == 0) == (kind in REFUSED or kind == "LILY"), counts


def _outcome(case: Case, folder: Path) -> str:
    where = f"{case.kind} {case.label} on {case.layer}"
    if case.kind in REFUSED:
        with pytest.raises(NotAnAdapterError) as refusal:
            load_adapter(folder)
        assert REFUSED[case.kind][1] in str(refusal.value), where
        return "refused"
    with_base = _opened(folder, base=case.before)
    if isinstance(with_base, str):
        assert any(reason in with_base for reason in TRUE_REASONS), f"{where}: {with_base}"
        return "refused"
    assert with_base.coverage.complete, where
    _assert_right(with_base, case, where, layout=True)
    _assert_right(load_adapter(case.model), case, f"{where}, open", layout=True)
    alone = _opened(folder)
    if isinstance(alone, str):
        assert any(text in alone for text in NEEDS_BASE), f"{where}: {alone}"
    else:
        _assert_right(alone, case, f"{where}, file alone", layout=False)
    return "right"


def _opened(folder: Path, **options: Any) -> Adapter | str:
    """The adapter, or the sentence that refuses it."""
    try:
        return load_adapter(folder, **options)
    except AdapterError as error:
        return str(error)


@pytest.mark.parametrize(("kind", "label"), SEVERAL)
def test_layers_of_different_sizes_together(kind: str, label: str, tmp_path: Path) -> None:
    """What is shared between layers, and drawn in the model's order, comes to each as PEFT gives it."""
    case = several_layers(kind, label)
    assert case.after is not None
    case.model.save_pretrained(tmp_path)
    alone = _opened(tmp_path)
    adapters = [load_adapter(tmp_path, base=case.before), load_adapter(case.model)]
    if isinstance(alone, str):
        assert any(text in alone for text in NEEDS_BASE), alone
    else:
        adapters.append(alone)
    for adapter in adapters:
        assert set(adapter) == {"10", "2"}
        for module in adapter:
            change = case.after[f"{module}.weight"] - case.before[f"{module}.weight"]
            torch.testing.assert_close(adapter[module].delta(), change, rtol=1e-4, atol=1e-5)


def _assert_right(adapter: Adapter, case: Case, where: str, *, layout: bool) -> None:
    assert set(adapter) <= {"adapted", "adapted.out_proj"}, where
    for module in adapter:
        update = adapter[module]
        expected = _expected(case, module)
        ours = update.delta()
        if update.magnitude is not None:
            ours = _normalized(case.before["adapted.weight"], update, case.layer)
        assert not layout or ours.shape == expected.shape, f"{where}: {tuple(ours.shape)} for {tuple(expected.shape)}"
        difference = torch.linalg.norm(ours.reshape(expected.shape) - expected)
        assert difference <= 1e-4 * torch.linalg.norm(expected), f"{where}: off by {difference}"
        assert expected.abs().max() > 0, where


def _expected(case: Case, module: str) -> torch.Tensor:
    if (case.layer == "grouped" and case.kind == "LORA") or case.after is None:
        return _as_a_function(case)
    name = "adapted.in_proj_weight" if case.layer == "attention" and module == "adapted" else f"{module}.weight"
    change = case.after[name] - case.before[name]
    # PEFT adds the update of attention's output projection twice, when it merges and when it runs.
    return change / 2 if module.endswith("out_proj") else change


def _as_a_function(case: Case) -> torch.Tensor:
    """The change of the weight of a linear map or convolution that PEFT does not merge, from what the layer does."""
    layer: Any = case.model.get_base_model().adapted
    if case.layer == "grouped":
        # One output of the convolution for each input of its kernel's receptive field that is one and else zero.
        inputs = torch.eye(4 * 3 * 3).reshape(36, 4, 3, 3)
        with torch.no_grad():
            return (layer(inputs) - layer.base_layer(inputs)).reshape(36, 6).T.reshape(6, 4, 3, 3)
    inputs = torch.eye(layer.in_features)
    with torch.no_grad():
        return (layer(inputs) - layer.base_layer(inputs)).T


def _normalized(weight: torch.Tensor, update: Any, layer: str) -> torch.Tensor:
    """DoRA's change of a weight from its parts: outputs of the summed weight rescaled to the trained magnitudes."""
    summed = weight + update.delta()
    outputs = summed.mT if update.stored_transposed else summed
    rows = outputs.flatten(1)
    scaled = (rows * (update.magnitude / rows.norm(dim=1))[:, None]).reshape(outputs.shape)
    return (scaled.mT if update.stored_transposed else scaled) - weight
