"""Every public callable says what it does, takes and returns: numpydoc's own validation, as configured."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import Validator, validate

ROOT = Path(__file__).resolve().parents[1]
CHECKS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]["checks"])
ROOMS = ["", ".bounds", ".least_squares", ".questions", ".prediction", ".finetuning", ".finetuning.results", ".chance"]

#: These need a pretrained model and a data set, so an example of theirs would not run. The list may only shrink.
WITHOUT_EXAMPLE = {
    f"asym_analysis.finetuning.{name}"
    for name in (
        "estimate.estimate_sweep",
        "models.task_batches",
        "statistics.measure_statistics",
        "sweep.run_sweep",
        "sweep_prediction.predict_sweep",
        "train.finetune",
    )
}


def public() -> list[tuple[str, set[str]]]:
    """Full name of each public callable, with the checks that apply to it."""
    names: dict[str, set[str]] = {}
    for room in ROOMS:
        module = importlib.import_module(f"asym_analysis{room}")
        for thing in (getattr(module, name) for name in module.__all__):
            home = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
            if not callable(thing) or not home.startswith("asym_analysis."):
                continue
            names[home] = CHECKS - {"EX01"} if inspect.isclass(thing) or home in WITHOUT_EXAMPLE else CHECKS
            for method, value in vars(thing).items() if inspect.isclass(thing) else ():
                member = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
                if member and not method.startswith("_"):
                    names[f"{home}.{method}"] = CHECKS - {"EX01", "PR01"}
    return sorted(names.items())


def problems(name: str, checks: set[str]) -> list[str]:
    """What numpydoc finds. A field may stand under Attributes, since users do not build results."""
    thing = Validator._load_obj(name)
    known = inspect.isclass(thing) and (getattr(thing, "_is_protocol", False) or fields(thing) <= documented(thing))
    skipped = {"PR01"} if known else set()
    return [f"{code} {text}" for code, text in validate(name)["errors"] if code in checks - skipped]


def fields(thing: type) -> set[str]:
    if dataclasses.is_dataclass(thing):
        return {field.name for field in dataclasses.fields(thing) if field.init}
    return set(getattr(thing, "_fields", inspect.signature(thing.__init__).parameters)) - {"self"}


def documented(thing: type) -> set[str]:
    page = NumpyDocString(inspect.getdoc(thing) or "")
    entries = [*page["Parameters"], *page["Attributes"]]
    return {name.strip() for entry in entries for name in entry.name.split(",")}


@pytest.mark.parametrize(("name", "checks"), public())
def test_a_public_name_is_documented(name: str, checks: set[str]) -> None:
    assert problems(name, checks) == []


def test_the_exceptions_are_few_and_needed() -> None:
    assert len(WITHOUT_EXAMPLE) <= 6
    assert [name for name in sorted(WITHOUT_EXAMPLE) if not problems(name, {"EX01"})] == []


def test_a_poor_docstring_is_noticed() -> None:
    """The standard library's are not in this form."""
    assert {problem[:4] for problem in problems("textwrap.dedent", CHECKS)} >= {"PR01", "RT01"}
