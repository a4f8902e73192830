"""PEFT's own list of test configurations: each saved by PEFT, read here, and held to its merged weight.

The change of a weight is the merged weight minus the base's.

    git clone https://github.com/huggingface/peft
    python benchmarks/peft_suite.py peft                 # counts, and every case that is not right
    python benchmarks/peft_suite.py peft --only LoHa

Of PEFT's tests only the list of cases and the models are used (tests/test_custom_models.py), none of its test code. A
case is "right" from the file alone, "right with base" where the layout or the update needs the base weight, "refused"
with the sentence, or "wrong".
"""

from __future__ import annotations

import argparse
import collections
import copy
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from asym_analysis import Adapter, AdapterError, load_adapter
from asym_analysis.adapters import LowRankUpdate


def main() -> None:
    """Print the counts and every case that is not right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peft", type=Path, help="a checkout of PEFT")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes = [(name, *_outcome(*case)) for name, *case in _cases(arguments.peft) if arguments.only in name]
    print(len(outcomes), dict(collections.Counter(outcome for _, outcome, _ in outcomes)))
    for name, outcome, why in outcomes:
        if not outcome.startswith("right"):
            print(f"{name}: {outcome}: {why}")


def _cases(checkout: Path) -> Iterator[tuple[str, nn.Module, type, dict[str, Any]]]:
    """Name, model, config class and options of each of PEFT's cases."""
    sys.path.insert(0, str(checkout))
    helpers = types.ModuleType("tests.testing_common")
    utilities = types.ModuleType("tests.testing_utils")
    same = lambda *_, **__: lambda function: function  # noqa: E731
    helpers.__dict__.update(PeftCommonTester=object)
    helpers.__dict__.update(dict.fromkeys(("_skip_if_deleting_adapter_not_supported",), same))
    helpers.__dict__.update(dict.fromkeys(("_skip_if_merging_not_supported",), same))
    utilities.__dict__.update(get_state_dict=same, require_non_cpu=lambda test: test, set_init_weights_false=same)
    sys.modules |= {"tests.testing_common": helpers, "tests.testing_utils": utilities}
    suite = __import__("tests.test_custom_models", fromlist=["TEST_CASES"])
    for name, model, config, options in suite.TEST_CASES:
        kind = config.__name__.removesuffix("Config")
        yield f"{name} [{kind}]", suite.MockTransformerWrapper.from_pretrained(model).eval(), config, options


def _outcome(base: nn.Module, config: type, options: dict[str, Any]) -> tuple[str, str]:
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = peft.get_peft_model(base, config(**copy.deepcopy(options))).eval()
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.1
    try:
        after = copy.deepcopy(model).merge_and_unload().state_dict()
    except NotImplementedError:
        after = None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        said = ""
        for how, given in (("right", None), ("right with base", before)):
            try:
                adapter = load_adapter(folder, base=given)
            except AdapterError as error:
                outcome, said = "refused", str(error).replace(folder, "")
                continue
            said = _difference(adapter, before, after)
            if not said:
                return how, ""
            outcome = "not merged by PEFT" if after is None else "wrong"
    return outcome, said


def _difference(adapter: Adapter, before: dict[str, Tensor], after: Any) -> str:
    """What is wrong with an adapter, or nothing."""
    if after is None:
        return f"{', '.join(adapter)} read, and PEFT does not merge it"
    found = set()
    for module in adapter:
        name = f"{module}.weight" if f"{module}.weight" in before else f"{module}.in_proj_weight"
        found.add(name)
        if name not in before:
            return f"{module} is no module of the model"
        ours, change = _effective(adapter[module], before[name]), after[name] - before[name]
        if ours.shape != change.shape:
            return f"{module} has the layout {tuple(ours.shape)}, its weight {tuple(change.shape)}"
        # PEFT adds the update of attention's output projection twice.
        error = min((times * ours - change).norm() for times in ((1, 2) if module.endswith("out_proj") else (1,)))
        if error > 1e-4 * change.norm():
            return f"{module} is off by {error / change.norm():.2g}"
    trained = {name.replace(".token_adapter", "") for name in adapter.extras}
    for name, weight in before.items():
        covered = name in found or any(name.partition(".")[0] == extra.partition(".")[0] for extra in trained)
        if name.endswith("weight") and not covered and not torch.equal(after[name], weight):
            return f"{name} was changed, and no module says so"
    return ""


def _effective(update: LowRankUpdate, weight: Tensor) -> Tensor:
    """The change of the weight, DoRA's magnitude included."""
    delta = update.delta()
    if update.magnitude is None or delta.shape != weight.shape:
        return delta
    summed = weight + delta
    rows = (summed.mT if update.stored_transposed else summed).flatten(1)
    scaled = rows * (update.magnitude / rows.norm(dim=1))[:, None]
    scaled = scaled.mT if update.stored_transposed else scaled.reshape(weight.shape)
    return scaled - weight


if __name__ == "__main__":
    main()
