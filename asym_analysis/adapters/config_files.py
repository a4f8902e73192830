"""Config files beside the weights: JSON or YAML, of sensible size, read without running anything they name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asym_analysis.errors import AdapterError, AdapterFormatError

__all__ = ["number_of", "number_or_none", "read_config", "read_json"]

LARGEST_JSON, LARGEST_YAML = 50_000_000, 1_000_000


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a config of any file name: YAML where the suffix says so, JSON otherwise.

    Parameters
    ----------
    path
        The file. A leading ``~`` stands for the home folder.

    Returns
    -------
    dict
        The mapping that the file holds.

    Raises
    ------
    AdapterFormatError
        If the file is missing, too large, damaged, or holds no mapping.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("lora_r: 8"), file.flush()
    ...     read_config(file.name)
    {'lora_r': 8}
    """
    file = Path(path).expanduser()
    return _read_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else read_json(file)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of sensible size.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    AdapterFormatError
        If it is missing, too large, or no JSON object.
    """
    text = _text(path, LARGEST_JSON)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not valid JSON: correct it or fetch it again") from error
    if not isinstance(value, dict):
        raise AdapterFormatError(f"{path} holds no JSON object: correct it or fetch it again")
    return value


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(_text(path, LARGEST_YAML))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not valid YAML, or holds more than plain values: correct it") from error
    if not isinstance(value, dict):
        raise AdapterFormatError(f"{path} holds no mapping: correct it or fetch it again")
    return {str(key): entry for key, entry in value.items()}


def _text(path: Path, largest: int) -> str:
    try:
        size = path.stat().st_size
        if size > largest:
            raise AdapterFormatError(f"{path} has {size:,} bytes, more than any config or index: it is not read")
        data = path.read_bytes()
    except OSError as error:
        raise AdapterFormatError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(b"version https://git-lfs"):
        raise AdapterFormatError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` where it came from")
    try:
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise AdapterFormatError(f"{path} is not valid JSON or YAML, which are UTF-8 text: fetch it again") from error


def number_or_none(values: Mapping[str, Any], *names: str) -> float | None:
    """The first of some entries that is given, as a number.

    Raises
    ------
    AdapterError
        If it is no finite number.
    """
    for name in names:
        if values.get(name) is not None:
            return number_of(name, values[name])
    return None


def number_of(name: str, value: object) -> float:
    """An entry of a config as a finite number; AdapterError where it is none."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise AdapterError(f"the config's {name} is {value!r}, not a number")
