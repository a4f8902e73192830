"""`asym simulate` in a shell of its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asym_analysis", "simulate", *arguments], capture_output=True, text=True, timeout=300
    )


def records(printed: str) -> list[dict]:
    table = json.loads(printed)["tables"]["losses"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_table_file_and_figure(tmp_path: Path) -> None:
    out, figure = tmp_path / "table.csv", tmp_path / "figures" / "least_squares"
    small = ["--d-in", "24", "--d-out", "16", "--rank", "2,4", "--draws", "100", "--seed", "3"]
    done = run(*small, "--json", "--out", str(out), "--figures", str(figure.parent))
    assert done.returncode == 0, done.stderr
    rows = records(done.stdout)
    table = pd.read_csv(out)
    assert len(rows) == len(table) == 6
    assert table["theory"].tolist() == pytest.approx([row["theory"] for row in rows])
    assert figure.with_suffix(".svg").exists()
    assert figure.with_suffix(".png").exists()


def test_finite_samples_at_the_first_rank() -> None:
    done = run("--d-in", "12", "--d-out", "8", "--rank", "2,4", "--samples", "20,40", "--draws", "40", "--json")
    assert done.returncode == 0, done.stderr
    rows = records(done.stdout)
    assert [(row["samples"], row["tuned"], row["rank"]) for row in rows] == [
        (20, "A", 2),
        (20, "B", 2),
        (40, "A", 2),
        (40, "B", 2),
    ]


def test_input_errors_are_one_sentence() -> None:
    done = run("--rank", "2,x")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "whole numbers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = run("--d-in", "8", "--d-out", "8", "--rank", "9", "--draws", "10")
    assert done.returncode == 1
    assert "is 9: give a whole number" in done.stderr
