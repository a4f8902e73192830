"""The one exception family that a user of adapters can meet."""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "AdapterFormatError",
    "AdapterValueError",
    "NotAnAdapterError",
    "NotWritableError",
    "NothingReadError",
    "SeveralAdaptersError",
]


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


class NotWritableError(AdapterError):
    """The target format has no place for something of the adapter; the message names it."""


class AdapterValueError(AdapterError):
    """A tensor holds values, or a shape, that no computation can use: NaN, infinity, factors that do not fit."""


class SeveralAdaptersError(AdapterError):
    """A file holds several adapters, and one is asked for; `names` are their names in the file.

    Parameters
    ----------
    source
        What the user named.
    names
        The adapters' names.

    Examples
    --------
    >>> print(SeveralAdaptersError("state.pt", ("french", "german")))
    state.pt holds 2 adapters (french, german): choose one with adapter='french', or load all with load_adapters
    """

    def __init__(self, source: str, names: tuple[str, ...]) -> None:
        self.names = names
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        super().__init__(
            f"{source} holds {len(names)} adapters ({listed}): choose one with adapter={names[0]!r}, or load all with "
            "load_adapters"
        )


class NothingReadError(AdapterError):
    """None of several adapters could be read; `refused` holds (source, sentence) of each.

    Parameters
    ----------
    refused
        Source and reason of every adapter.

    Examples
    --------
    >>> print(NothingReadError((("a", "a is empty: fetch it again"), ("b", "b is empty: fetch it again"))))
    none of 2 adapters could be read: a is empty: fetch it again (and 1 more)
    """

    def __init__(self, refused: tuple[tuple[str, str], ...]) -> None:
        self.refused = refused
        sentences = list(dict.fromkeys(sentence for _, sentence in refused))
        more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
        many = f"none of {len(refused)} adapters could be read: " if len(refused) > 1 else ""
        super().__init__(f"{many}{sentences[0]}{more}")
