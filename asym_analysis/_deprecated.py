"""Names and arguments of the last release, which keep working for one more with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

__all__ = ["FormerTable", "former_order", "renamed_arguments", "warn"]

F = TypeVar("F", bound=Callable[..., Any])


def warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that a name is deprecated.

    Parameters
    ----------
    old, new : str
        What was used, and what to use.
    stacklevel : int, default 3
        Frames between here and the caller's line; 3 from a function that the caller called.
    """
    warnings.warn(
        f"{old} is deprecated and goes in the next release: use {new}", DeprecationWarning, stacklevel=stacklevel
    )


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Let a function take arguments by their old names.

    Parameters
    ----------
    **names : str
        Old name -> new name.

    Returns
    -------
    callable
        A decorator.

    Raises
    ------
    TypeError
        At a call that gives both names.

    Examples
    --------
    >>> @renamed_arguments(table="result")
    ... def draw(result):
    ...     return result
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     draw(table=1)
    1
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for old in names.keys() & options.keys():
                if names[old] in options:
                    raise TypeError(f"{function.__name__} got {old} and {names[old]}, which are one: give {names[old]}")
                warn(f"the argument {old} of {function.__name__}", names[old])
                options[names[old]] = options.pop(old)
            return function(*args, **options)

        return cast(F, call)

    return decorate


def former_order(*names: str) -> Callable[[F], F]:
    """Let a plotting function take positional arguments in their old order, in which `ax` was not the second.

    Parameters
    ----------
    *names : str
        The old order of the arguments after the first; the last is "ax".

    Returns
    -------
    callable
        A decorator.

    Examples
    --------
    >>> @former_order("x", "ax")
    ... def draw(result, ax=None, *, x=None):
    ...     return result, ax, x
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     draw(1, "rank")
    (1, None, 'rank')
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if len(args) > 2 or (len(args) == 2 and isinstance(args[1], str | list | tuple)):
                given = dict(zip(names, args[1:], strict=False))
                warn(f"{function.__name__}(result, {', '.join(names)})", f"{names[0]}=... by its name")
                return function(args[0], **given, **options)
            return function(*args, **options)

        return cast(F, call)

    return decorate


class FormerTable:
    """Mixin of results that the last release returned as a bare DataFrame, whose columns and methods still answer."""

    if not TYPE_CHECKING:

        def __getitem__(self, key: Any) -> Any:
            warn(f"{type(self).__name__}[...]", ".frame[...]")
            return self.frame[key]

        def __len__(self) -> int:
            warn(f"len({type(self).__name__})", "len(result.frame)")
            return len(self.frame)

        def __bool__(self) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in ("frame", "settings"):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            try:
                value = getattr(self.frame, name)
            except AttributeError:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None
            warn(f"{type(self).__name__}.{name}", f".frame.{name}")
            return value
