"""What a terminal shows: whole keys and words at 80 columns, light commands that start at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis.cli import COMMANDS, build_app
from asym_analysis.cli.console import Table, show_table

SAMPLES = Path(__import__("asym_analysis").__file__).parent / "samples"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    return 80


@pytest.fixture
def long_names(tmp_path: Path) -> Path:
    """A run whose modules have long names, as those of large models do."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(2):
        folder = tmp_path / f"llama-2-7b-instruction-seed-{seed}" / "checkpoint-64"
        folder.mkdir(parents=True)
        state = {}
        for layer in range(3):
            for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"):
                prefix = f"base_model.model.language_model.model.decoder.layers.{layer}.{name}"
                state[f"{prefix}.lora_A.weight"] = torch.randn(4, 64, generator=generator)
                state[f"{prefix}.lora_B.weight"] = torch.randn(48, 4, generator=generator)
        save_file(state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{run}/llama-2-7b-instruction-seed-0"),
        ("inspect", "{run}/*", "--modules"),
        ("compare", "{run}/*"),
        ("drift", "{run}/*"),
        ("share", "{run}/*"),
        ("share", "{run}/*", "--question", "merging"),
        ("bound", "{run}/llama-2-7b-instruction-seed-0", "--n", "1000", "--diagnostics"),
        ("bound", "{run}/llama-2-7b-instruction-seed-0", "--n", "1000", "--parametrizations"),
        ("variants",),
        ("simulate", "--d-in", "16", "--d-out", "16", "--draws", "20"),
    ],
    ids=" ".join,
)
def test_no_line_is_cut_or_wider_than_the_terminal(narrow: int, long_names: Path, asym, arguments) -> None:
    done = asym(*(argument.format(run=long_names) for argument in arguments))
    assert done.code == 0, done.err
    facts = ("  source", "  sha256", "  format")  # paths and sums are left whole, to be copied
    for line in done.out.splitlines():
        assert len(line) <= narrow or line.startswith(facts), line
    assert "…" not in done.out


def test_the_row_of_each_module_has_its_name(narrow: int, long_names: Path, asym) -> None:
    shown = asym("inspect", long_names / "llama-2-7b-instruction-seed-0").out
    assert "module below language_model.model.decoder.layers" in shown
    firsts = [line.split()[0] for line in shown.splitlines() if line.strip()]
    names = ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj")
    expected = {f"{layer}.{name}" for layer in range(3) for name in names}
    assert {first for first in firsts if first.endswith("_proj")} == expected


def test_columns_that_do_not_fit_are_named(narrow: int, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"key": ["a" * 30, "b" * 30], **{f"number_{i}": [i + 0.25, 1.5] for i in range(9)}})
    show_table(Table("t", frame, columns={name: name.replace("_", " ") for name in frame}))
    shown = capsys.readouterr().out
    table, _, left_out = shown.partition("not shown at this width: ")
    kept = table.splitlines()[-1].split()[1:]
    assert 0 < len(kept) < 9
    assert " ".join(left_out.split()).startswith(", ".join(f"number {i}" for i in range(len(kept), 9)))


def test_headings_take_three_lines_and_prose_more_before_a_column_is_left_out(
    narrow: int, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = "a claim in so many words that it would fill more than half of a narrow terminal"  # 3 lines of 32
    columns = {f"number_{i}": f"number of the column {i}" for i in range(4)}
    frame = pd.DataFrame(
        {"claim": [claim, "short"]} | {name: [0.125, 2.0] for name in columns} | {"empty": [None, None]}
    )
    show_table(Table("t", frame, columns={"claim": "claim"} | columns | {"empty": "empty"}))
    lines = capsys.readouterr().out.splitlines()
    assert not any("not shown" in line or "empty" in line for line in lines)
    assert max(map(len, lines)) <= narrow
    first = next(i for i, line in enumerate(lines) if line.startswith("a claim"))
    assert first <= 4
    assert lines[first].split()[-4:] == ["0.125"] * 4
    assert " ".join(line[:32].strip() for line in lines[first:-1]) == claim


def test_long_texts_stand_below_the_table(narrow: int, capsys: pytest.CaptureFixture[str]) -> None:
    note = "the entries of this factor do not follow any initialization that is known"
    show_table(Table("t", pd.DataFrame({"key": ["a", "b"], "note": [note, ""], "value": [1.0, 2.0]})))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["a", "(1)", "1"], ["b", "-", "2"]]
    assert lines[3] == f"(1) {note}"


def test_each_command_has_one_sentence_in_the_list_and_its_own_help(asym) -> None:
    listed = asym().out
    for names in COMMANDS.values():
        for name in names:
            assert f"  {name}" in listed
            done = asym(name, "--help")
            assert done.code == 0
            assert "--json" in done.out
    assert asym("--version").out.startswith("asym_analysis ")
    assert build_app().info.name == "asym"


def test_ask_alone_lists_its_questions(asym) -> None:
    done = asym("ask")
    assert done.code == 0
    assert "null-space" in done.out
    assert "Will it forget?" in done.out


def test_options_have_the_same_names_everywhere(asym) -> None:
    drawing = {"ask", "compare", "drift", "share", "intruders", "report", "bound", "simulate", "finetune"}
    for names in COMMANDS.values():
        for name in names:
            options = asym(name, "--help").out
            assert "--out" in options
            assert "--quiet" in options
            assert ("--figures" in options) == (name in drawing)
            assert "--figure " not in options


def _loaded(*arguments: str) -> set[str]:
    code = (
        "import sys, contextlib, io\n"
        "from asym_analysis.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({list(arguments)!r})\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (("--help",), {"pandas", "numpy", "rich", "torch"}),
        (("--version",), {"pandas", "numpy", "rich", "torch"}),
        (("bound", "--help"), {"pandas", "numpy", "rich", "torch"}),
        (("compare",), {"pandas", "torch"}),
        (("compare", "a", "--out", "x.txt"), {"pandas", "torch"}),
        (("finetune", "list"), {"pandas", "torch"}),
        (("finetune", "nothing-there"), {"pandas", "torch", "numpy"}),
        (("variants",), {"torch", "matplotlib"}),
    ],
)
def test_what_needs_no_adapter_loads_no_heavy_library(arguments: tuple[str, ...], absent: set[str]) -> None:
    assert not absent & _loaded(*arguments)


def test_help_starts_about_as_fast_as_typer() -> None:
    def seconds(*command: str) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
        return min(times)

    # 1.5 on a quiet machine; twice leaves room for busy ones and still fails if pandas (6 times) comes in.
    assert seconds("-m", "asym_analysis", "--help") < 2.0 * seconds("-c", "import typer") + 0.05


def test_a_table_whose_columns_are_all_alike_keeps_them(narrow: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_table(Table("scores", pd.DataFrame({"run": ["lora", "b-only"], "first": ["1.000 ± 0.000"] * 2})))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [["run", "first"], ["lora", "1.000", "±", "0.000"], ["b-only", "1.000", "±", "0.000"]]
