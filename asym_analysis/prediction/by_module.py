"""Results that are also read as a mapping from the names of modules."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Generic, TypeVar

from asym_analysis.results import Result

__all__ = ["ByModule"]

M = TypeVar("M")


class ByModule(Result, Generic[M]):
    """A result with a field `moments`, module -> value, that is read like that mapping.

    It is no subclass of `Mapping`, whose comparison by value makes no sense for tensors.
    """

    moments: dict[str, M]

    def __getitem__(self, module: str) -> M:
        return self.moments[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)

    def __contains__(self, module: object) -> bool:
        return module in self.moments

    def keys(self) -> KeysView[str]:
        """Names of the modules."""
        return self.moments.keys()

    def values(self) -> ValuesView[M]:
        """What each module has."""
        return self.moments.values()

    def items(self) -> ItemsView[str, M]:
        """Pairs of a module's name and its value."""
        return self.moments.items()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} modules)"
