"""Running a command in the process, and reading its JSON as the shipped schema says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from asym_analysis.cli import main

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
