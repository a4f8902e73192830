"""The shell's manners: exit codes, one-sentence errors, JSON for programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import load_adapter, load_adapters


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three tiny PEFT adapters: the first two share their A."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 64, generator=generator)
    for index in range(3):
        folder = tmp_path / f"run-{index}"
        folder.mkdir()
        tensors = {}
        for layer in range(2):
            A = shared if index < 2 else torch.randn(4, 64, generator=generator)
            name = f"base_model.model.encoder.layer.{layer}.query"
            tensors[f"{name}.lora_A.weight"] = A + layer
            tensors[f"{name}.lora_B.weight"] = torch.randn(48, 4, generator=generator)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"]})
        )
    return tmp_path


def test_compare_prints_a_table_and_writes_every_row(runs: Path, asym) -> None:
    out = runs / "table.csv"
    done = asym("compare", *sorted(runs.glob("run-*")), "--out", out)
    assert done.code == 0
    assert "overlap" in done.out
    frame = pd.read_csv(out)
    assert len(frame) == 3 * 2 * 2
    shared = frame[(frame["adapter_i"] == "run-0") & (frame["adapter_j"] == "run-1") & (frame["factor"] == "A")]
    assert shared["value"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert shared["same_initialization"].tolist() == [True, True]


def test_json_goes_to_standard_output_alone(runs: Path, asym) -> None:
    done = asym("compare", *sorted(runs.glob("run-*")), "--json")
    assert done.code == 0
    assert done.document["settings"]["measure"] == "overlap"
    assert {row["factor"] for row in done.records("summary")} == {"A", "B"}


def test_a_path_that_cannot_be_read_is_named_and_the_rest_compared(runs: Path, asym) -> None:
    (runs / "empty.safetensors").write_bytes(b"")
    done = asym("compare", runs / "run-0", runs / "run-1", runs / "empty.safetensors")
    assert done.code == 2
    assert "empty.safetensors" in done.err
    told = asym("compare", runs / "run-0", runs / "run-1", runs / "empty.safetensors", "--json")
    assert [refused["source"] for refused in told.document["refused"]] == [str(runs / "empty.safetensors")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "at least two adapters"),
        (("compare", "run-0", "--measure", "nearness"), "no measure is called 'nearness'"),
        (("compare", "run-0"), "needs at least two adapters"),
        (("compare", "nowhere-at-all-7"), "nowhere-at-all-7 does not exist"),
        (("compare", "run-0", "run-1", "--by", "task"), "task"),
        (("report", "--out", "x.pdf"), "ends in .html"),
        (("compare", "run-0", "run-1", "--out", "table.xlsx"), "--out table.xlsx: the suffix must be"),
        (("drift", "run-0", "--out", "run-1"), "--out run-1: the suffix must be"),
        (("drift", "run-0", "--figures", "run-0/adapter_config.json"), "is a file: give a folder"),
        (("drift", "run-0", "--figures", "run-0/adapter_config.json/x"), "not a folder that you may write to"),
        (("drift", "run-0", "--alpha", "-1"), "finite numbers above 0"),
        (("inspect", "run-0", "--config", "broken.json"), "broken.json"),
        (("finetune", "copy", "nothing"), "there is no shipped config nothing; the names are"),
        (("inspect",), "name an adapter"),
        (("nonsense",), "nonsense"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_one(
    runs: Path, monkeypatch: pytest.MonkeyPatch, asym, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(runs)
    (runs / "broken.json").write_text("{")
    before = sorted(runs.rglob("*"))
    done = asym(*arguments)
    assert done.code == 1
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert sorted(runs.rglob("*")) == before


def test_metadata_joins_by_name(runs: Path, asym) -> None:
    pd.DataFrame({"name": ["run-2", "run-0", "run-1"], "task": ["y", "x", "x"]}).to_csv(runs / "runs.csv", index=False)
    done = asym("compare", *sorted(runs.glob("run-*")), "--metadata", runs / "runs.csv", "--by", "task")
    assert done.code == 0
    assert "same against different task" in done.out


def test_metadata_that_do_not_fit_are_refused(runs: Path, asym) -> None:
    pd.DataFrame({"task": ["y"]}).to_csv(runs / "short.csv", index=False)
    done = asym("compare", runs / "run-0", runs / "run-1", "--metadata", runs / "short.csv")
    assert done.code == 1
    assert "2 adapters" in " ".join(done.err.split())


def test_adapters_have_the_names_that_python_gives_them(runs: Path, asym) -> None:
    for folder in ("a", "b"):
        (runs / folder).mkdir()
        (runs / "run-0").rename(runs / folder / "seed-1") if folder == "a" else (runs / "run-1").rename(
            runs / folder / "seed-1"
        )
    paths = [runs / "a" / "seed-1", runs / "b" / "seed-1"]
    done = asym("compare", *paths, "--json")
    assert (
        [row["name"] for row in done.records("adapters")]
        == list(load_adapters(paths).names)
        == ["a/seed-1", "b/seed-1"]
    )


@pytest.fixture
def training_run(runs: Path) -> Path:
    """A run with three checkpoints, the second of which is broken."""
    folder = runs / "training"
    for step, source in ((10, "run-0"), (20, "run-1"), (30, "run-2")):
        shutil.copytree(runs / source, folder / f"checkpoint-{step}")
    (folder / "checkpoint-20" / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_a_run_with_one_broken_checkpoint_is_read_without_it(training_run: Path, asym) -> None:
    done = asym("compare", training_run, "--json")
    assert done.code == 2
    names = [row["name"] for row in done.records("adapters")]
    assert names == ["training/checkpoint-10", "training/checkpoint-30"]
    assert "checkpoint-20" in done.document["refused"][0]["source"]
    assert "checkpoint-20" in done.err


def test_the_last_checkpoint_alone(training_run: Path, asym) -> None:
    (training_run / "checkpoint-20" / "adapter_model.safetensors").unlink()
    read = lambda: [row["adapter"] for row in asym("inspect", training_run, "--last", "--json").records("adapters")]  # noqa: E731
    assert read() == ["training/checkpoint-30"]
    assert asym("bound", training_run, "--n", 100, "--last").code == 0
    shutil.copy(training_run.parent / "run-0" / "adapter_model.safetensors", training_run)
    shutil.copy(training_run.parent / "run-0" / "adapter_config.json", training_run)
    assert read() == ["training"]  # what the run ended with


def test_what_the_file_does_not_say_is_an_option_and_an_assumption_is_said(runs: Path, asym) -> None:
    (runs / "run-0" / "adapter_config.json").unlink()
    silent = asym("inspect", runs / "run-0")
    assert silent.code == 0
    assert "the scale is assumed to be" in " ".join(silent.err.split())
    given = asym("inspect", runs / "run-0", "--alpha", 12, "--json")
    assert {row["scaling"] for row in given.records("modules")} == {3.0}
    assert given.document["notes"] == []
    scaled = asym("inspect", runs / "run-0", "--scale", 0.25, "--json")
    assert scaled.document["notes"] == []
    assert {row["scaling"] for row in scaled.records("modules")} == {0.25}
    (runs / "mine.yaml").write_text("peft_type: LORA\nr: 4\nlora_alpha: 8\n")
    configured = asym("inspect", runs / "run-0", "--config", runs / "mine.yaml", "--json")
    assert {row["scaling"] for row in configured.records("modules")} == {2.0}


def test_quiet_leaves_only_results_and_refusals(runs: Path, asym) -> None:
    done = asym("drift", runs / "run-0", "--quiet", "--out", runs / "t.csv")
    assert done.err == ""
    assert "relative distance from the initialization" in done.out


@pytest.mark.parametrize("to", ["peft", "kohya", "diffusers"])
def test_convert_writes_what_reads_back_the_same(runs: Path, asym, to: str) -> None:
    if to == "diffusers":
        asked = asym("convert", runs / "run-0", runs / "converted", "--to", to)
        assert asked.code == 1
        assert "give --component, one of unet" in " ".join(asked.err.split())
    component = ("--component", "transformer") if to == "diffusers" else ()
    done = asym("convert", runs / "run-0", runs / "converted", "--to", to, *component, "--json")
    assert done.code == 0, done.err
    rows = done.records("modules")
    assert len(rows) == 2
    assert max(row["relative_error"] for row in rows) < 1e-6
    assert {row["scaling"] for row in rows} == {2.0}
    again = asym("convert", runs / "run-0", runs / "converted", "--to", to, *component)
    assert again.code == 1
    assert "--overwrite" in again.err


def test_resize_keeps_the_leading_directions(runs: Path, asym) -> None:
    done = asym("resize", runs / "run-0", runs / "smaller", "--rank", 2, "--json")
    assert done.code == 0, done.err
    for row in done.records("modules"):
        values = load_adapter(runs / "run-0")[row["module"]].singular_values().double().square()
        assert row["rank"] == 2
        assert row["kept"] == pytest.approx((values[:2].sum() / values.sum()).item(), rel=1e-6)
    assert load_adapter(runs / "smaller").ranks == (2,)
    assert asym("resize", runs / "run-0", runs / "other").code == 1
    assert asym("resize", runs / "run-0", runs / "other", "--rank", 2, "--energy", 0.5).code == 1
    assert not (runs / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "tables"),
    [
        (("simulate", "--d-in", "8", "--d-out", "8", "--rank", "2", "--draws", "20"), {"losses"}),
        (("variants",), {"scores", "claims"}),
        (("report", "{run}/run-0", "{run}/run-2", "--out", "{run}/page.html", "--n", "100"), {"findings"}),
        (("bound", "{run}/run-0", "--n", "100"), {"bounds"}),
        (("bound", "{run}/run-0", "--n", "100", "--parametrizations"), {"bounds", "parametrizations"}),
        (("share", "{run}/run-0", "{run}/run-2"), {"summary"}),
        (("resize", "{run}/run-0", "{run}/small", "--energy", "0.5"), {"modules"}),
        (("doctor", "{run}/run-0"), {"findings"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_of_every_command_is_valid_under_the_schema(runs: Path, asym, arguments, tables) -> None:
    done = asym(*(argument.format(run=runs) for argument in arguments), "--json")
    assert done.document["command"] == arguments[0]
    assert tables <= set(done.document["tables"])
    assert done.document["version"]


def test_the_old_name_of_the_figures_still_works(runs: Path, asym) -> None:
    done = asym("bound", runs / "run-0", "--n", 100, "--figure", runs / "drawn" / "ladder")
    assert done.code == 0
    assert (runs / "drawn" / "bounds.svg").exists()
    assert "--figure is now --figures FOLDER" in " ".join(done.err.split())


def test_one_adapter_alone_has_a_report(runs: Path, asym) -> None:
    done = asym("report", runs / "run-0", "--out", runs / "alone" / "page.html")
    assert done.code == 0
    assert (runs / "alone" / "figures").is_dir()
    assert "asym" in (runs / "alone" / "page.html").read_text()
    assert "90 % of the update's energy" in " ".join(done.out.split())


def test_checkpoints_that_are_compared_as_runs_are_named(training_run: Path, asym) -> None:
    said = " ".join(asym("compare", training_run).err.split())
    assert "are checkpoints of 1 training run: the past of a run, and no further runs; --last reads" in said


def test_a_table_of_metadata_goes_with_the_last_checkpoints(training_run: Path, asym) -> None:
    (training_run / "checkpoint-20" / "adapter_model.safetensors").unlink()
    table = training_run.parent / "labels.csv"
    pd.DataFrame({"task": ["x"]}).to_csv(table, index=False)
    done = asym("inspect", training_run, "--last", "--metadata", table, "--json")
    assert done.code == 0
