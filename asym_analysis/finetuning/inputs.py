"""Batches of a user's own texts or images, as a model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import model_source
from asym_analysis.finetuning.tasks.base import read_rows
from asym_analysis.finetuning.tasks.images import ImageRecipe, image_files
from asym_analysis.finetuning.tasks.tokenizers import check_known, text_tokenizer

__all__ = [
    "LabelledTexts",
    "load_classifier",
    "load_network",
    "next_token_labels",
    "read_batches",
    "read_labelled",
    "read_texts",
]


def load_network(model: str) -> tuple[Any, bool]:
    """The pretrained network in float32 and evaluation mode, and whether it can say what texts cost it.

    A model that was saved as a causal language model keeps its head, and has a loss on plain text; any other comes
    without a head. `model` is as in `FinetuneConfig`.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    source, options = model_source(model)
    saved_as = getattr(AutoConfig.from_pretrained(source, **options), "architectures", None) or [""]
    causal = saved_as[0].endswith(("ForCausalLM", "LMHeadModel"))
    network = (AutoModelForCausalLM if causal else AutoModel).from_pretrained(source, dtype=torch.float32, **options)
    return network.eval(), causal


def next_token_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of texts whose own tokens are to be predicted, padding left out."""
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def read_batches(
    data: Path, model: str, *, column: str = "text", rows: int = 512, max_length: int = 256, batch_size: int = 16
) -> list[dict[str, Any]]:
    """Batches for `input_covariances` from a text file, a table of rows or a folder of images.

    Parameters
    ----------
    data
        A .txt file with one text a line; a .jsonl, .json, .csv or .tsv file; or a folder that holds images.
    model
        Whose tokenizer or image settings are used.
    column
        The column of texts in a table; two, apart by a comma, make pairs.
    rows
        At most so many, from the beginning.
    max_length
        Longer texts are cut, in tokens.
    batch_size
        Rows a batch.

    Raises
    ------
    AdapterError
        If the data cannot be read or has no such column.
    """
    if data.is_dir():
        return list(_image_batches(data, model, rows, batch_size))
    return list(_text_batches(_texts(data, column)[:rows], model, max_length, batch_size))


class LabelledTexts(NamedTuple):
    """Texts, their labels as numbers, the rows they came from, and one batch as the model takes it."""

    texts: list[str]
    labels: list[int]
    rows: list[dict[str, Any]]
    batch: dict[str, Any]


def read_labelled(
    data: Path,
    model: str,
    *,
    column: str = "text",
    label: str = "label",
    max_length: int = 256,
    classes: Sequence[str] = (),
) -> LabelledTexts:
    """Labelled texts of a table, tokenized for a classifier.

    Parameters
    ----------
    data
        A .jsonl, .json, .csv or .tsv file.
    model
        Whose tokenizer is used, and whose config numbers the labels where they are words.
    column
        The column of texts; two, apart by a comma, make pairs.
    label
        The column of labels.
    max_length
        Longer texts are cut, in tokens.
    classes
        Names of the labels in the order of their numbers; those of the model's config by default.

    Returns
    -------
    LabelledTexts
        All rows, filled up to one length.

    Raises
    ------
    AdapterError
        If the data cannot be read, has no such column, or its labels cannot be numbered.
    """
    import torch
    from transformers import AutoConfig

    texts = _texts(data, column)
    rows = read_rows(data)
    if label not in rows[0]:
        raise AdapterError(f"{data} has no column {label}; it has {', '.join(rows[0])}")
    source, options = model_source(model)
    numbers = {name: number for number, name in enumerate(classes)}
    numbers = numbers or getattr(AutoConfig.from_pretrained(source, **options), "label2id", None) or {}
    known = "the classes that training used" if classes else f"{model}'s config"
    labels = []
    for row in rows:
        value = str(row[label]).strip()
        if value in numbers:
            labels.append(int(numbers[value]))
        elif value.removesuffix(".0").isdigit():
            labels.append(int(value.removesuffix(".0")))
        else:
            raise AdapterError(
                f"{data} has the label {value!r}, which is neither a class number nor a name in {known} "
                f"({', '.join(map(str, numbers)) or 'which names none'}): name the classes in the order of the numbers "
                "that training gave them, classes=..."
            )
    batch = next(_text_batches(texts, model, max_length, len(texts)))
    return LabelledTexts([" ".join(text) for text in texts], labels, rows, {**batch, "labels": torch.tensor(labels)})


def load_classifier(model: str, classes: int) -> Any:
    """The pretrained network with a classifier of so many classes on top, in float32 and evaluation mode.

    Parameters
    ----------
    model
        As in `FinetuneConfig`.
    classes
        Number of classes.

    Returns
    -------
    Module
        Its head is drawn at random where the model has none; an adapter's own head takes its place.

    Raises
    ------
    AdapterError
        If there is no sequence classifier of this kind of model.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    source, options = model_source(model)
    try:
        network = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=classes, dtype=torch.float32, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError) as error:
        raise AdapterError(f"{model} cannot be opened as a classifier: {str(error).splitlines()[0]}") from None
    if network.config.pad_token_id is None:
        network.config.pad_token_id = _tokenizer(model).pad_token_id
    return network.eval()


def _texts(data: Path, column: str) -> list[tuple[str, ...]]:
    if data.suffix == ".txt":
        if not data.is_file():
            raise AdapterError(f"there is no {data}")
        return [(line,) for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    columns = column.split(",")
    table = read_rows(data)
    if not table or any(name not in table[0] for name in columns):
        known = ", ".join(table[0]) if table else "no row"
        raise AdapterError(f"{data} has no column {column}; it has {known}")
    return [tuple(str(row[name]) for name in columns) for row in table]


def read_texts(data: Path, column: str = "text") -> list[str]:
    """The texts of a file, those of a pair joined, as `LabelledTexts` holds them: to be searched for copies.

    Parameters
    ----------
    data
        A .jsonl, .json, .csv, .tsv or .txt file.
    column
        The column of texts; two, apart by a comma, make pairs.

    Returns
    -------
    list of str
        One text a row.

    Raises
    ------
    AdapterError
        If the data cannot be read or have no such column.
    """
    return [" ".join(text) for text in _texts(data, column)]


def _text_batches(
    texts: list[tuple[str, ...]], model: str, max_length: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    tokenizer = _tokenizer(model)
    ids: list[list[int]] = []
    for start in range(0, len(texts), batch_size):
        columns = [list(part) for part in zip(*texts[start : start + batch_size], strict=True)]
        batch = dict(tokenizer(*columns, truncation=True, max_length=max_length, padding=True, return_tensors="pt"))
        ids += [
            row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        yield batch
    check_known(model, tokenizer, ids)


def _tokenizer(model: str) -> Any:
    source, options = model_source(model)
    return text_tokenizer(source, **options)


def _image_batches(folder: Path, model: str, rows: int, batch_size: int) -> Iterator[dict[str, Any]]:
    import torch

    paths = image_files(folder)[:rows]
    if not paths:
        raise AdapterError(f"{folder} holds no images")
    recipe = ImageRecipe.of_model(*model_source(model))
    for start in range(0, len(paths), batch_size):
        yield {"pixel_values": torch.stack([recipe(path) for path in paths[start : start + batch_size]])}
