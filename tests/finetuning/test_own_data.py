"""A user's own tables, texts and folders of images, from a short config to a trained adapter, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from asym_analysis import load_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import read_sweep
from asym_analysis.finetuning.storage import read_run
from asym_analysis.finetuning.tasks import ClassificationTask, ImageFolderTask, LanguageModellingTask
from asym_analysis.finetuning.tasks.base import held_out_rows, read_rows

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "no bird sang at night", "one fish swam and ate"]


def table(folder: Path, name: str, count: int = 24, **columns: list[str]) -> Path:
    """Rows in two classes, as a user has them: words as labels, and a column that nobody asked for."""
    frame = pd.DataFrame(
        {
            "id": range(count),
            "text": [TEXTS[i % 4] for i in range(count)],
            "other": [TEXTS[(i + 1) % 4] for i in range(count)],
            "label": [["animal", "none"][i % 2] for i in range(count)],
            **columns,
        }
    )
    path = folder / name
    match path.suffix:
        case ".json":
            path.write_text(frame.to_json(orient="records"))
        case ".jsonl":
            path.write_text(frame.to_json(orient="records", lines=True))
        case ".tsv":
            frame.to_csv(path, sep="\t", index=False)
        case _:
            frame.to_csv(path, index=False)
    return path


def config(folder: Path, model: Path, *lines: str) -> Path:
    """Five lines, and two that keep a test short."""
    path = folder / "own.toml"
    first = [f"settings.model = {json.dumps(str(model))}", 'settings.target_modules = "all-linear"']
    path.write_text("\n".join([*first, *lines, "settings.rank = 2", "settings.max_steps = 3"]))
    return path


@pytest.mark.parametrize("name", ["mine.csv", "mine.json"])
def test_a_table_of_texts_trains_an_encoder(name: str, tiny_roberta: Path, tmp_path: Path, asym) -> None:
    table(tmp_path, name)
    plan = config(
        tmp_path, tiny_roberta, 'settings.task.kind = "classification"', f'settings.task.train_file = "{name}"'
    )
    done = asym("finetune", plan, "--runs", tmp_path / "runs", "--json")
    assert done.code == 0, done.err
    row = done.records("runs")[0]
    assert (row["task"], row["metric"], row["steps"], row["baseline"]) == ("mine", "accuracy", 3, 0.5)
    assert row["train_rows"] == 20  # of 12 rows of each class 2 are held out
    assert read_run(tmp_path / "runs" / "run").metrics["classes"] == ["animal", "none"]
    adapter = load_adapter(tmp_path / "runs" / "run")
    assert {"classifier.dense.weight", "classifier.out_proj.weight"} <= {
        key.split("model.")[-1] for key in adapter.extras
    }
    assert adapter.initial is not None
    record = read_run(tmp_path / "runs" / "run").training_record()
    assert record is not None
    assert record.frame["step"].unique().tolist() == [1, 2, 3]  # so short a run is recorded at its checkpoints
    moved = record.frame.query("factor == 'A' and step == 3").set_index("module")["value"]
    assert set(moved.index) == set(adapter)
    for module in adapter:
        now, then = adapter[module].A, adapter.initial[module].A
        assert moved[module] == pytest.approx(((now - then).norm() / then.norm()).item(), rel=1e-4)


def test_pairs_train_a_decoder_without_a_padding_token(tiny_gpt2: Path, tmp_path: Path, asym) -> None:
    data = table(tmp_path, "pairs.jsonl")
    plan = config(
        tmp_path,
        tiny_gpt2,
        'settings.task.kind = "classification"',
        'settings.task.train_file = "elsewhere.csv"',
        'settings.task.text_pair = "other"',
    )
    done = asym("finetune", plan, "--data", data, "--runs", tmp_path / "runs", "--json")
    assert done.code == 0, done.err
    assert done.records("runs")[0]["task"] == "pairs"


@pytest.mark.parametrize(("name", "column"), [("notes.csv", "other"), ("notes.txt", "text")])
def test_texts_train_a_language_model(name: str, column: str, tiny_llama: Path, tmp_path: Path, asym) -> None:
    if name.endswith(".csv"):
        table(tmp_path, name)
    else:
        (tmp_path / name).write_text("\n\n".join(TEXTS * 6))
    plan = config(
        tmp_path,
        tiny_llama,
        'settings.task.kind = "language_modelling"',
        f'settings.task.train_file = "{name}"',
        f'settings.task.column = "{column}"',
        "settings.task.window = 8",
    )
    done = asym("finetune", plan, "--runs", tmp_path / "runs", "--json")
    assert done.code == 0, done.err
    row = done.records("runs")[0]
    assert (row["metric"], row["lower_is_better"]) == ("loss", True)
    windows = LanguageModellingTask(tmp_path, name, column=column, window=8)
    data = windows.data(windows.processor(str(tiny_llama)))
    assert row["train_rows"] == len(data.train)
    assert len(data.dev) == (len(data.train) + len(data.dev)) // 10


def test_folders_of_images_train_a_vision_transformer(tiny_vit: Path, tmp_path: Path, asym) -> None:
    photographs(tmp_path / "photographs")
    plan = config(tmp_path, tiny_vit, 'settings.task.kind = "images"', 'settings.task.data_folder = "photographs"')
    text = plan.read_text().replace('"all-linear"', '["query", "value", "q_proj", "v_proj"]')
    plan.write_text(text)
    done = asym("finetune", plan, "--runs", tmp_path / "runs", "--json")
    assert done.code == 0, done.err
    row = done.records("runs")[0]
    assert (row["task"], row["metric"], row["train_rows"]) == ("photographs", "accuracy", 10)
    assert len(load_adapter(tmp_path / "runs" / "run")) == 4


def photographs(folder: Path, count: int = 6) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_a_shipped_config_runs_on_data_and_a_model_that_are_named(tiny_roberta: Path, tmp_path: Path, asym) -> None:
    data = table(tmp_path, "mine.csv")
    planned = read_sweep("own-texts", data=data, model=str(tiny_roberta))
    assert [run.name for run in planned] == ["lora", "b-only"]
    assert {run.config.task.files()[0] for run in planned} == {data}
    listed = asym("finetune", "list").out
    assert "own-texts" in listed
    assert "Your own texts in classes" in " ".join(listed.split())


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({}, {"text": "words"}, "mine.csv has no column 'words'; it has id, text, other, label: name yours in"),
        ({}, {"text_pair": "second"}, "name yours in settings.task.text_pair"),
        ({}, {"label": "class"}, "name yours in settings.task.label"),
        ({}, {"label": "id"}, "column 'id' has 24 different values in 24 rows"),
        ({"label": ["one"] * 24}, {}, "mine.csv has one class, 'one'"),
        ({"label": ["a"] * 21 + ["b"] * 3}, {}, "mine.csv: column 'label': class 'b' has 3 rows"),
        ({"label": ["a", "b"] * 11 + ["a", None]}, {}, "mine.csv, row 24: column 'label' is empty"),
        ({"text": ["", *["cat"] * 23]}, {}, "mine.csv, row 1: column 'text' is empty"),
        ({}, {"dev_file": "dev.csv"}, "dev.csv has the label 'new', which"),
        ({}, {"dev_file": "gone.csv"}, "there is no"),
        ({}, {"held_out": 1.0}, "settings.task.held_out is 1"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_by_file_and_key(
    columns: dict[str, list[str]], settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    table(tmp_path, "mine.csv", **columns)
    table(tmp_path, "dev.csv", label=["animal", "new"] * 12)
    with pytest.raises(AdapterError) as refused:
        ClassificationTask("mine.csv", tmp_path, **settings).check()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_made_where_the_data_are_refused(tiny_roberta: Path, tmp_path: Path, asym) -> None:
    data, runs = table(tmp_path, "mine.csv", label=["a"] * 21 + ["b"] * 3), tmp_path / "runs"
    done = asym("finetune", "own-texts", "--data", data, "--model", tiny_roberta, "--runs", runs)
    assert done.code == 1
    assert "class 'b' has 3 rows" in " ".join(done.err.split())
    assert not runs.exists()
    done = asym("finetune", "samples", "--runs", runs)
    assert done.code == 1
    assert "https://gluebenchmark.com/tasks" in " ".join(done.err.split())
    assert not runs.exists()
    done = asym("finetune", "samples", "--data", data, "--runs", runs)
    assert "mine.csv is a file, and a task of kind 'glue' reads a folder" in " ".join(done.err.split())


def test_models_that_do_not_fit_the_data_are_one_sentence(
    tiny_roberta: Path, tiny_vit: Path, tmp_path: Path, asym
) -> None:
    from transformers import AutoModel

    data, images = table(tmp_path, "mine.csv"), photographs(tmp_path / "photographs")
    bare = tmp_path / "bare"
    AutoModel.from_pretrained(tiny_roberta).save_pretrained(bare)
    foreign = table(tmp_path, "foreign.csv", text=["zwölf Boxkämpfer jagen Viktor quer"] * 24)
    wide = config(
        tmp_path,
        tiny_roberta,
        'settings.task.kind = "classification"',
        'settings.task.train_file = "mine.csv"',
    )
    wide.write_text(wide.read_text().replace("rank = 2", "rank = 17"))
    cases = [
        (("own-texts", "--data", data, "--model", tiny_vit), "is a model of images: give a folder of images"),
        (("own-texts", "--data", data, "--model", bare), "bare has no tokenizer"),
        (("own-texts", "--data", data, "--model", tmp_path / "gone"), "gone cannot be opened"),
        (("own-texts", "--data", foreign, "--model", tiny_roberta), "does not know"),
        (("own-images", "--data", images, "--model", tiny_roberta), "has no preprocessor_config.json"),
        (("own-images", "--data", images / "cat", "--model", tiny_vit), "holds images of 0 classes"),
        ((wide,), "settings.rank is 17, above the width 16 of module roberta.encoder.layer.0"),
    ]
    for i, (arguments, message) in enumerate(cases):
        done = asym("finetune", *arguments, "--runs", tmp_path / f"runs-{i}")
        error = " ".join(done.err.split())
        assert done.code == 1, arguments
        assert message in error
        assert "Traceback" not in error


def test_rows_of_every_class_are_held_out_and_none_twice() -> None:
    labels = list("aaaaaaaaaabbbbbccccc")
    rows = [*enumerate(labels)]
    train, dev = held_out_rows(rows, labels, 0.2, np.random.default_rng(0), "x.csv")
    assert Counter(label for _, label in dev) == {"a": 2, "b": 1, "c": 1}
    assert sorted(train + dev) == rows
    other = held_out_rows(rows, labels, 0.2, np.random.default_rng(1), "x.csv")[1]
    assert dev != other


def test_the_classes_are_in_order_and_numbers_count_as_numbers(tmp_path: Path) -> None:
    table(tmp_path, "mine.csv", 44, label=[str(i % 11) for i in range(44)])
    assert ClassificationTask("mine.csv", tmp_path)._split[2] == [str(i) for i in range(11)]


def test_a_spreadsheet_with_semicolons_and_a_json_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text;label\n"one; two";a\n')
    assert read_rows(path) == [{"text": "one; two", "label": "a"}]
    path = tmp_path / "a.json"
    path.write_text('{"data": [{"text": "a"}]}')
    with pytest.raises(AdapterError, match=r"a\.json cannot be read: it holds no rows such as"):
        read_rows(path)


def test_images_are_found_by_class(tmp_path: Path) -> None:
    task = ImageFolderTask(photographs(tmp_path / "p"))
    train, dev = task._split
    assert task.classes() == ["cat", "dog"]
    assert Counter(label for _, label in dev) == {"cat": 1, "dog": 1}
    assert len(task.files()) == len(set(train) | set(dev)) == 12
