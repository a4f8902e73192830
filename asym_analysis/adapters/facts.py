"""What a checkpoint says outside its tensors: its config, the config files beside it, its header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.config_files import number_or_none

__all__ = ["Facts"]


class Facts:
    """What a checkpoint says outside its tensors: its config, the declared files beside it, its header.

    Parameters
    ----------
    checkpoint
        The checkpoint.
    files
        Names of the config files to look into, after the config and before the header.

    Examples
    --------
    >>> facts = Facts(Checkpoint({}, config={"model": {"lora_alpha": 16}}))
    >>> facts.number("lora_alpha", "model/lora_alpha")
    16.0
    """

    def __init__(self, checkpoint: Checkpoint, files: tuple[str, ...] = ()) -> None:
        self._checkpoint = checkpoint
        self._files = files
        self._found: dict[tuple[str, ...], Any] = {}
        self.alpha = checkpoint.alpha

    def _places(self) -> Iterator[Mapping[str, Any]]:
        yield self._checkpoint.config
        for file in self._files:
            yield self._checkpoint.beside(file)
        yield self._checkpoint.header

    def at(self, *paths: str) -> Any:
        """Give the first entry that is there.

        Parameters
        ----------
        *paths
            Paths such as ``"model/lora_alpha"``, in the order in which they count.

        Returns
        -------
        object or None
            The entry; None where there is none.
        """
        if paths not in self._found:
            found = (_entry(place, path) for place in self._places() for path in paths)
            self._found[paths] = next((value for value in found if value is not None), None)
        return self._found[paths]

    def number(self, *paths: str) -> float | None:
        """Give the first entry that is there, as a number.

        Parameters
        ----------
        *paths
            As for `at`.

        Returns
        -------
        float or None
            The number; None where there is no entry.

        Raises
        ------
        AdapterError
            If it is no finite number.
        """
        value = self.at(*paths)
        return None if value is None else number_or_none({paths[0]: value}, paths[0])


def _entry(place: Mapping[str, Any], path: str) -> Any:
    value: Any = place
    for step in path.split("/"):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
