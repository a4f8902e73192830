"""The script that waits for a GPU runs whole on a CPU, with a tiny model of the same class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from asym_analysis.subspaces.measures import MEASURES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_checks_pass_and_the_paper_length_is_trained(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tiny_glue, tmp_path, "--model", tiny_roberta, "--device", "cpu"]
    command += ["--seconds", 280, "--most", 1]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    checks = pd.read_csv(tmp_path / "checks.csv").set_index("check")
    assert len(checks) == len(MEASURES) + 4
    assert checks["passed"].all(), checks[["difference", "problem"]].to_string()
    # Of one device with itself only bfloat16 differs.
    assert (checks["difference"] > 0).sum() == 1
    assert "runs finished: lora-r8" in done.stdout
