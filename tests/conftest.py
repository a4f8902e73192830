"""Fixtures that several test folders share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jaxtyping
import jsonschema
import pytest
import torch
from hypothesis import settings

from asym_analysis.cli import main

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"the development data {folder!r} is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def shared_adapters() -> Path:
    """Real adapters of many formats, beside the checkout on development machines."""
    return _shared("adapters")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Small real pretrained models, beside the checkout on development machines."""
    return _shared("models")


@pytest.fixture(scope="session")
def shared_datasets() -> Path:
    """Small real datasets, beside the checkout on development machines."""
    return _shared("datasets")


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Let wrong shapes through to the package's own messages, as they reach a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


SCHEMA = json.loads(files("asym_analysis.cli").joinpath("output.schema.json").read_text("utf-8"))


@dataclass(frozen=True)
class Output:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON on standard output, valid under the schema."""
        found = json.loads(self.out)
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        jsonschema.validate(found, SCHEMA)
        assert all(len(row) == len(table["columns"]) for table in found["tables"].values() for row in table["rows"])
        assert (self.code == 2) == bool(found["refused"])
        return found

    def records(self, table: str) -> list[dict[str, Any]]:
        """The rows of one of its tables as dictionaries."""
        held = self.document["tables"][table]
        return [dict(zip(held["columns"], row, strict=True)) for row in held["rows"]]


@pytest.fixture
def asym(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run `asym` with these arguments."""

    def run(*arguments: object) -> Output:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Output(int(stop.value.code or 0), captured.out, captured.err)

    return run
