"""What a run was made from: its settings, and digests of its data and its model, to tell what changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from asym_analysis.codec import plain
from asym_analysis.finetuning.config import FinetuneConfig, model_source

__all__ = ["changed_inputs", "inputs_of"]

# Above so many files (images), one digest stands for all.
MOST_FILES = 20


def inputs_of(config: FinetuneConfig) -> dict[str, Any]:
    """Describe every input of a run in plain values.

    Parameters
    ----------
    config
        The run's settings.

    Returns
    -------
    dict
        `settings`; `data`, a digest of each file; `model`, a digest of the model's files, or the commit of a model from
        the Hugging Face Hub, or "not found".
    """
    data = {path.name: _digest(path) for path in config.task.files()}
    if config.general_text is not None:
        data[config.general_text.name] = _digest(config.general_text)
    if len(data) > MOST_FILES:
        data = {f"{len(data)} files": _joined(data)}
    return {"settings": plain(config.as_mapping()), "data": data, "model": _model_digest(config.model)}


def changed_inputs(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs between the inputs of a finished run and those that it would have now.

    Parameters
    ----------
    stored, now
        From `inputs_of`.

    Returns
    -------
    list of str
        One entry a difference, with both values; empty where nothing differs. A model that moved to another folder is
        the same model.

    Examples
    --------
    >>> old = {"settings": {"learning_rate": 0.1}, "data": {"a.txt": "12"}, "model": "34"}
    >>> changed_inputs(old, {**old, "settings": {"learning_rate": 0.2}, "model": "56"})
    ['learning_rate 0.1 -> 0.2', 'model 34 -> 56']
    """
    if "settings" not in stored:
        return ["the run was made by a version that kept no digest of its inputs"]
    same_model = stored["model"] == now["model"] and now["model"] != NOT_FOUND
    old, new = dict(_flat(DEFAULTS | stored["settings"])), dict(_flat(DEFAULTS | now["settings"]))
    names = [name for name in {**old, **new} if not (same_model and name == "model")]
    found = [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    files = {**stored["data"], **now["data"]}
    found += [f"the file {name}" for name in files if stored["data"].get(name) != now["data"].get(name)]
    if not same_model and not any(entry.startswith("model ") for entry in found):
        found.append(f"model {stored['model']} -> {now['model']}")
    return found


NOT_FOUND = "not found"
# A setting that a stored run does not know had its default.
DEFAULTS = {field.name: plain(field.default) for field in fields(FinetuneConfig) if field.default is not MISSING}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _digest(path: Path) -> str:
    if not path.is_file():
        return NOT_FOUND
    stat = path.stat()
    return _digest_of(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65536)
def _digest_of(path: str, size: int, time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _joined(digests: Mapping[str, str]) -> str:
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _model_digest(model: str) -> str:
    source, options = model_source(model)
    folder = Path(source)
    if "gguf_file" in options:
        return _digest(folder / options["gguf_file"])
    if folder.is_dir():
        return _joined({path.name: _digest(path) for path in folder.iterdir() if path.is_file()})
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        cached = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        cached = None
    # The cache keeps a snapshot in a folder that is called by its commit.
    return f"commit {Path(cached).parent.name}" if isinstance(cached, str) else NOT_FOUND
