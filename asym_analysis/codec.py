"""Values to JSON and back, with their types: what lets a saved Result come back as the same object."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["class_of", "decode", "encode", "plain", "register"]

_TAG = "__type__"
_CLASSES: dict[str, type] = {}


def register(cls: type) -> type:
    """Let instances of a dataclass from outside this package be decoded by the class's name.

    Parameters
    ----------
    cls
        A dataclass; its fields must themselves be encodable.

    Returns
    -------
    type
        The class, so that this can decorate it.
    """
    _CLASSES[cls.__name__] = cls
    return cls


def encode(value: Any) -> Any:
    """Turn a value into JSON-compatible data that `decode` turns back.

    Parameters
    ----------
    value
        None, a bool, number, string, tuple, list, set, mapping, numpy scalar or array, torch tensor, DataFrame, or an
        instance of a dataclass.

    Returns
    -------
    Any
        Strings, finite numbers, lists and dictionaries only.

    Raises
    ------
    TypeError
        If a value is of another type.

    Examples
    --------
    >>> decode(encode((1.0, float("inf"), {"a": [2, None]})))
    (1.0, inf, {'a': [2, None]})
    """
    if value is None or isinstance(value, str | bool):
        return value
    if value is pd.NA or value is pd.NaT:
        return {_TAG: "missing"}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)
        return value if finite else {_TAG: "float", "value": repr(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple | set | frozenset):
        kind = "tuple" if isinstance(value, tuple) else type(value).__name__
        return {_TAG: kind, "items": [encode(item) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and _TAG not in value:
            return {key: encode(item) for key, item in value.items()}
        return {_TAG: "mapping", "items": [[encode(key), encode(item)] for key, item in value.items()]}
    return {_TAG: type(value).__name__} | _encode_object(value)


def _encode_object(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {_TAG: "objects", "shape": list(value.shape), "items": [encode(item) for item in value.ravel()]}
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_TAG: "array", "dtype": str(value.dtype), "shape": list(value.shape), "data": data}
    if isinstance(value, pd.DataFrame):
        columns = [
            [encode(name), str(column.dtype), [encode(item) for item in column.tolist()]]
            for name, column in value.items()
        ]
        return {_TAG: "frame", "columns": columns, "rows": len(value)}
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        import torch

        held = value.detach().cpu().contiguous()
        data = base64.b64encode(held.reshape(-1).view(torch.uint8).numpy().tobytes()).decode()
        dtype = str(held.dtype).removeprefix("torch.")
        return {_TAG: "tensor", "dtype": dtype, "shape": list(held.shape), "data": data}
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: encode(getattr(value, field.name)) for field in fields(value) if field.init}
        return {_TAG: "dataclass", "class": type(value).__name__, "module": type(value).__module__, "fields": held}
    raise TypeError(f"a {type(value).__name__} cannot be saved in a result file")


def decode(value: Any) -> Any:
    """Turn what `encode` made back into the value.

    Parameters
    ----------
    value
        JSON data.

    Returns
    -------
    Any
        The value, of its original type.

    Raises
    ------
    ValueError
        If the data name a class or type that this version of the package does not have.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: decode(item) for key, item in value.items()}
    kind = value[_TAG]
    simple = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in simple:
        return simple[kind](decode(item) for item in value["items"])
    if kind == "mapping":
        return {decode(key): decode(item) for key, item in value["items"]}
    if kind == "missing":
        return pd.NA
    if kind == "float":
        return float(value["value"])
    if kind == "objects":
        held = np.empty(math.prod(value["shape"]), dtype=object)
        held[:] = [decode(item) for item in value["items"]]
        return held.reshape(value["shape"])
    if kind == "array":
        return _bytes(value["data"], value["dtype"]).reshape(value["shape"]).copy()
    if kind == "frame":
        return _frame(value)
    if kind == "tensor":
        import torch

        data = torch.from_numpy(_bytes(value["data"], "uint8").copy())
        return data.view(getattr(torch, value["dtype"])).reshape(value["shape"])
    if kind == "dataclass":
        return class_of(value)(**{name: decode(item) for name, item in value["fields"].items()})
    raise ValueError(f"the file holds a value of unknown type {kind!r}")


def class_of(value: Mapping[str, Any]) -> type:
    """The class of a dataclass that `encode` wrote.

    Parameters
    ----------
    value
        What `encode` made of an instance.

    Returns
    -------
    type
        The class.

    Raises
    ------
    ValueError
        If this version of the package does not have the class.
    """
    name, module = value["class"], str(value.get("module", ""))
    found = _CLASSES.get(name)
    if found is None and module.startswith("asym_analysis."):
        with suppress(ImportError):
            found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"the file holds a {name!r}, which this version of asym_analysis does not have")
    return found


def _bytes(data: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data), dtype=np.dtype(dtype))


def _frame(value: Mapping[str, Any]) -> pd.DataFrame:
    columns = {}
    for name, dtype, items in value["columns"]:
        held = [decode(item) for item in items]
        columns[decode(name)] = pd.Series(held, dtype=object) if dtype == "object" else pd.Series(held).astype(dtype)
    return pd.DataFrame(columns, index=range(value["rows"]))


def plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and missing values into what JSON knows; types are not kept.

    Parameters
    ----------
    value
        Anything; what JSON does not know becomes its text, numbers that are not finite become None.

    Returns
    -------
    Any
        Strings, finite numbers, lists, dictionaries and None.

    Examples
    --------
    >>> plain({"ranks": (4, 8), "value": float("nan")})
    {'ranks': [4, 8], 'value': None}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool):
        return value
    return str(value)
