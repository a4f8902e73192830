"""Rows, tokens, scores and images, against files whose content is known and independent implementations."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.tasks import (
    ChoiceTask,
    DomainTask,
    GlueTask,
    LanguageModellingTask,
    PronunciationTask,
)
from asym_analysis.finetuning.tasks.base import read_rows
from asym_analysis.finetuning.tasks.choices import read_questions
from asym_analysis.finetuning.tasks.glue import read_glue
from asym_analysis.finetuning.tasks.sequence_scores import edit_distance, rouge


@pytest.mark.parametrize(
    ("task", "first", "label"),
    [
        ("MRPC", "the cat", 0),
        ("RTE", "the cat", 1),
        ("STS-B", "the cat", 0.0),
        ("CoLA", "a dog", 0),
        ("SST-2", "the cat", 0),
    ],
)
def test_every_glue_layout_is_read_whole(tiny_glue: Path, task: str, first: str, label: float) -> None:
    rows = read_glue(task, tiny_glue / task / "train.tsv")  # type: ignore[arg-type]
    assert len(rows) == 24
    assert isinstance(rows[0]["text"], str)
    assert rows[0]["label"] == label
    assert (rows[0]["text_pair"] is None) == (task in ("CoLA", "SST-2"))
    assert len({row["label"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("task", "train", "dev"),
    [
        ("MRPC", 3667, 408),
        ("RTE", 2490, 277),
        ("STS-B", 5749, 1500),
        ("CoLA", 8551, 1043),
        ("SST-2", 67349, 872),
    ],
)
def test_the_real_files_have_their_known_sizes(shared_datasets: Path, task: str, train: int, dev: int) -> None:
    for split, rows in (("train", train), ("dev", dev)):
        assert len(read_glue(task, shared_datasets / "glue" / task / f"{split}.tsv")) == rows  # type: ignore[arg-type]


def test_broken_glue_files_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    with pytest.raises(AdapterError, match="there is no"):
        read_glue("MRPC", path)
    path.write_text("sentence\tlabel\nfine \t1\nbroken line\n")
    with pytest.raises(AdapterError, match="line 3: no SST-2 row"):
        read_glue("SST-2", path)


def test_glue_scores_against_closed_forms() -> None:
    task = GlueTask(Path(), "CoLA")
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    labels = np.array([0, 1, 0, 0])
    scores = task.score(logits, labels, None)
    assert scores["accuracy"] == 0.75
    # One false positive: TP 1, TN 2, FP 1, FN 0.
    assert scores["matthews"] == pytest.approx((1 * 2 - 0) / np.sqrt(2 * 1 * 3 * 2))
    regression = GlueTask(Path(), "STS-B").score(np.array([[1.0], [2.0], [4.0]]), np.array([2.0, 4.0, 8.0]), None)
    assert regression["pearson"] == pytest.approx(1.0)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_distance(first: str, second: str) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = min(table[i, j] + (a != b), table[i, j + 1] + 1, table[i + 1, j] + 1)
    assert edit_distance(first, second) == table[-1, -1]


def test_rouge_on_sentences_whose_scores_are_known() -> None:
    # Lin (2004), section 3.1: "police kill the gunman" and "the gunman kill police" against the reference.
    reference = "police killed the gunman"
    assert rouge("police kill the gunman", reference)["rougeL"] == pytest.approx(3 / 4)
    assert rouge("the gunman kill police", reference)["rougeL"] == pytest.approx(2 / 4)
    assert rouge("the gunman police killed", reference)["rouge2"] == pytest.approx(2 / 3)
    assert rouge("", reference) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcd"), min_size=1, max_size=6))
def test_rouge_l_is_no_less_than_any_common_block(first: list[str], second: list[str]) -> None:
    block = SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size
    found = rouge(" ".join(first), " ".join(second))["rougeL"] * (len(first) + len(second)) / 2
    assert block - 1e-9 <= found <= min(len(first), len(second)) + 1e-9


def test_words_such_as_nan_and_null_are_words(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text('word\tphonemes\nnan\tnˈæn\nnull\tnˈʌl\n"quote\tkwˈOt\n')
    assert [row["word"] for row in read_rows(path)] == ["nan", "null", '"quote']
    with pytest.raises(AdapterError, match="rows are read from"):
        read_rows(_touch(tmp_path / "data.xml"))


def _touch(path: Path) -> Path:
    path.touch()
    return path


def test_pronunciation_of_a_real_model(shared_models: Path, shared_datasets: Path) -> None:
    """The untrained American model says American words as its lexicon does; the check measured .672 greedily."""
    task = PronunciationTask(shared_datasets / "g2p_lexicon", "us_gold.tsv", train_rows=50, dev_rows=100)
    source = str(shared_models / "misaki-bart-g2p-us")
    symbols, model = task.processor(source), task.model(source).eval()
    data = task.data(symbols)
    batch = task.collator(symbols)([data.dev[i] for i in range(100)])
    found = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_length=32, do_sample=False)
    scores = task.score(found.numpy(), batch["labels"].numpy(), symbols)
    assert 0.5 < scores["word_accuracy"] < 0.85
    assert scores["phoneme_error_rate"] < 0.15


def test_phonemes_of_another_accent_take_over_unused_symbols(shared_models: Path, shared_datasets: Path) -> None:
    task = PronunciationTask(shared_datasets / "g2p_lexicon", "gb_gold.tsv")
    symbols = task.processor(str(shared_models / "misaki-bart-g2p-us"))
    used = {symbol for row in read_rows(shared_datasets / "g2p_lexicon" / "gb_gold.tsv") for symbol in row["phonemes"]}
    ids = [symbols.phonemes[symbol] for symbol in used]
    assert len(set(ids)) == len(used)
    assert min(ids) > 3
    assert max(ids) < 63


def test_windows_hold_the_text_in_order(tiny_llama: Path, tiny_data: Path) -> None:
    task = LanguageModellingTask(tiny_data, "text.txt", "text.txt", window=8, dev_windows=2)
    tokenizer = task.processor(str(tiny_llama))
    data = task.data(tokenizer)
    assert len(data.dev) == 2
    ids = [token for row in data.train for token in row["input_ids"]]
    whole = [t for part in (tiny_data / "text.txt").read_text().split("\n\n") for t in tokenizer(part)["input_ids"]]
    assert ids == whole[: len(ids)]
    assert len(whole) - len(ids) < 8


def test_without_a_dev_file_the_last_windows_are_held_out(tiny_llama: Path, tiny_data: Path) -> None:
    task = LanguageModellingTask(tiny_data, "text.txt", window=8, dev_windows=2, train_windows=1, dataset="told")
    tokenizer = task.processor(str(tiny_llama))
    whole = LanguageModellingTask(tiny_data, "text.txt", "text.txt", window=8).data(tokenizer).dev["input_ids"]
    data = task.data(tokenizer)
    assert data.train["input_ids"] == whole[:1]
    assert data.dev["input_ids"] == whole[-2:]
    assert task.name == "told"
    tenth = LanguageModellingTask(tiny_data, "text.txt", window=8).data(tokenizer)
    assert tenth.dev["input_ids"] == whole[-(len(whole) // 10) :]
    assert len(tenth.train) + len(tenth.dev) == len(whole)
    with pytest.raises(AdapterError, match="leaves none to learn from"):
        LanguageModellingTask(tiny_data, "text.txt", window=8, dev_windows=len(whole)).data(tokenizer)


def test_window_losses_are_those_of_the_model(tiny_llama: Path, tiny_data: Path) -> None:
    task = LanguageModellingTask(tiny_data, "text.txt", "text.txt", window=8)
    model = task.model(str(tiny_llama)).eval()
    ids = torch.randint(0, 20, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(input_ids=ids, labels=ids)
    losses = task.reduce(output.logits, ids, None)
    assert float(losses.mean()) == pytest.approx(float(output.loss), rel=1e-5)
    assert task.score(losses.numpy(), ids.numpy(), None)["perplexity"] == pytest.approx(
        np.exp(float(output.loss)), 1e-4
    )


def test_questions_in_both_forms(shared_datasets: Path) -> None:
    asked = read_questions(shared_datasets / "commonsense_qa" / "dev.jsonl")
    assert len(asked) == 1221
    assert len(asked[0].choices) == 5
    assert asked[0].choices[asked[0].answer] == "bank"
    path = sorted((shared_datasets / "mmlu" / "dev").glob("*.csv"))[0]
    assert {len(question.choices) for question in read_questions(path)} == {4}


def test_the_letter_is_chosen_where_the_answer_stands(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    choices = {"label": ["A", "B"], "text": ["dog", "bird"]}
    rows = [{"question": "cat ?", "choices": choices, "answerKey": key} for key in "ABBA"]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = ChoiceTask(tmp_path, choices=2, dev_rows=2)
    tokenizer = task.processor(str(tiny_llama))
    data = task.data(tokenizer)
    batch = task.collator(tokenizer)([{k: v for k, v in row.items() if k != "length"} for row in data.train])
    logits = torch.zeros(2, batch["labels"].shape[1], 40)
    # Where the answer is predicted, one before its place, the row's own letter gets the largest logit of the letters.
    answers = [row["labels"][-1] for row in data.train]
    for i, row in enumerate(data.train):
        logits[i, len(row["labels"]) - 2, answers[i]] = 1.0
        logits[i, len(row["labels"]) - 2, 0] = 9.0  # no letter
    chosen = task.reduce(logits, batch["labels"], tokenizer)
    assert chosen.tolist() == answers
    assert task.score(chosen.numpy(), batch["labels"].numpy(), tokenizer) == {"accuracy": 1.0}


def test_images_are_cut_and_normalized_as_transformers_does(tiny_vit: Path, tiny_data: Path) -> None:
    from PIL import Image

    task = DomainTask(tiny_data, ("photo",), edge=32)
    recipe = task.processor(str(tiny_vit))
    pixels = recipe(tiny_data / "photo-0.png")
    assert pixels.shape == (3, 32, 32)
    image = Image.open(tiny_data / "photo-0.png").resize((32, 36), Image.Resampling.BICUBIC).crop((0, 2, 32, 34))
    assert np.allclose(pixels.numpy(), (np.asarray(image) / 255 - 0.5).transpose(2, 0, 1) / 0.5, atol=1e-6)
    data = task.data(recipe)
    assert len(data.train) + len(data.dev) == 8
    assert set(data.more) == {"train", "sketch"}
    few = DomainTask(tiny_data, ("photo",), train_rows=3, scored_rows=2).data(recipe)
    assert few.train.rows == data.train.rows[:3]
    assert few.dev.rows == data.dev.rows, "fewer training images must not change what is scored"
    assert {name: len(rows) for name, rows in few.more.items()} == {"train": 2, "sketch": 2}
    with pytest.raises(AdapterError, match="no domain moon; it has photo, sketch"):
        DomainTask(tiny_data, ("moon",)).data(recipe)
