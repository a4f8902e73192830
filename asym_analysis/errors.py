"""The one exception family that a user of adapters can meet."""

from __future__ import annotations

__all__ = ["AdapterError", "AdapterFormatError", "AdapterValueError", "NotAnAdapterError"]


class AdapterError(Exception):
    """Something about an adapter, or the file it came from, cannot be used.

    The message is one or two sentences: what was found, where, and what would mend it.

    Examples
    --------
    >>> raise AdapterError("model.bin holds no low-rank pair; give its key grammar with dialect=...")
    Traceback (most recent call last):
    asym_analysis.errors.AdapterError: model.bin holds no low-rank pair; give its key grammar with dialect=...
    """


class AdapterFormatError(AdapterError):
    """The bytes are not what their container promises: truncated, empty, malformed or unsafe."""


class NotAnAdapterError(AdapterError):
    """The file is sound but holds something else: prompt tuning, a full checkpoint, a Git LFS pointer."""


class AdapterValueError(AdapterError):
    """A tensor holds values, or a shape, that no computation can use: NaN, infinity, factors that do not fit."""
