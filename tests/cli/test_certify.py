"""`asym certify` without any Python: a classifier and a file of labelled texts, groups, and what would help."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, load_adapter
from asym_analysis.cli import main

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

WORDS = ["good", "bad", "film", "plot", "very", "not", "the", "a"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny BERT with a tokenizer, a PEFT classifier adapter of it, and labelled texts of twenty sources."""
    root = tmp_path_factory.mktemp("certify")
    model = root / "model"
    model.mkdir()
    (model / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(str(model / "vocab.txt")).save_pretrained(model)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=len(WORDS) + 5,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(model)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    wrapped.save_pretrained(root / "adapter")
    generator = np.random.default_rng(0)
    data = root / "data.csv"
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "review"])
        for index in range(100):
            text = " ".join(generator.choice(WORDS, 8 + index % 9))  # so long that no text repeats another
            writer.writerow([text, ["negative", "positive"][int(generator.integers(2))], index // 5])
    return {"model": model, "adapter": root / "adapter", "data": data, "root": root}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_model_and_data_give_what_python_gives(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--draws", "4", "--json", "--groups", "review"]
    code, out, _ = run(
        capsys, "certify", str(files["adapter"]), "--model", str(files["model"]), "--data", str(files["data"]), *options
    )
    assert code == 0
    document = json.loads(out)
    rows = list(csv.DictReader(files["data"].open()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(files["model"])
    batch = dict(tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
    batch["labels"] = torch.tensor([int(row["label"] == "positive") for row in rows])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(files["model"])
    expected = certify(
        load_adapter(files["adapter"]), model=model, data=[batch], draws=4, groups=[row["review"] for row in rows]
    )
    assert expected.settings["units"] == 20
    table = document["tables"]["certificates"]
    at = table["columns"].index("risk")
    np.testing.assert_allclose([row[at] for row in table["rows"]], expected.frame["risk"], rtol=1e-6)


def test_a_screen_fits_and_says_what_would_help(
    files: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(
        capsys, "certify", str(files["adapter"]), "--model", str(files["model"]), "--data", str(files["data"]),
        "--draws", "4", "--groups", "review",
    )  # fmt: skip
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    said = " ".join((out + err).split())
    assert "what would help" in said
    assert "fit_posterior" in said


def test_streamed_losses_alone_are_enough(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script = files["root"] / "losses.py"
    script.write_text(
        "import numpy as np\n"
        "wrong = np.random.default_rng(0).random(2000) < 1 / 7\n"
        "def some(adapter, which):\n"
        "    head = sum(float(e.read().sum()) for e in adapter.extras.values())\n"
        "    size = sum(float(u.delta().abs().sum()) for u in adapter.values())\n"
        "    return np.minimum(wrong[which] if head else 1.0 + 0 * which, 1 - 1e-6 * ((size + head) % 1))\n"
    )
    groups = files["root"] / "groups.txt"
    groups.write_text("\n".join(str(i // 2) for i in range(2000)))
    code, out, err = run(
        capsys, "certify", str(files["adapter"]), "--evaluate-some", f"{script}:some", "--n", "2000",
        "--groups", str(groups), "--draws", "50",
    )  # fmt: skip
    assert code == 0, err
    assert "certified risk at most" in " ".join((out + err).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --model and --data"),
        (("--model", "{model}"), "give --model and --data"),
        (("--model", "{model}", "--data", "{data}", "--n", "3"), "--n is for --evaluate"),
        (("--model", "{model}", "--data", "{data}", "--label", "stars"), "no column stars"),
        (("--model", "{model}", "--data", "{data}", "--label", "text"), "neither a class number"),
        (("--model", "{model}", "--data", "{data}", "--groups", "nothing"), "no column of the data"),
        (("--evaluate", "losses.py:f"), "--n"),
    ],
)
def test_wrong_options_are_one_sentence(
    files: Any, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    filled = [word.format(**files) for word in arguments]
    code, _, err = run(capsys, "certify", str(files["adapter"]), *filled)
    assert code == 1
    assert message in " ".join(err.split())


def test_names_that_only_training_numbered_are_taken_from_the_run_or_the_option(
    files: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = files["data"].read_text().replace("negative", "bad").replace("positive", "good")
    data = tmp_path / "words.csv"
    data.write_text(words)
    adapter = tmp_path / "run"
    shutil.copytree(files["adapter"], adapter)
    shared = ["--model", str(files["model"]), "--data", str(data), "--methods", "coded", "--json"]
    code, _, said = run(capsys, "certify", str(adapter), *shared)
    assert code == 1
    assert "name the classes in the order of the numbers that training gave them, --classes" in " ".join(said.split())
    code, named, _ = run(capsys, "certify", str(adapter), *shared, "--classes", "bad, good")
    assert code == 0
    (adapter / "metrics.json").write_text(json.dumps({"classes": ["bad", "good"]}))
    code, recorded, _ = run(capsys, "certify", str(adapter), *shared)
    assert code == 0
    _, reference, _ = run(capsys, "certify", str(files["adapter"]), *shared[:3], str(files["data"]), *shared[4:])
    tables = [json.loads(text)["tables"]["certificates"] for text in (named, recorded, reference)]
    assert tables[0] == tables[1] == tables[2]
    code, swapped, _ = run(capsys, "certify", str(adapter), *shared, "--classes", "good,bad")
    assert json.loads(swapped)["tables"]["certificates"] != tables[0]


def test_an_adapter_is_its_own_prior_on_samples_that_it_was_not_trained_on(
    files: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = files["data"].read_text().splitlines()
    ours, theirs = tmp_path / "test.csv", tmp_path / "train.csv"
    ours.write_text("\n".join([rows[0], *rows[1:51]]))
    theirs.write_text("\n".join([rows[0], *rows[51:]]))
    adapter = str(files["adapter"])
    shared = ["certify", adapter, "--model", str(files["model"]), "--data", str(ours), "--prior", adapter, "--json"]
    shared += ["--methods", "coded"]

    def kinds(*more: str) -> tuple[set[str], str]:
        code, out, _ = run(capsys, *shared, *more)
        assert code == 0
        document = json.loads(out)
        table = document["tables"]["certificates"]
        return {row[table["columns"].index("kind")] for row in table["rows"]}, " ".join(document["notes"])

    found, said = kinds()
    assert found == {"diagnostic"}
    assert "--prior-samples" not in said
    assert "--prior-data" in said
    assert kinds("--prior-data", str(theirs))[0] == {"certificate"}
    found, said = kinds("--prior-data", str(ours))
    assert found == {"diagnostic"}
    assert "100% of the samples repeat one that the prior was trained on" in said
    code, _, said = run(capsys, "certify", adapter, "--prior-data", str(ours), "--evaluate", "x.py:f", "--n", "5")
    assert code == 1
    assert "--prior-data needs --prior and --data" in said
