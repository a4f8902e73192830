"""A short slice of the fuzz run; the whole is `python tests/fuzz/harness.py --files 20000`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf")


def test_spoiled_files_load_right_or_are_refused():
    """In a process of its own, whose peak memory is the loader's."""
    harness = Path(__file__).with_name("harness.py")
    run = subprocess.run(
        [sys.executable, str(harness), "--files", "900", "--seed", "2024"], capture_output=True, text=True, check=False
    )
    report = json.loads(run.stdout)
    assert not report["failures"], report["failures"][:3]
    assert report["memory_within_bound"], report
    assert run.returncode == 0
    assert report["files"] == 900
    sound = {name: outcomes for name, outcomes in report["outcomes"].items() if name.startswith("sound ")}
    assert len(sound) == 6
    assert not any(outcomes.get("refused") for outcomes in sound.values())
    for container, outcomes in report["outcomes"].items():
        if container in sound:
            continue
        assert outcomes.get("refused", 0) > 20, container  # the mutations bite
        assert sum(count for outcome, count in outcomes.items() if outcome.startswith("loaded")) > 0, container
