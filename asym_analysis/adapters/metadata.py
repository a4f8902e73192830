"""What is known of an adapter, with the file's checksum computed only when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["Metadata"]


class Metadata(Mapping[str, Any]):
    """A read-only mapping; its key "sha256" reads the whole weights file, once, when it is first looked up.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     Metadata({"step": 3}, weights=Path(file.name))["sha256"][:8]
    'e3b0c442'
    """

    def __init__(self, facts: Mapping[str, Any], *, weights: Path | None = None) -> None:
        self._facts = dict(facts)
        self._weights = weights

    @property
    def weights(self) -> Path | None:
        """The single file of the weights, whose checksum "sha256" is; None where there is none."""
        return self._weights

    @cached_property
    def _sha256(self) -> str:
        assert self._weights is not None
        with open(self._weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __getitem__(self, key: str) -> Any:
        if key == "sha256" and self._weights is not None:
            return self._sha256
        return self._facts[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._facts
        if self._weights is not None:
            yield "sha256"

    def __len__(self) -> int:
        return len(self._facts) + (self._weights is not None)

    def __repr__(self) -> str:
        return f"Metadata({self._facts})"
