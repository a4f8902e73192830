"""The commands that the doctor names are about the file that it was given."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from asym_analysis import examine, load_adapter


def test_a_command_names_the_file_once(tmp_path: Path, asym) -> None:
    folder = tmp_path / "run" / "run"
    folder.mkdir(parents=True)
    file = folder / "run.safetensors"
    save_file({"q.lora_A.weight": torch.randn(4, 16), "q.lora_B.weight": torch.randn(12, 4)}, file)
    (command,) = examine(load_adapter(file)).frame["next"]
    assert command == f"asym inspect {file}"
    shown = asym("doctor", file, "--json")
    assert shown.records("findings")[0]["next"] == f"asym inspect {file}"
