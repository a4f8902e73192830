"""Types of settings with their ranges, and how settings are read: each wrong one is named by its path in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from asym_analysis.errors import AdapterError

__all__ = ["CHECKED", "Count", "DataPath", "Folder", "Fraction", "Rate", "Seed", "read_settings", "refused"]

#: How the dataclasses of settings are checked: every value, no unknown names.
CHECKED = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
T = TypeVar("T")


def _from_folder(path: Path, info: Any) -> Path:
    """A path in a config file is relative to that file."""
    folder = (info.context or {}).get("folder")
    return path if folder is None else Path(folder) / path.expanduser()


Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
DataPath = Annotated[Path, AfterValidator(_from_folder)]
#: A folder that is the config file's own by default.
Folder = Annotated[DataPath, Field(validate_default=True)]


def read_settings(
    kind: type[T] | Any, values: Any, *, where: str, known: Iterable[str] = (), folder: Path | None = None
) -> T:
    """Make a dataclass or model of settings from plain values.

    Parameters
    ----------
    kind
        The type, as pydantic takes it.
    values
        Plain values, as a TOML file gives them.
    where
        The path of the values in the file, for messages.
    known
        Names of settings, for messages about an unknown one.
    folder
        Relative paths are taken from it.

    Returns
    -------
    object
        An instance of `kind`.

    Raises
    ------
    AdapterError
        If a setting is unknown, missing, of another type or out of its range; the message names its path.
    """
    try:
        return TypeAdapter(kind).validate_python(values, context={"folder": folder})
    except ValidationError as error:
        raise AdapterError(refused(error, where, known)) from None


def refused(error: ValidationError, where: str, known: Iterable[str] = ()) -> str:
    """Say in one sentence what is wrong with each setting that pydantic refused.

    Parameters
    ----------
    error
        From pydantic.
    where
        The path of the settings in the file.
    known
        Names of settings.

    Returns
    -------
    str
        The sentences, joined by semicolons.
    """
    return "; ".join(_sentence(found, where, list(known)) for found in error.errors(include_url=False))


def _sentence(found: Mapping[str, Any], where: str, known: list[str]) -> str:
    place = ".".join(map(str, (where, *found["loc"]))).strip(".")
    match found["type"]:
        case "missing":
            return f"{place} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            close = get_close_matches(str(found["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            return f"{place} is not a setting; {hint}" if known else f"{place} is not a setting"
    reason = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} is {found['input']!r}: {reason[:1].lower()}{reason[1:]}"
